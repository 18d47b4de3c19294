"""The buffers of one upload, and the chunk writes that still use them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

from dfs.api.memory import Turn
from dfs.cluster.replicate import Written
from dfs.wire.buffers import Buffer, BufferPool

MOST_IN_FLIGHT = 16
BYTES_IN_FLIGHT = 16 << 20


class Inflow:
    """Buffers of one size: one being filled, the others behind writes under way, in order.

    The first reservation may wait; every further one is taken only if it is free at once, else a
    buffer of this upload is used again. So no upload ever waits for memory while it holds some, and
    none can block another for ever. While others wait for memory an upload keeps one buffer, and
    queues behind them when its turn is over. `done` is told what each write came to, in the order in
    which they began.
    """

    def __init__(self, pool: BufferPool, size: int, done: Callable[[Written], None]) -> None:
        self._pool = pool
        self._size = size
        self._turn = Turn(pool, size)
        self._done = done
        self._depth = max(2, min(MOST_IN_FLIGHT, BYTES_IN_FLIGHT // size))
        self._running: deque[tuple[Future[Written], Buffer]] = deque()
        self._spare: list[Buffer] = []

    def buffer(self) -> Buffer:
        """A buffer to fill: hand it to `start` or `give_back`. Raises Busy, and what a write raised."""
        while self._running and self._running[0][0].done():
            self._finish_oldest()
        if self._pool.waiting:
            self._stand_back()
        while len(self._spare) > 1:
            self._spare.pop().release()
        if not self._spare and not self._running:
            return self._turn.reserve()
        if not self._spare and len(self._running) < self._depth:
            more = self._pool.try_acquire(self._size)
            if more is not None:
                return more
        if not self._spare:
            self._finish_oldest()
        return self._spare.pop()

    def give_back(self, buffer: Buffer) -> None:
        """The buffer is not in use."""
        self._spare.append(buffer)

    def start(self, buffer: Buffer, write: Future[Written]) -> None:
        """A write of the buffer's content has begun."""
        self._running.append((write, buffer))

    def finish(self) -> None:
        """Wait for all writes and return the memory; raises what a write raised."""
        while self._running:
            self._finish_oldest()
        self.close()

    def close(self) -> None:
        """Stop what has not begun, wait for the rest, return the memory. Does not raise."""
        for write, _ in self._running:
            write.cancel()
        for write, buffer in self._running:
            if not write.cancelled():
                write.exception()
            buffer.release()
        self._running.clear()
        while self._spare:
            self._spare.pop().release()

    def _stand_back(self) -> None:
        while self._running:
            self._finish_oldest()
            while len(self._spare) > 1:
                self._spare.pop().release()
        if self._spare and self._turn.over():
            self._spare.pop().release()

    def _finish_oldest(self) -> None:
        write, buffer = self._running[0]
        written = write.result()
        self._running.popleft()
        self._spare.append(buffer)
        self._done(written)
