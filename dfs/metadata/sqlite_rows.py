"""Rows of the SQLite tables: records to tuples and back, and the statements that put many at once.

Every statement text is made once, so that sqlite3's statement cache knows it. Several rows go in by
one statement of 1, 2, 4, ... rows: each step of a statement gives up Python's lock, which costs
more than the row when other threads are waiting for it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import chain
from operator import attrgetter
from typing import Any

from dfs.metadata import keys
from dfs.metadata.steps import PutShort
from dfs.model import AdminState, ChunkReplica, FileRecord, FileState, Head, NodeInfo, NodeStatus

Row = tuple[Any, ...]

FILE_COLUMNS = keys.record_fields(FileRecord)
HEAD_COLUMNS = keys.record_fields(Head)
REPLICA_COLUMNS = keys.record_fields(ChunkReplica)
NODE_COLUMNS = keys.record_fields(NodeInfo)
SHORT_COLUMNS = ("file_id", "chunk_index", "gc", "gc_key")

MOST_PARAMETERS = 999
"""Parameters of one statement that every SQLite takes."""


def columns(names: Sequence[str]) -> str:
    """A column list."""
    return ", ".join(names)


def marks(count: int) -> str:
    """As many placeholders."""
    return ", ".join("?" * count)


# --- records and rows -----------------------------------------------------------------------------

# A plain str where an enum member would be converted by sqlite3, slowly, at every use.
_FILE_VALUES: Callable[[FileRecord], Row] = attrgetter(
    *("state._value_" if name == "state" else name for name in FILE_COLUMNS)
)
head_row: Callable[[Head], Row] = attrgetter(*HEAD_COLUMNS)
"""A head's values in column order."""
replica_row: Callable[[ChunkReplica], Row] = attrgetter(*REPLICA_COLUMNS)
"""A replica row's values in column order."""
node_row: Callable[[NodeInfo], Row] = attrgetter(
    *(f"{name}._value_" if name in ("status", "admin_state") else name for name in NODE_COLUMNS)
)
"""A node's values in column order."""

_STATES = {state.value: state for state in FileState}
_STATUS = NODE_COLUMNS.index("status")
_ADMIN_STATE = NODE_COLUMNS.index("admin_state")


def file_row(record: FileRecord) -> Row:
    """A file record's values in column order, then its place in the gc index."""
    place = keys.file_place(
        record.state,
        record.file_id,
        record.bucket,
        record.path,
        record.version,
        record.touched_at,
        record.retired,
        record.size,
    )
    return _FILE_VALUES(record) + (place or (None, None))


def short_row(step: PutShort) -> Row:
    """A short mark's values in column order."""
    return (step.file_id, step.chunk_index, *keys.short_place(step.file_id, step.chunk_index, step.at))


def file_of(row: Row) -> FileRecord:
    """The record of a row of FILE_COLUMNS."""
    return FileRecord(row[0], _STATES[row[1]], *row[2:])


def node_of(row: Row) -> NodeInfo:
    """The node of a row of NODE_COLUMNS."""
    values = list(row)
    values[_STATUS] = NodeStatus(values[_STATUS])
    values[_ADMIN_STATE] = AdminState(values[_ADMIN_STATE])
    return NodeInfo(*values)


def plain(value: Any) -> Any:
    """A value as sqlite3 takes it without converting."""
    return value.value if isinstance(value, FileState) else value


# --- many rows at once ------------------------------------------------------------------------------


class Insert:
    """`verb` INTO `table` of any number of rows."""

    def __init__(self, verb: str, table: str, names: Sequence[str]) -> None:
        self._width = len(names)
        self._text = f"{verb} INTO {table} ({columns(names)}) VALUES "
        self._sizes = _sizes(MOST_PARAMETERS // self._width)
        self._texts = {size: self._text + self._values(size) for size in self._sizes}

    def _values(self, size: int) -> str:
        return ", ".join([f"({marks(self._width)})"] * size)

    def __call__(self, db: sqlite3.Connection, rows: Sequence[Row]) -> None:
        """Put the rows, in order; what sqlite3 raises may leave some of them put."""
        first = 0
        for size in _split(len(rows), self._sizes):
            part = rows[first : first + size]
            db.execute(self._texts[size], part[0] if size == 1 else tuple(chain.from_iterable(part)))
            first += size


def _sizes(most: int) -> tuple[int, ...]:
    """Powers of two up to `most`, the largest first."""
    return tuple(1 << bit for bit in range(most.bit_length() - 1, -1, -1))


def _split(count: int, sizes: Sequence[int]) -> Iterator[int]:
    """`count` as a sum of `sizes`, the largest first."""
    for size in sizes:
        while count >= size:
            yield size
            count -= size


insert_files = Insert("INSERT", "files", (*FILE_COLUMNS, "gc", "gc_key"))
replace_heads = Insert("INSERT OR REPLACE", "heads", HEAD_COLUMNS)
replace_replicas = Insert("INSERT OR REPLACE", "replicas", REPLICA_COLUMNS)
replace_shorts = Insert("INSERT OR REPLACE", "shorts", SHORT_COLUMNS)

# --- many keys at once ------------------------------------------------------------------------------

_KEY_SIZES = _sizes(MOST_PARAMETERS - 1)


class Select:
    """Rows whose `key` is one of many: `text` ends before the list of keys."""

    def __init__(self, text: str) -> None:
        self._text = text

    @cache  # noqa: B019 - an instance is a constant of a module
    def _of(self, size: int) -> str:
        return f"{self._text} IN ({marks(size)})"

    def __call__(self, db: sqlite3.Connection, wanted: Sequence[str], *before: str) -> list[Row]:
        """The rows found, in no order. `before`: parameters in front of the keys."""
        found: list[Row] = []
        first = 0
        for size in _split(len(wanted), _KEY_SIZES):
            found += db.execute(self._of(size), (*before, *wanted[first : first + size])).fetchall()
            first += size
        return found


select_heads = Select(f"SELECT {columns(HEAD_COLUMNS)} FROM heads WHERE bucket = ? AND path")
select_states = Select("SELECT file_id, state, version, touched_at FROM files WHERE file_id")
