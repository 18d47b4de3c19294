"""The steps of a transaction in SQL, one by one. Each raises StepsRefused when its condition does not hold."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from dfs.metadata import keys
from dfs.metadata.contract import StepsRefused
from dfs.metadata.sqlite_rows import (
    FILE_COLUMNS,
    HEAD_COLUMNS,
    Row,
    columns,
    file_row,
    head_row,
    marks,
    plain,
    replace_replicas,
    replace_shorts,
    replica_row,
    short_row,
)
from dfs.metadata.steps import (
    ChangeFile,
    CheckFile,
    CheckReplica,
    PutFile,
    PutHead,
    PutOperation,
    PutReplica,
    PutShort,
    RemoveFile,
    RemoveHead,
    RemoveReplica,
    RemoveShort,
    Step,
)
from dfs.model import FileState

_PUT_FILE = (
    f"INSERT INTO files ({columns(FILE_COLUMNS)}, gc, gc_key) VALUES ({marks(len(FILE_COLUMNS) + 2)}) "
    "ON CONFLICT DO NOTHING"
)
_PUT_NEW_HEAD = (
    f"INSERT INTO heads ({columns(HEAD_COLUMNS)}) VALUES ({marks(len(HEAD_COLUMNS))}) ON CONFLICT DO NOTHING"
)
_CHANGE_HEAD = (
    f"UPDATE heads SET ({columns(HEAD_COLUMNS[2:])}) = ({marks(len(HEAD_COLUMNS) - 2)}) "
    "WHERE bucket = ? AND path = ? AND file_id = ? AND version = ?"
)
_REMOVE_HEAD = "DELETE FROM heads WHERE bucket = ? AND path = ? AND file_id = ? AND version = ?"
_REMOVE_REPLICA = "DELETE FROM replicas WHERE file_id = ? AND chunk_index = ? AND node_id = ?"
_CHECK_REPLICA = "SELECT 1 FROM replicas WHERE file_id = ? AND chunk_index = ? AND node_id = ?"
_REMOVE_SHORT = "DELETE FROM shorts WHERE file_id = ? AND chunk_index = ?"
_PUT_OPERATION = "INSERT INTO operations VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING"


def _require(changed: bool, what: str) -> None:
    if not changed:
        raise StepsRefused(what)


def not_as_expected(file_id: str) -> str:
    """Why a step on a file record is refused."""
    return f"file {file_id} is not as expected"


def other_head(path: str) -> str:
    """Why a step on a head is refused."""
    return f"path {path!r} shows another file than the one seen"


@lru_cache(maxsize=64)
def _states(states: frozenset[FileState]) -> tuple[str, tuple[str, ...]]:
    names = tuple(sorted(state.value for state in states))
    return f"state IN ({marks(len(names))})", names


@lru_cache(maxsize=256)
def _assignments(names: tuple[str, ...]) -> str:
    return f"UPDATE files SET {', '.join(f'{name} = ?' for name in names)} WHERE file_id = ?"


def file_update(step: ChangeFile) -> tuple[str, Row]:
    """The UPDATE of a ChangeFile, its parameters; no condition but the id."""
    place = keys.change_place(step)
    names, values = tuple(step.changes), tuple(map(plain, step.changes.values()))
    if place is None or isinstance(place, tuple):
        names, values = (*names, "gc", "gc_key"), (*values, *(place or (None, None)))
    return _assignments(names), (*values, step.file_id)


def _put_file(db: sqlite3.Connection, step: PutFile) -> None:
    cursor = db.execute(_PUT_FILE, file_row(step.record))
    _require(cursor.rowcount == 1, f"file {step.record.file_id} exists")


def _change_file(db: sqlite3.Connection, step: ChangeFile) -> None:
    text, values = file_update(step)
    where, names = _states(step.states)
    text, values = f"{text} AND {where}", (*values, *names)
    for name in ("version", "touched_at"):
        wanted = getattr(step, name)
        if wanted is not None:
            text, values = f"{text} AND {name} = ?", (*values, wanted)
    _require(db.execute(text, values).rowcount == 1, not_as_expected(step.file_id))


def _check_file(db: sqlite3.Connection, step: CheckFile) -> None:
    where, names = _states(step.states)
    rows = db.execute(f"SELECT 1 FROM files WHERE file_id = ? AND {where}", (step.file_id, *names)).fetchall()
    _require(bool(rows), not_as_expected(step.file_id))


def _remove_file(db: sqlite3.Connection, step: RemoveFile) -> None:
    where, names = _states(step.states)
    cursor = db.execute(f"DELETE FROM files WHERE file_id = ? AND {where}", (step.file_id, *names))
    _require(cursor.rowcount == 1, not_as_expected(step.file_id))


def _put_head(db: sqlite3.Connection, step: PutHead) -> None:
    head, seen = head_row(step.head), step.seen
    if seen is None:
        cursor = db.execute(_PUT_NEW_HEAD, head)
    else:
        cursor = db.execute(_CHANGE_HEAD, (*head[2:], *head[:2], seen.file_id, seen.version))
    _require(cursor.rowcount == 1, other_head(step.head.path))


def _remove_head(db: sqlite3.Connection, step: RemoveHead) -> None:
    seen = step.seen
    cursor = db.execute(_REMOVE_HEAD, (seen.bucket, seen.path, seen.file_id, seen.version))
    _require(cursor.rowcount == 1, other_head(seen.path))


def _put_replica(db: sqlite3.Connection, step: PutReplica) -> None:
    replace_replicas(db, (replica_row(step.replica),))


def _remove_replica(db: sqlite3.Connection, step: RemoveReplica) -> None:
    db.execute(_REMOVE_REPLICA, (step.file_id, step.chunk_index, step.node_id))


def _check_replica(db: sqlite3.Connection, step: CheckReplica) -> None:
    rows = db.execute(_CHECK_REPLICA, (step.file_id, step.chunk_index, step.node_id)).fetchall()
    _require(bool(rows), f"chunk {step.chunk_index} of {step.file_id} has no row for {step.node_id}")


def _put_short(db: sqlite3.Connection, step: PutShort) -> None:
    replace_shorts(db, (short_row(step),))


def _remove_short(db: sqlite3.Connection, step: RemoveShort) -> None:
    if step.at is None:
        db.execute(_REMOVE_SHORT, (step.file_id, step.chunk_index))
    else:
        place = keys.short_place(step.file_id, step.chunk_index, step.at)
        cursor = db.execute(f"{_REMOVE_SHORT} AND gc_key = ?", (step.file_id, step.chunk_index, place[1]))
        _require(cursor.rowcount == 1, f"chunk {step.chunk_index} of {step.file_id} was marked again")


def _put_operation(db: sqlite3.Connection, step: PutOperation) -> None:
    place = keys.operation_place(step.op_id, step.at)
    cursor = db.execute(_PUT_OPERATION, (step.op_id, json.dumps(step.result), *place))
    _require(cursor.rowcount == 1, f"operation {step.op_id} is done already")


_STEPS: dict[type[Any], Callable[[sqlite3.Connection, Any], None]] = {
    PutFile: _put_file,
    ChangeFile: _change_file,
    CheckFile: _check_file,
    RemoveFile: _remove_file,
    PutHead: _put_head,
    RemoveHead: _remove_head,
    PutReplica: _put_replica,
    RemoveReplica: _remove_replica,
    CheckReplica: _check_replica,
    PutShort: _put_short,
    RemoveShort: _remove_short,
    PutOperation: _put_operation,
}


def apply_steps(db: sqlite3.Connection, steps: Sequence[Step]) -> None:
    """All steps in order; raises StepsRefused at the first that is refused (the caller undoes the rest)."""
    for step in steps:
        _STEPS[type(step)](db, step)
