"""What the index keeps of a record."""

from __future__ import annotations

from typing import Any, NamedTuple

from dfs.store.chunk import StoredChunk
from dfs.store.record import Record

Key = tuple[bytes, int]
"""A chunk: the 16 bytes of its file_id, and its index."""


def file_name(file_id: bytes) -> str:
    """A file's id as callers know it."""
    name = file_id.hex()
    return f"{name[:8]}-{name[8:12]}-{name[12:16]}-{name[16:20]}-{name[20:]}"


class Entry(NamedTuple):
    """Where a record lies and what lookups need of it. `size` is the whole record's."""

    kind: int
    file_id: bytes
    chunk_index: int
    volume: int
    offset: int
    size: int
    sequence: int
    created: int
    length: int
    checksum: bytes
    chunk_size: int
    file_size: int | None

    @property
    def key(self) -> Key:
        return self.file_id, self.chunk_index

    def stored(self, piece_crcs: tuple[int, ...] = (), verified: int | None = None) -> StoredChunk:
        """The chunk as callers know it."""
        return StoredChunk(
            file_id=file_name(self.file_id),
            chunk_index=self.chunk_index,
            length=self.length,
            checksum=self.checksum.hex(),
            chunk_size=self.chunk_size,
            file_size=self.file_size,
            sequence=self.sequence,
            created=self.created,
            piece_crcs=piece_crcs,
            verified=verified,
        )


def entry_of(record: Record, volume: int) -> Entry:
    """The entry of a record that was read from volume file number `volume`."""
    attributes: dict[str, Any] = record.attributes
    chunk_size, file_size = attributes.get("chunk_size", 0), attributes.get("file_size")
    return Entry(
        kind=int(record.kind),
        file_id=record.file_id,
        chunk_index=record.chunk_index,
        volume=volume,
        offset=record.offset,
        size=record.size,
        sequence=record.sequence,
        created=record.created,
        length=record.length,
        checksum=record.sha256,
        chunk_size=chunk_size if isinstance(chunk_size, int) else 0,
        file_size=file_size if isinstance(file_size, int) else None,
    )
