"""Whether an index says what the volume files say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dfs.store.index import Index

_TABLES = {
    "chunk": "SELECT file_id, chunk_index, sequence, volume, offset, kind, size, length, checksum FROM chunks ORDER BY 1, 2",
    "erased file": "SELECT file_id, 0, sequence, volume, offset, size FROM erased ORDER BY 1",
    "note": "SELECT checksum, 0, sequence, volume, offset, size, file_id FROM notes ORDER BY 1",
    "superseded record": "SELECT file_id, chunk_index, 0, volume, 0 FROM dead ORDER BY 1, 2, 4",
}
_MOST = 1000
Row = tuple[Any, ...]


def compare_indexes(found: Index, fresh: Index) -> list[str]:
    """What is wrong with `found`, measured by `fresh`, which was made from the volumes: at most a
    thousand sentences. Raises sqlite3.Error."""
    wrong: list[str] = []
    for name, query in _TABLES.items():
        for row, in_found in _differences(found.rows(query), fresh.rows(query)):
            if len(wrong) >= _MOST:
                return wrong
            key = f"{row[0].hex() if isinstance(row[0], bytes) else row[0]!r}, {row[1]}"
            place = f"volume {row[3]} at {row[4]}"
            says = "it names, but it is not there" if in_found else "is there, but it does not name it"
            wrong.append(f"{name} {key} in {place} {says}")
    return wrong


def _differences(found: Iterator[Row], fresh: Iterator[Row]) -> Iterator[tuple[Row, bool]]:
    """Rows that only one of two sorted streams has, and whether it is the first."""
    old, new = next(found, None), next(fresh, None)
    while old is not None or new is not None:
        if old == new:
            old, new = next(found, None), next(fresh, None)
        elif new is None or (old is not None and _order(old) <= _order(new)):
            assert old is not None
            yield old, True
            old = next(found, None)
        else:
            yield new, False
            new = next(fresh, None)


def _order(row: Row) -> tuple[bytes, int, int]:
    """As SQLite sorts the queries above; rows of a damaged index may hold anything."""
    first = row[0] if isinstance(row[0], bytes) else b""
    second, third = (value if isinstance(value, int) else -1 for value in (row[1], row[3]))
    return first, second, third
