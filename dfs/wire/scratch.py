"""Buffers for bodies on their way through, used again: fresh memory costs a page fault every 4 KiB."""

from __future__ import annotations

import threading


class ScratchPool:
    """Lends buffers of `size` bytes; at most `idle` of them wait for the next user. Thread-safe.

    As many are lent as are asked for: what bounds them is the number of those who ask.
    """

    def __init__(self, size: int, idle: int) -> None:
        self._size = size
        self._most = idle
        self._lock = threading.Lock()
        self._idle: list[memoryview] = []

    def take(self) -> memoryview:
        """A buffer; it holds whatever its last user left."""
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return memoryview(bytearray(self._size))

    def give_back(self, buffer: memoryview) -> None:
        """Neither the buffer nor any slice of it is used any more."""
        with self._lock:
            if len(self._idle) < self._most:
                self._idle.append(buffer)
