"""What upkeep asks the index: the records that stand, page by page, the bad chunks, facts kept for others.

Raise sqlite3.Error and IndexDamaged.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dfs.store.chunk import BadChunk
from dfs.store.entry import Entry, Key, file_name
from dfs.store.index import Index, IndexDamaged, entry_of_row
from dfs.store.index_change import COLUMNS, NO_RECORD, row_crc
from dfs.store.record import Kind

ASIDE_KNOWN = "set_aside"
"""The fact that an index knows of the chunks that were set aside before it was made."""


def live_bytes(index: Index) -> int:
    """Bytes of all records that stand."""
    return sum(row.live for row in index.volumes.values())


def chunk_records(index: Index, after: int, upto: int, limit: int) -> list[Entry]:
    """DATA and DROP records that stand, with a sequence above `after` and at most `upto`, in its order."""
    rows = index.select(
        f"SELECT {COLUMNS}, crc FROM chunks INDEXED BY chunks_sequence WHERE sequence > ? AND sequence <= ? "
        "ORDER BY sequence LIMIT ?",
        (after, upto, limit),
    )
    return [entry_of_row(row) for row in rows]


def note_records(index: Index, after: int, upto: int, limit: int) -> list[Entry]:
    """The same of NOTE records."""
    rows = index.select(
        "SELECT sequence, file_id, checksum, volume, offset, size, crc FROM notes WHERE sequence > ? AND sequence <= ? "
        "ORDER BY sequence LIMIT ?",
        (after, upto, limit),
    )
    return [
        Entry(int(Kind.NOTE), file_id, 0, volume, offset, size, sequence, 0, 0, checksum, 0, None)
        for sequence, file_id, checksum, volume, offset, size in map(_checked, rows)
    ]


def erase_records(index: Index, after: bytes, upto: int, limit: int) -> list[Entry]:
    """ERASE records that stand, of file ids above `after`, with a sequence of at most `upto`, in the order of
    the file ids."""
    rows = index.select(
        "SELECT file_id, volume, offset, size, sequence, created, crc FROM erased WHERE file_id > ? AND sequence <= ? "
        "ORDER BY file_id LIMIT ?",
        (after, upto, limit),
    )
    return [
        Entry(int(Kind.ERASE), file_id, 0, volume, offset, size, sequence, created, 0, bytes(32), 0, None)
        for file_id, volume, offset, size, sequence, created in map(_checked, rows)
    ]


def bad_chunks(index: Index, after: Key | None, limit: int) -> list[BadChunk]:
    """Chunks that are bad on the disk, of keys above `after`, in their order."""
    rows = index.select(
        "SELECT file_id, chunk_index, sequence, found, why, crc FROM bad WHERE (file_id, chunk_index) > (?, ?) "
        "ORDER BY file_id, chunk_index LIMIT ?",
        (*(after or (b"", -1)), limit),
    )
    return [
        BadChunk(file_name(file_id), chunk_index, found, why)
        for file_id, chunk_index, _, found, why in map(_checked, rows)
    ]


def _checked(row: tuple[Any, ...]) -> tuple[Any, ...]:
    if row_crc(*row[:-1]) != row[-1]:
        raise IndexDamaged(f"it holds a damaged row: {row!r}")
    return row[:-1]


def fact(index: Index, name: str) -> str | None:
    """What `apply` was last given as that fact."""
    rows = index.select("SELECT value FROM facts WHERE name = ?", (name,))
    return str(rows[0][0]) if rows else None


def is_bad(index: Index, key: Key) -> bool:
    """Whether the chunk is among those."""
    return bool(index.bad and index.select("SELECT 1 FROM bad WHERE file_id = ? AND chunk_index = ?", key))


def recall_bad(index: Index, aside: Iterable[tuple[int, int, Key]], now: int) -> None:
    """Tell an index that was made anew which chunks are bad: those whose standing record, by volume and
    offset, has a copy in `set-aside/`, and those that have one there and no record any more (its header was
    damaged). Does nothing to an index that knows."""
    if fact(index, ASIDE_KNOWN) is not None:
        return
    found = []
    for volume, offset, key in aside:
        erased, standing = index.lookup(key)
        if erased:
            continue
        if standing is None:
            found.append((key, NO_RECORD, now, "its record was damaged and set aside"))
        elif standing.kind == Kind.DATA and (standing.volume, standing.offset) == (volume, offset):
            found.append((key, standing.sequence, now, "its record was set aside before the index was made"))
    index.apply((), bad=found, facts={ASIDE_KNOWN: "known"})


def names(index: Index, entry: Entry) -> bool:
    """Whether this very record is what the index has of its key: of a chunk, an erased file, a note."""
    table, column, key = {
        Kind.DATA: ("chunks", "file_id", entry.file_id),
        Kind.DROP: ("chunks", "file_id", entry.file_id),
        Kind.ERASE: ("erased", "file_id", entry.file_id),
        Kind.NOTE: ("notes", "sequence", entry.sequence),
    }[Kind(entry.kind)]
    found = index.select(
        f"SELECT 1 FROM {table} WHERE {column} = ? AND sequence = ? AND volume = ? AND offset = ?",
        (key, entry.sequence, entry.volume, entry.offset),
    )
    return bool(found)
