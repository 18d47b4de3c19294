"""One bounded piece of memory, lent out in whole reservations, first come first served."""

from __future__ import annotations

import threading
import time
from collections import deque
from types import TracebackType

from dfs.errors import Busy

_ALIGN = 64


class Buffer:
    """A reservation. `view` is exactly as long as asked for and writable.

    Its contents are whatever the last user left. `release()` gives the memory back (once; more calls
    do nothing); the caller must not use `view`, or slices of it, afterwards.
    """

    __slots__ = ("_pool", "_span", "view")

    def __init__(self, pool: BufferPool, span: tuple[int, int], view: memoryview) -> None:
        self._pool: BufferPool | None = pool
        self._span = span
        self.view = view

    def release(self) -> None:
        """Give the memory back to the pool."""
        pool, self._pool = self._pool, None
        if pool is not None:
            self.view.release()
            pool._give_back(*self._span)

    def __enter__(self) -> Buffer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class _Waiter:
    __slots__ = ("buffer", "granted", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.granted = threading.Event()
        self.buffer: Buffer | None = None


class BufferPool:
    """`total` bytes (rounded up to 64), reserved once; pages cost memory only once used.

    A reservation is one contiguous stretch, found first-fit. Waiters are served strictly in order,
    so a big reservation is never starved by small ones.
    """

    def __init__(self, total: int) -> None:
        if total < 1:
            raise ValueError("a buffer pool needs at least one byte")
        self.total = total
        size = -(-total // _ALIGN) * _ALIGN
        self._memory = memoryview(bytearray(size))
        self._free: list[tuple[int, int]] = [(0, size)]  # (start, end), ascending, never touching
        self._lock = threading.Lock()
        self._waiters: deque[_Waiter] = deque()

    @property
    def waiting(self) -> int:
        """How many callers wait for memory now."""
        return len(self._waiters)

    @property
    def free_bytes(self) -> int:
        """Bytes that are not lent out."""
        with self._lock:
            return sum(end - start for start, end in self._free)

    def acquire(self, size: int, timeout: float) -> Buffer:
        """A buffer of `size` bytes, waiting up to `timeout` seconds behind those who came before.

        Raises Busy when the time is over, ValueError when `size` could never be had.
        """
        self._check(size)
        with self._lock:
            if not self._waiters:
                found = self._take(size)
                if found is not None:
                    return found
            waiter = _Waiter(size)
            self._waiters.append(waiter)
        started = time.monotonic()
        waiter.granted.wait(timeout)
        with self._lock:
            if waiter.buffer is not None:
                return waiter.buffer
            self._waiters.remove(waiter)
            self._serve()  # whoever stood behind may fit
        waited = time.monotonic() - started
        raise Busy(f"no memory for {size} more bytes of uploads after {waited:.1f} s; the server is busy")

    def try_acquire(self, size: int) -> Buffer | None:
        """A buffer of `size` bytes if it is free and nobody waits, else None."""
        self._check(size)
        with self._lock:
            return None if self._waiters else self._take(size)

    def _check(self, size: int) -> None:
        if not 0 <= size <= self.total:
            raise ValueError(f"{size} bytes can never be had from a pool of {self.total}")

    def _take(self, size: int) -> Buffer | None:
        """First fit, or None; the lock is held."""
        need = -(-size // _ALIGN) * _ALIGN
        for at, (start, end) in enumerate(self._free):
            if end - start >= need:
                if end - start == need and need:
                    del self._free[at]
                else:
                    self._free[at] = (start + need, end)
                return Buffer(self, (start, start + need), self._memory[start : start + size])
        return Buffer(self, (0, 0), self._memory[:0]) if not need else None

    def _serve(self) -> None:
        """Grant what fits, in order; the lock is held."""
        while self._waiters:
            found = self._take(self._waiters[0].size)
            if found is None:
                return
            waiter = self._waiters.popleft()
            waiter.buffer = found
            waiter.granted.set()

    def _give_back(self, start: int, end: int) -> None:
        with self._lock:
            if end > start:
                free = self._free
                at = 0
                while at < len(free) and free[at][0] < start:
                    at += 1
                if at < len(free) and free[at][0] == end:
                    end = free.pop(at)[1]
                if at and free[at - 1][1] == start:
                    start = free.pop(at - 1)[0]
                    at -= 1
                free.insert(at, (start, end))
            self._serve()
