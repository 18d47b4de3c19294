"""Replica rows of chunks about to be read, and a bounded cache of them.

Only rows are cached: what they say of a chunk's content never changes, and where it lies is a hint
that the read itself checks. Entries are used for less than the time for which deleted bytes stay.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from dfs.errors import CorruptChunk, Unavailable
from dfs.metadata.contract import MetadataStore
from dfs.model import ChunkReplica

PAGE = 256
"""Chunks whose rows are read in one query."""

PATIENCE = 45.0
"""Seconds for which a read that has begun waits for metadata that cannot be reached. Clients give up
after a minute without a byte."""

_PAUSE = 0.2

MOST_CHUNKS = 32_768
"""Chunks in the cache; about 400 bytes each."""


@dataclass(frozen=True, slots=True)
class ChunkRows:
    """What the rows of one chunk say. `nodes` hold it; `until` is how long (on the reader's clock) what
    was learnt from the rows may be used."""

    checksum: str
    length: int
    nodes: tuple[str, ...]
    until: float = float("-inf")


class RowReader:
    """Reads rows consistently, and remembers them for `keep` seconds (0: not at all). Thread-safe."""

    def __init__(
        self,
        store: MetadataStore,
        keep: float,
        *,
        most: int = MOST_CHUNKS,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._store = store
        self._pause = pause
        self._keep = keep
        self._most = most
        self._clock = clock
        self._lock = threading.Lock()
        self._cache: OrderedDict[tuple[str, int], ChunkRows] = OrderedDict()

    def chunk(
        self, file_id: str, chunk_index: int, last: int | None = None, *, begun: bool = False
    ) -> ChunkRows | None:
        """The chunk's rows, None when it has none. `last` announces that the chunks up to it will be
        wanted next: on a miss theirs are read in the same query, PAGE at a time. `begun`: the answer
        they are for has begun and can no longer be refused, so metadata that is away is waited for.

        Raises CorruptChunk when the rows of this chunk contradict each other.
        """
        key = (file_id, chunk_index)
        with self._lock:
            cached = self._cache.get(key)
            if cached is not None and cached.until > self._clock():
                self._cache.move_to_end(key)
                return cached
        end = chunk_index if last is None else max(chunk_index, min(last, chunk_index + PAGE - 1))
        give_up = self._clock() + PATIENCE if begun else float("-inf")
        while True:
            try:
                return self._read(file_id, chunk_index, end)
            except Unavailable:
                if self._clock() >= give_up:
                    raise
            self._pause(_PAUSE)

    def known(self, file_id: str, chunk_index: int) -> ChunkRows | None:
        """The chunk's rows, if they are remembered."""
        with self._lock:
            cached = self._cache.get((file_id, chunk_index))
        return cached if cached is not None and cached.until > self._clock() else None

    def fresh(self, file_id: str, chunk_index: int) -> ChunkRows | None:
        """As `chunk`, read now."""
        self.forget(file_id, chunk_index)
        return self._read(file_id, chunk_index, chunk_index)

    def one(self, file_id: str, chunk_index: int, node_id: str) -> ChunkRows | None:
        """The chunk's row for `node_id` alone, by the cheapest read there is; None when there is none."""
        until = self.keep_until()
        row = self._store.replica(file_id, chunk_index, node_id)
        return None if row is None else ChunkRows(row.checksum, row.length, (row.node_id,), until)

    def keep_until(self) -> float:
        """How long what is learnt from now on may be used."""
        return self._clock() + self._keep

    def forget(self, file_id: str, chunk_index: int) -> None:
        """Do not use what is remembered of this chunk."""
        with self._lock:
            self._cache.pop((file_id, chunk_index), None)

    def _read(self, file_id: str, first: int, last: int) -> ChunkRows | None:
        # Counted from before the read: what it returns may be this old.
        until = self.keep_until()
        wanted: ChunkRows | None = None
        for chunk_index, rows in _by_chunk(self._store.replicas(file_id, first, last)):
            joined = _join(rows, until)
            if chunk_index == first:
                if joined is None:
                    raise CorruptChunk(f"the replica rows of chunk {first} of {file_id} contradict each other")
                wanted = joined
            if joined is not None and self._keep > 0:
                self._remember((file_id, chunk_index), joined)
        return wanted

    def _remember(self, key: tuple[str, int], rows: ChunkRows) -> None:
        with self._lock:
            self._cache[key] = rows
            self._cache.move_to_end(key)
            while len(self._cache) > self._most:
                self._cache.popitem(last=False)


def _by_chunk(rows: Iterable[ChunkReplica]) -> Iterator[tuple[int, list[ChunkReplica]]]:
    for chunk_index, group in groupby(rows, key=lambda row: row.chunk_index):
        yield chunk_index, list(group)


def _join(rows: list[ChunkReplica], until: float) -> ChunkRows | None:
    """None when they disagree on the bytes."""
    first = rows[0]
    if any((row.checksum, row.length) != (first.checksum, first.length) for row in rows):
        return None
    return ChunkRows(first.checksum, first.length, tuple(row.node_id for row in rows), until)
