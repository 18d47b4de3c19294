"""Reserving memory for chunks on their way in."""

from __future__ import annotations

import time
from collections.abc import Callable

from dfs.errors import PayloadTooLarge
from dfs.wire.buffers import Buffer, BufferPool

WAIT = 30.0
"""Seconds that an upload waits for memory before it is told to come back."""

WAIT_AGAIN = 55.0
"""The same for one that has begun and stood back for others: its client's patience is a minute."""

TURN = 1.0
"""Seconds after which an upload stands back if others wait."""


def reserve(buffers: BufferPool, size: int) -> Buffer:
    """`size` bytes; raises Busy when none came free in time, PayloadTooLarge when there never will be
    so many (the upload began when the settings were other ones)."""
    return buffers.acquire(_possible(buffers, size), WAIT)


class Turn:
    """One upload's place among those that want memory: chunk after chunk while there is enough for
    all, and by turns of a second when there is not."""

    def __init__(self, buffers: BufferPool, size: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._buffers = buffers
        self._size = size
        self._clock = clock
        self._since: float | None = None

    def reserve(self) -> Buffer:
        """Memory, for an upload that holds none; raises as the function does."""
        begun = self._since is not None
        size = _possible(self._buffers, self._size)
        buffer = self._buffers.acquire(size, WAIT_AGAIN if begun else WAIT, begun=begun)
        self._since = self._clock()
        return buffer

    def over(self) -> bool:
        """Whether others wait and this one has had its time."""
        if not self._buffers.waiting or self._since is None:
            return False
        return self._clock() - self._since >= TURN


def _possible(buffers: BufferPool, size: int) -> int:
    if size > buffers.total:
        raise PayloadTooLarge(f"chunks of {size} bytes do not fit into DFS_BUFFER_BYTES={buffers.total} of this server")
    return size
