"""A bounded cache of small chunks, whole and verified.

The bytes of a chunk never change, so an entry cannot become wrong, only outlive its file. It is used
for no longer than the rows it was read by may be, and says nothing of whether a file exists: heads and
states are read all the same.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

LARGEST = 64 * 1024
"""Bytes of the largest chunk kept."""

ENTRY_BYTES = 512
"""What an entry costs besides its bytes: key, checksum, objects, its place in the table (measured)."""


class CachedChunk(NamedTuple):
    """A whole chunk, and until when (on the cache's clock) it may be used."""

    until: float
    checksum: str
    data: bytes


class ChunkCache:
    """At most `total` bytes of chunks (0: none), the ones used last. Thread-safe."""

    def __init__(self, total: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._total = total
        self._clock = clock
        self._lock = threading.Lock()
        self._chunks: OrderedDict[tuple[str, int], CachedChunk] = OrderedDict()
        self._held = 0

    def takes(self, length: int) -> bool:
        """Whether a chunk of `length` bytes would be kept."""
        return length <= LARGEST and length + ENTRY_BYTES <= self._total

    def get(self, file_id: str, chunk_index: int) -> CachedChunk | None:
        """The chunk, if it is here and its time is not over."""
        key = (file_id, chunk_index)
        with self._lock:
            found = self._chunks.get(key)
            if found is None:
                return None
            if found.until > self._clock():
                self._chunks.move_to_end(key)
                return found
            self._drop(key)
        return None

    def put(
        self, file_id: str, chunk_index: int, checksum: str, data: bytes | bytearray | memoryview, until: float
    ) -> None:
        """Keep a whole chunk that was verified, until `until`; its bytes are copied unless they are
        `bytes`, which nobody can change. Too large a chunk is not kept."""
        if not self.takes(len(data)):
            return
        key = (file_id, chunk_index)
        chunk = CachedChunk(until, checksum, bytes(data))
        with self._lock:
            self._drop(key)
            self._chunks[key] = chunk
            self._held += len(chunk.data) + ENTRY_BYTES
            while self._held > self._total:
                self._drop(next(iter(self._chunks)))

    def forget(self, file_id: str, chunk_index: int) -> None:
        """Do not use what is kept of this chunk."""
        with self._lock:
            self._drop((file_id, chunk_index))

    @property
    def held(self) -> int:
        """Bytes that the entries take."""
        return self._held

    def _drop(self, key: tuple[str, int]) -> None:
        dropped = self._chunks.pop(key, None)
        if dropped is not None:
            self._held -= len(dropped.data) + ENTRY_BYTES
