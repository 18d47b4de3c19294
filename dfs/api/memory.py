"""Reserving memory for chunks on their way in."""

from __future__ import annotations

from dfs.errors import PayloadTooLarge
from dfs.wire.buffers import Buffer, BufferPool

WAIT = 30.0
"""Seconds that an upload waits for memory before it is told to come back."""


def reserve(buffers: BufferPool, size: int) -> Buffer:
    """`size` bytes; raises Busy when none came free in time, PayloadTooLarge when there never will be
    so many (the upload began when the settings were other ones)."""
    if size > buffers.total:
        raise PayloadTooLarge(f"chunks of {size} bytes do not fit into DFS_BUFFER_BYTES={buffers.total} of this server")
    return buffers.acquire(size, WAIT)
