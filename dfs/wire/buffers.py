"""Memory for bodies, bounded and lent out in whole reservations; who has to wait, waits in a queue.

`shares` decides who is next and `regions` holds the bytes. A reservation is had whole or not at all,
so no two requests can each hold half of what the other needs. A transfer must not wait for memory
while it holds some: it uses `try_acquire`, which yields to all who wait.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from types import TracebackType

from dfs.errors import Busy
from dfs.wire.regions import TINY, Regions, rounded
from dfs.wire.shares import Share, Shares, Ticket

MOST_WAITING = 192
"""Most callers that wait at once: each keeps a worker from all else."""

DOUBT = 3.0
"""Whoever would wait this many times longer than it can is told at once."""

LONGEST_RETRY = 30
"""Most seconds after which a caller is asked to come back."""


class Buffer:
    """A reservation. `view` is exactly as long as asked for and writable.

    Its contents are whatever the last user left. `release()` gives the memory back (once; more calls
    do nothing); the caller must not use `view`, or slices of it, afterwards.
    """

    __slots__ = ("_need", "_pool", "_region", "_share", "view")

    def __init__(
        self, pool: BufferPool, share: Share, need: int, region: memoryview | None, view: memoryview
    ) -> None:
        self._pool: BufferPool | None = pool
        self._share = share
        self._need = need
        self._region = region
        self.view = view

    def release(self) -> None:
        """Give the memory back to the pool."""
        pool, self._pool = self._pool, None
        if pool is not None:
            self.view.release()
            region, self._region = self._region, None
            pool._give_back(self._share, self._need, region)

    def __enter__(self) -> Buffer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class _Waiter:
    __slots__ = ("gate", "ticket")

    def __init__(self, ticket: Ticket) -> None:
        self.ticket = ticket
        self.gate = threading.Lock()
        self.gate.acquire()


class BufferPool:
    """At most `total` bytes (rounded up to 64) at any time; thread-safe.

    Small, medium and large reservations each have a part of their own (see `shares`): a small one
    never waits for large ones. Among equals the order is that of asking. Pages cost memory only once
    used, and stay for the next use.
    """

    def __init__(
        self,
        total: int,
        *,
        most_waiting: int = MOST_WAITING,
        clock: Callable[[], float] = time.monotonic,
        regions: Regions | None = None,
    ) -> None:
        """`most_waiting` callers may wait at once. `regions` is the seam for tests."""
        if total < 1:
            raise ValueError("a buffer pool needs at least one byte")
        self.total = total
        self._most_waiting = most_waiting
        self._clock = clock
        self._shares = Shares(-(-total // 64) * 64)
        self._regions = regions or Regions()
        self._lock = threading.Lock()
        self._waiters: dict[Ticket, _Waiter] = {}

    @property
    def waiting(self) -> int:
        """How many callers wait for memory now."""
        return self._shares.waiting

    @property
    def free_bytes(self) -> int:
        """Bytes that are not lent out."""
        return self._shares.total - self._shares.lent

    def acquire(self, size: int, timeout: float, *, begun: bool = False) -> Buffer:
        """A buffer of `size` bytes, waiting up to `timeout` seconds behind those who came before.

        Raises Busy when the time is over, ValueError when `size` could never be had. Busy is also
        raised at once when `most_waiting` wait already, or when by the rate at which others are being
        served the wait would be several times the timeout; not so when the caller says that its work
        has `begun`, which would be lost. Busy says after how many seconds to come back.
        """
        share, need = self._measure(size)
        with self._lock:
            admitted = not need or self._shares.admits(share, need)
            if admitted:
                self._shares.take(share, need)
            else:
                waiter = self._queue(share, need, timeout, begun)
        if not admitted:
            self._wait(waiter, size, timeout)
        return self._made(share, need, size)

    def try_acquire(self, size: int) -> Buffer | None:
        """A buffer of `size` bytes if it is free and nobody waits, else None."""
        share, need = self._measure(size)
        with self._lock:
            if need and (self._shares.waiting or not self._shares.admits(share, need)):
                return None
            self._shares.take(share, need)
        return self._made(share, need, size)

    def _measure(self, size: int) -> tuple[Share, int]:
        """The share of a reservation and the bytes that it takes up."""
        if not 0 <= size <= self.total:
            raise ValueError(f"{size} bytes can never be had from a pool of {self.total}")
        need = rounded(size)
        return self._shares.share_of(size), need if need <= self.total else self._shares.total

    def _queue(self, share: Share, need: int, timeout: float, begun: bool) -> _Waiter:
        """A place in the queue; the lock is held. Raises Busy when there is no sense in waiting."""
        now = self._clock()
        expected = share.expected_wait(need, now)
        if not begun:
            if self._shares.waiting >= self._most_waiting:
                raise _busy(f"{self._shares.waiting} requests wait for memory already", expected)
            if expected is not None and expected > DOUBT * timeout:
                raise _busy(f"{need} bytes of memory would take about {expected:.0f} s to come free", expected)
        ticket = self._shares.queue(share, need, now)
        waiter = self._waiters[ticket] = _Waiter(ticket)
        return waiter

    def _wait(self, waiter: _Waiter, size: int, timeout: float) -> None:
        """Return when `waiter` was served; raises Busy when it was not in time."""
        started = self._clock()
        if waiter.gate.acquire(timeout=timeout):
            return
        ticket = waiter.ticket
        with self._lock:
            if ticket.granted:  # at the last moment
                return
            expected = ticket.share.expected_wait(0, self._clock())
            del self._waiters[ticket]
            self._shares.leave(ticket)
            self._serve()  # whoever stood behind may fit
        waited = self._clock() - started
        raise _busy(f"no memory for {size} more bytes of uploads after {waited:.1f} s", expected)

    def _made(self, share: Share, need: int, size: int) -> Buffer:
        """The buffer of a reservation that the books show already."""
        region = None
        try:
            if need <= TINY:
                view = memoryview(bytearray(size))
            else:
                with self._lock:
                    region = self._regions.take(need)
                    self._regions.shrink(self._shares.total - self._shares.lent)
                view = region[:size]
        except (MemoryError, OSError) as error:
            self._give_back(share, need, None)
            raise _busy(f"this machine has no memory for {size} more bytes ({error})", None) from error
        return Buffer(self, share, need, region, view)

    def _give_back(self, share: Share, need: int, region: memoryview | None) -> None:
        with self._lock:
            if region is not None:
                self._regions.give(region)
            self._shares.give(share, need)
            if self._shares.waiting:
                self._serve()

    def _serve(self) -> None:
        """Let in whoever can be served; the lock is held."""
        now = self._clock()
        while (ticket := self._shares.serve(now)) is not None:
            self._waiters.pop(ticket).gate.release()


def _busy(why: str, expected: float | None) -> Busy:
    """`expected` is the wait that a newcomer has before it, seconds."""
    after = 1 if expected is None else max(1, min(LONGEST_RETRY, math.ceil(expected)))
    return Busy(f"{why}; the server is busy", retry_after=after)
