"""The steps of a transaction in SQL. Each raises StepsRefused when its condition does not hold."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

from dfs.metadata import keys
from dfs.metadata.contract import (
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
    StepsRefused,
)
from dfs.model import ChunkReplica, FileRecord, FileState, Head

FILE_COLUMNS = keys.record_fields(FileRecord)
HEAD_COLUMNS = keys.record_fields(Head)
REPLICA_COLUMNS = keys.record_fields(ChunkReplica)


def columns(names: Sequence[str]) -> str:
    """A column list."""
    return ", ".join(names)


def marks(names: Sequence[str]) -> str:
    """As many placeholders."""
    return ", ".join("?" * len(names))


def values(record: Any, names: Sequence[str]) -> list[Any]:
    """A record's values in column order."""
    return [getattr(record, name) for name in names]


_PUT_FILE = (
    f"INSERT INTO files ({columns(FILE_COLUMNS)}, gc, gc_key) VALUES ({marks(FILE_COLUMNS)}, ?, ?) "
    "ON CONFLICT DO NOTHING"
)
_PUT_NEW_HEAD = (
    f"INSERT INTO heads ({columns(HEAD_COLUMNS)}) VALUES ({marks(HEAD_COLUMNS)}) ON CONFLICT DO NOTHING"
)
_CHANGE_HEAD = (
    f"UPDATE heads SET ({columns(HEAD_COLUMNS[2:])}) = ({marks(HEAD_COLUMNS[2:])}) "
    "WHERE bucket = ? AND path = ? AND file_id = ? AND version = ?"
)
_PUT_REPLICA = (
    f"INSERT OR REPLACE INTO replicas ({columns(REPLICA_COLUMNS)}) VALUES ({marks(REPLICA_COLUMNS)})"
)


def _require(changed: bool, what: str) -> None:
    if not changed:
        raise StepsRefused(what)


def _states(states: frozenset[FileState]) -> tuple[str, list[str]]:
    names = sorted(states)
    return f"state IN ({marks(names)})", [*names]


def _put_file(db: sqlite3.Connection, step: PutFile) -> None:
    record = step.record
    place = keys.file_place(
        record.state, record.file_id, record.bucket, record.path, record.version, record.touched_at
    )
    cursor = db.execute(_PUT_FILE, [*values(record, FILE_COLUMNS), *(place or (None, None))])
    _require(cursor.rowcount == 1, f"file {record.file_id} exists")


def _change_file(db: sqlite3.Connection, step: ChangeFile) -> None:
    changes = dict(step.changes)
    place = keys.change_place(step)
    if place is None or isinstance(place, tuple):
        changes["gc"], changes["gc_key"] = place or (None, None)
    where, parameters = _states(step.states)
    for name in ("version", "touched_at"):
        wanted = getattr(step, name)
        if wanted is not None:
            where += f" AND {name} = ?"
            parameters.append(wanted)
    assignments = ", ".join(f"{name} = ?" for name in changes)
    cursor = db.execute(
        f"UPDATE files SET {assignments} WHERE file_id = ? AND {where}",
        [*changes.values(), step.file_id, *parameters],
    )
    _require(cursor.rowcount == 1, f"file {step.file_id} is not as expected")


def _check_file(db: sqlite3.Connection, step: CheckFile) -> None:
    where, parameters = _states(step.states)
    rows = db.execute(
        f"SELECT 1 FROM files WHERE file_id = ? AND {where}", [step.file_id, *parameters]
    ).fetchall()
    _require(bool(rows), f"file {step.file_id} is not as expected")


def _remove_file(db: sqlite3.Connection, step: RemoveFile) -> None:
    where, parameters = _states(step.states)
    cursor = db.execute(f"DELETE FROM files WHERE file_id = ? AND {where}", [step.file_id, *parameters])
    _require(cursor.rowcount == 1, f"file {step.file_id} is not as expected")


def _put_head(db: sqlite3.Connection, step: PutHead) -> None:
    head, seen = values(step.head, HEAD_COLUMNS), step.seen
    if seen is None:
        cursor = db.execute(_PUT_NEW_HEAD, head)
    else:
        cursor = db.execute(_CHANGE_HEAD, [*head[2:], *head[:2], seen.file_id, seen.version])
    _require(cursor.rowcount == 1, f"path {step.head.path!r} shows another file than the one seen")


def _remove_head(db: sqlite3.Connection, step: RemoveHead) -> None:
    seen = step.seen
    cursor = db.execute(
        "DELETE FROM heads WHERE bucket = ? AND path = ? AND file_id = ? AND version = ?",
        (seen.bucket, seen.path, seen.file_id, seen.version),
    )
    _require(cursor.rowcount == 1, f"path {seen.path!r} shows another file than the one seen")


def _put_replica(db: sqlite3.Connection, step: PutReplica) -> None:
    db.execute(_PUT_REPLICA, values(step.replica, REPLICA_COLUMNS))


def _remove_replica(db: sqlite3.Connection, step: RemoveReplica) -> None:
    db.execute(
        "DELETE FROM replicas WHERE file_id = ? AND chunk_index = ? AND node_id = ?",
        (step.file_id, step.chunk_index, step.node_id),
    )


def _check_replica(db: sqlite3.Connection, step: CheckReplica) -> None:
    rows = db.execute(
        "SELECT 1 FROM replicas WHERE file_id = ? AND chunk_index = ? AND node_id = ?",
        (step.file_id, step.chunk_index, step.node_id),
    ).fetchall()
    _require(bool(rows), f"chunk {step.chunk_index} of {step.file_id} has no row for {step.node_id}")


def _put_short(db: sqlite3.Connection, step: PutShort) -> None:
    place = keys.short_place(step.file_id, step.chunk_index, step.at)
    db.execute("INSERT OR REPLACE INTO shorts VALUES (?, ?, ?, ?)", (step.file_id, step.chunk_index, *place))


def _remove_short(db: sqlite3.Connection, step: RemoveShort) -> None:
    db.execute("DELETE FROM shorts WHERE file_id = ? AND chunk_index = ?", (step.file_id, step.chunk_index))


def _put_operation(db: sqlite3.Connection, step: PutOperation) -> None:
    place = keys.operation_place(step.op_id, step.at)
    cursor = db.execute(
        "INSERT INTO operations VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (step.op_id, json.dumps(step.result), *place),
    )
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
