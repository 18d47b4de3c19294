"""What the replica rows of a file say about its chunks, in one pass and one byte a chunk: pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice

from dfs.errors import ChunkConflict, Incomplete
from dfs.model import ChunkReplica, chunk_length

_MOST_COPIES = 255
_RANGES_IN_ERROR = 1000


@dataclass(slots=True)
class Tally:
    """Copies of each chunk, and what does not fit.

    `conflicts` counts chunks whose rows disagree with each other or with the chunk's length, and
    rows of chunks that the file does not have; `conflict` describes the first.
    """

    copies: bytearray
    conflicts: int = 0
    conflict: str = ""
    first_checksum: str | None = None

    def missing(self, required: int) -> Iterator[tuple[int, int]]:
        """Ranges (first, last) of chunks with fewer than `required` copies, in order."""
        start: int | None = None
        for index, copies in enumerate(self.copies):
            if copies < required:
                if start is None:
                    start = index
            elif start is not None:
                yield start, index - 1
                start = None
        if start is not None:
            yield start, len(self.copies) - 1

    def fewest(self) -> int:
        """Copies of the chunk that has the fewest."""
        return min(self.copies, default=0)

    def check(self, required: int) -> None:
        """Raise ChunkConflict or Incomplete unless every chunk has `required` agreeing copies."""
        if self.conflicts:
            raise ChunkConflict(
                f"{self.conflict}; upload the file again under a new file_id",
                details={"chunks_in_conflict": self.conflicts},
            )
        ranges = list(islice(self.missing(required), _RANGES_IN_ERROR))
        if ranges:
            lacking = sum(1 for copies in self.copies if copies < required)
            raise Incomplete(
                f"{lacking} of {len(self.copies)} chunks are not stored yet",
                details={"missing": [list(pair) for pair in ranges], "missing_chunks": lacking},
            )


def count_copies(rows: Iterable[ChunkReplica], size: int, chunk_size: int, chunks: int) -> Tally:
    """Tally `rows` (in order of chunk_index) of a file of this shape.

    The one row of an empty file has index 0 and is expected, not a stray.
    """
    tally = Tally(bytearray(chunks))
    for index, group in groupby(rows, key=lambda row: row.chunk_index):
        nodes: set[str] = set()
        facts: set[tuple[str, int]] = set()
        for row in group:
            nodes.add(row.node_id)
            facts.add((row.checksum, row.length))
        problem = _problem(index, facts, size, chunk_size, chunks)
        if problem:
            tally.conflicts += 1
            tally.conflict = tally.conflict or problem
        if index == 0:
            tally.first_checksum = next(iter(facts))[0]
        if index < chunks:
            tally.copies[index] = min(len(nodes), _MOST_COPIES)
    return tally


def _problem(index: int, facts: set[tuple[str, int]], size: int, chunk_size: int, chunks: int) -> str:
    if index >= max(chunks, 1):
        return f"chunk {index} is stored, but the file has {chunks} chunks"
    if len(facts) > 1:
        return f"the replicas of chunk {index} hold different bytes"
    expected = chunk_length(size, chunk_size, index)
    length = next(iter(facts))[1]
    if length != expected:
        return f"chunk {index} is stored with {length} bytes, but has {expected}"
    return ""
