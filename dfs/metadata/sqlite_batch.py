"""One SQLite transaction for many callers: together where they do not meet, one by one where they do.

*Together*: callers that touch different items do not notice each other, so all their conditions are
checked by a few reads of many keys, those refused are left out, and the rest is put by one statement
per table. Nothing is written before everything is checked, so nothing needs undoing; what
fails all the same (a file id that exists) rolls the transaction back, and all go one by one.

*One by one*, each in a savepoint: callers that touch what another one touches, steps of the rarer
kinds, and work that is a function.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Container, Iterable, Sequence
from typing import Any

from dfs.metadata.contract import StepsRefused
from dfs.metadata.sqlite_rows import (
    Row,
    file_row,
    head_row,
    insert_files,
    replace_heads,
    replace_replicas,
    replace_shorts,
    replica_row,
    select_heads,
    select_states,
    short_row,
)
from dfs.metadata.sqlite_steps import apply_steps, file_update, not_as_expected, other_head
from dfs.metadata.steps import (
    ChangeFile,
    CheckFile,
    PutFile,
    PutHead,
    PutReplica,
    PutShort,
    Step,
    check_steps,
)
from dfs.model import Head

Function = Callable[[sqlite3.Connection], Any]
Place = tuple[str, str]
"""(bucket, path)."""
Build = Callable[[Head | None], Sequence[Step]]
Outcome = tuple[Any, Exception | None]
"""(result, None), or (None, error) with nothing done."""

_OWN_FAULTS = (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.InterfaceError, sqlite3.DataError)
"""Errors that are the statement's own fault; any other may have ended the whole transaction."""

# An item is a file id, the key of a replica row, of a short mark or of a head: no two look alike.
_Item = str | tuple[Any, ...]


class Rows:
    """The steps of one caller, sorted by what they do. `alone`: some are not of the common kinds."""

    __slots__ = ("alone", "changes", "checks", "files", "heads", "items", "replicas", "shorts", "steps")

    def __init__(self, steps: Sequence[Step]) -> None:
        self.steps = steps
        self.files: list[Row] = []
        self.heads: list[PutHead] = []
        self.changes: list[ChangeFile] = []
        self.checks: list[CheckFile] = []
        self.replicas: list[Row] = []
        self.shorts: list[Row] = []
        self.items: set[_Item] = set()
        self.alone = False
        for step in steps:
            match step:
                case PutReplica():
                    row = replica_row(step.replica)
                    self.replicas.append(row)
                    self.items.add(row[:3])
                case CheckFile():
                    self.checks.append(step)
                case PutHead():
                    self.heads.append(step)
                    self.items.add((step.head.bucket, step.head.path))
                case PutFile():
                    self.files.append(file_row(step.record))
                    self.items.add(step.record.file_id)
                case ChangeFile():
                    self.changes.append(step)
                    self.items.add(step.file_id)
                case PutShort():
                    self.shorts.append(short_row(step))
                    self.items.add((step.file_id, step.chunk_index))
                case _:
                    self.alone = True
                    return


class Transaction:
    """Steps, known (`rows`) or built from the head of a place when that has been read."""

    __slots__ = ("_build", "place", "rows")

    def __init__(self, rows: Rows | None, place: Place | None = None, build: Build | None = None) -> None:
        self.rows = rows
        self.place = place
        self._build = build

    def steps_on(self, head: Head | None) -> Rows:
        """The steps. Raises what `build` raises."""
        if self._build is None:
            assert self.rows is not None
            return self.rows
        steps = self._build(head)
        check_steps(steps)
        return Rows(steps)

    def __call__(self, db: sqlite3.Connection) -> None:
        """Do it one by one; raises StepsRefused, having perhaps done some of it."""
        head = None
        if self.place is not None:
            head = _read_heads(db, [self.place]).get(self.place)
        apply_steps(db, self.steps_on(head).steps)


Work = Function | Transaction


def run_batch(
    db: sqlite3.Connection, works: Sequence[Work], begin: Callable[[sqlite3.Connection], None]
) -> list[Outcome]:
    """Begin a transaction and do all works in it; what becomes of each once it is committed.

    Raises sqlite3.Error when the whole transaction has failed.
    """
    begin(db)
    outcomes: dict[int, Outcome] = {}
    together = {number: work for number, work in enumerate(works) if isinstance(work, Transaction)}
    if together:
        try:
            outcomes = _together(db, together)
        except Exception as error:
            if _is_fatal(error):
                raise
            db.execute("ROLLBACK")
            begin(db)
    return [outcomes[number] if number in outcomes else _alone(db, work) for number, work in enumerate(works)]


def _is_fatal(error: Exception) -> bool:
    return isinstance(error, sqlite3.Error) and not isinstance(error, _OWN_FAULTS)


def _alone(db: sqlite3.Connection, work: Work) -> Outcome:
    """One work in a savepoint: its failure undoes what it did."""
    db.execute("SAVEPOINT caller")
    try:
        result = work(db)
    except Exception as error:
        if _is_fatal(error):
            raise
        db.execute("ROLLBACK TO caller")
        db.execute("RELEASE caller")
        return None, error
    db.execute("RELEASE caller")
    return result, None


def _together(db: sqlite3.Connection, wanted: dict[int, Transaction]) -> dict[int, Outcome]:
    """The outcomes of those that could be done together. Raises, then some of it may be written."""
    outcomes: dict[int, Outcome] = {}
    places = _places(wanted.values())
    heads = _read_heads(db, places)
    apart = _apart(wanted, places, heads, outcomes)
    states = _read_states(db, apart.values())
    accepted: list[Rows] = []
    for number, rows in apart.items():
        refusal = _refusal(rows, heads, states)
        if refusal is None:
            accepted.append(rows)
            outcomes[number] = (None, None)
        else:
            outcomes[number] = (None, StepsRefused(refusal))
    _write(db, accepted)
    return outcomes


def _places(wanted: Iterable[Transaction]) -> dict[Place, None]:
    """The heads to be read: those that steps are built from, and those that known steps put."""
    places: dict[Place, None] = {}
    for work in wanted:
        if work.place is not None:
            places[work.place] = None
        elif work.rows is not None:
            for step in work.rows.heads:
                places[step.head.bucket, step.head.path] = None
    return places


def _read_heads(db: sqlite3.Connection, places: Iterable[Place]) -> dict[Place, Head]:
    paths: dict[str, list[str]] = {}
    for bucket, path in places:
        paths.setdefault(bucket, []).append(path)
    found = [Head(*row) for bucket, names in paths.items() for row in select_heads(db, names, bucket)]
    return {(head.bucket, head.path): head for head in found}


def _apart(
    wanted: dict[int, Transaction],
    read: Container[Place],
    heads: dict[Place, Head],
    outcomes: dict[int, Outcome],
) -> dict[int, Rows]:
    """Those that neither touch nor check what one before them touches: all of them, checked first and
    written then, do the same as in this order. `outcomes` gets what a build raised."""
    apart: dict[int, Rows] = {}
    touched: set[_Item] = set()
    for number, work in wanted.items():
        if work.place in touched:
            continue
        try:
            rows = work.steps_on(None if work.place is None else heads.get(work.place))
        except Exception as error:
            outcomes[number] = (None, error)
            continue
        checks = {step.file_id for step in rows.checks}
        if (
            rows.alone
            or not touched.isdisjoint(rows.items)
            or not touched.isdisjoint(checks)
            or any((step.head.bucket, step.head.path) not in read for step in rows.heads)
        ):
            continue
        apart[number] = rows
        touched |= rows.items
    return apart


_State = tuple[str, str, int, int]


def _read_states(db: sqlite3.Connection, apart: Iterable[Rows]) -> dict[str, _State]:
    """file_id, state, version and touched_at of the files that conditions are on."""
    ids = {step.file_id for rows in apart for steps in (rows.checks, rows.changes) for step in steps}
    return {row[0]: row for row in select_states(db, list(ids))}


def _refusal(rows: Rows, heads: dict[Place, Head], states: dict[str, _State]) -> str | None:
    for step in rows.heads:
        head, seen = heads.get((step.head.bucket, step.head.path)), step.seen
        if (head is None) != (seen is None):
            return other_head(step.head.path)
        if head and seen and (head.file_id, head.version) != (seen.file_id, seen.version):
            return other_head(step.head.path)
    for check in rows.checks:
        state = states.get(check.file_id)
        if state is None or state[1] not in check.states:
            return not_as_expected(check.file_id)
    for change in rows.changes:
        state = states.get(change.file_id)
        if (
            state is None
            or state[1] not in change.states
            or change.version not in (None, state[2])
            or change.touched_at not in (None, state[3])
        ):
            return not_as_expected(change.file_id)
    return None


def _write(db: sqlite3.Connection, accepted: Sequence[Rows]) -> None:
    insert_files(db, [row for rows in accepted for row in rows.files])
    for rows in accepted:
        for change in rows.changes:
            db.execute(*file_update(change))
    replace_heads(db, [head_row(step.head) for rows in accepted for step in rows.heads])
    replace_replicas(db, [row for rows in accepted for row in rows.replicas])
    replace_shorts(db, [row for rows in accepted for row in rows.shorts])
