"""A batch does what its callers one after the other would have done, in some order."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Iterator
from itertools import permutations
from typing import Any

import pytest

from dfs.metadata import sqlite_schema
from dfs.metadata.contract import StepsRefused
from dfs.metadata.sqlite_batch import Outcome, Rows, Transaction, Work, run_batch
from dfs.metadata.sqlite_rows import MOST_PARAMETERS, replace_replicas, select_states
from dfs.metadata.steps import (
    ChangeFile,
    CheckFile,
    CheckReplica,
    PutFile,
    PutHead,
    PutOperation,
    PutReplica,
    PutShort,
    RemoveHead,
    Step,
)
from dfs.model import FileRecord, FileState, Head
from tests.support.metadata_records import NOW, SHA, a_record, a_replica

COMMITTED = frozenset({FileState.COMMITTED})
ANY = frozenset(FileState)


def begin(db: sqlite3.Connection) -> None:
    db.execute("BEGIN IMMEDIATE")


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    sqlite_schema.create_tables(connection, "memory", NOW)
    yield connection
    connection.close()


def head(path: str, file_id: str, version: int) -> Head:
    return Head("default", path, file_id, version, 1000, SHA, "text/plain", 4096, 1, NOW)


def steps(*wanted: Step) -> Transaction:
    return Transaction(Rows(wanted))


def run(db: sqlite3.Connection, *works: Work) -> list[Any]:
    """The errors of the works (None: done), after the commit."""
    outcomes = run_batch(db, works, begin)
    db.execute("COMMIT")
    return [error if error is None else type(error) for _, error in outcomes]


def count(db: sqlite3.Connection, table: str) -> int:
    found: int = db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
    return found


class Statements:
    """What a connection executes, by its first words."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self.seen: list[str] = []
        db.set_trace_callback(lambda text: self.seen.append(" ".join(text.split()[:3])))


def test_callers_that_do_not_meet_share_one_statement_per_table(db: sqlite3.Connection) -> None:
    statements = Statements(db)
    works = []
    for number in range(8):
        record = a_record(f"p{number}")
        rows = [PutReplica(a_replica(record.file_id, 0, node)) for node in ("n1", "n2")]
        works.append(steps(PutHead(head(record.path, record.file_id, 1), None), PutFile(record), *rows))
    assert run(db, *works) == [None] * 8
    assert [count(db, table) for table in ("files", "heads", "replicas")] == [8, 8, 16]
    assert not [text for text in statements.seen if "SAVEPOINT" in text]
    assert len([text for text in statements.seen if text.startswith("INSERT")]) == 3


def test_who_is_refused_is_left_out_and_the_others_are_done(db: sqlite3.Connection) -> None:
    good, other = a_record("good"), a_record("other")
    assert run(db, steps(PutFile(good))) == [None]
    assert run(
        db,
        steps(CheckFile(good.file_id, COMMITTED), PutReplica(a_replica(good.file_id))),
        steps(PutFile(other), PutReplica(a_replica(other.file_id))),
        steps(PutHead(head("x", good.file_id, 2), head("x", good.file_id, 1))),
        steps(ChangeFile("absent", ANY, {"size": 1})),
        steps(ChangeFile(good.file_id, ANY, {"size": 7}, touched_at=NOW + 1)),
        steps(CheckFile(good.file_id, ANY), PutShort(good.file_id, 3, NOW)),
    ) == [StepsRefused, None, StepsRefused, StepsRefused, StepsRefused, None]
    assert count(db, "replicas") == 1 and count(db, "shorts") == 1 and count(db, "heads") == 0


def test_a_file_id_that_exists_makes_all_go_one_by_one(db: sqlite3.Connection) -> None:
    old, new = a_record("old"), a_record("new")
    assert run(db, steps(PutFile(old))) == [None]
    statements = Statements(db)
    assert run(
        db,
        steps(PutFile(old), PutReplica(a_replica(old.file_id))),
        steps(PutFile(new), PutReplica(a_replica(new.file_id))),
    ) == [StepsRefused, None]
    assert "ROLLBACK" in statements.seen
    assert db.execute("SELECT file_id FROM replicas").fetchall() == [(new.file_id,)]


def test_a_value_that_sqlite_cannot_take_is_its_callers_own_fault(db: sqlite3.Connection) -> None:
    bad, good = a_record("bad", size=1 << 70), a_record("good")
    assert run(db, steps(PutFile(bad)), steps(PutFile(good))) == [OverflowError, None]
    assert db.execute("SELECT path FROM files").fetchall() == [("good",)]


def test_of_two_on_one_path_the_second_sees_what_the_first_has_done(db: sqlite3.Connection) -> None:
    first, second = a_record("p"), a_record("p")
    seen: list[str | None] = []

    def creator(record: FileRecord) -> Callable[[Head | None], list[Step]]:
        def build(found: Head | None) -> list[Step]:
            seen.append(found.file_id if found else None)
            return [
                PutHead(head("p", record.file_id, found.version + 1 if found else 1), found),
                PutFile(record),
            ]

        return build

    place = ("default", "p")
    works = [Transaction(None, place, creator(record)) for record in (first, second)]
    assert run(db, *works) == [None, None]
    assert seen == [None, first.file_id]
    assert db.execute("SELECT file_id, version FROM heads").fetchall() == [(second.file_id, 2)]


def test_two_that_check_what_the_other_changes_are_not_both_done(db: sqlite3.Connection) -> None:
    one, two = a_record("one"), a_record("two")
    uploading, changes = frozenset({FileState.UPLOADING}), {"state": FileState.COMMITTED}
    assert run(db, steps(PutFile(one)), steps(PutFile(two))) == [None, None]
    assert run(
        db,
        steps(CheckFile(one.file_id, uploading), ChangeFile(two.file_id, uploading, changes)),
        steps(CheckFile(two.file_id, uploading), ChangeFile(one.file_id, uploading, changes)),
    ) == [None, StepsRefused]


def test_what_a_build_raises_is_its_callers_alone(db: sqlite3.Connection) -> None:
    def refuse(found: Head | None) -> list[Step]:
        raise KeyError("mine")

    def too_many(found: Head | None) -> list[Step]:
        return [CheckFile("x", ANY)] * 2

    record = a_record("q")
    assert run(
        db,
        Transaction(None, ("default", "p"), refuse),
        Transaction(None, ("default", "r"), too_many),
        steps(PutFile(record)),
    ) == [KeyError, ValueError, None]


def test_steps_on_a_head_that_was_not_read_first_go_alone(db: sqlite3.Connection) -> None:
    record = a_record("elsewhere")
    build = lambda found: [PutHead(head("elsewhere", record.file_id, 1), None)]  # noqa: E731
    taken = head("elsewhere", a_record().file_id, 1)
    assert run(db, steps(PutHead(taken, None))) == [None]
    assert run(db, Transaction(None, ("default", "p"), build)) == [StepsRefused]


def test_rows_beyond_one_statement(db: sqlite3.Connection) -> None:
    rows = tuple((f"f{n:05d}", n, "n1", SHA, 1, "primary", NOW) for n in range(1000))
    begin(db)
    replace_replicas(db, rows)
    assert db.execute("SELECT * FROM replicas").fetchall() == list(rows)
    db.execute("COMMIT")
    records = [a_record(f"p{number}") for number in range(MOST_PARAMETERS + 5)]
    assert run(db, *[steps(PutFile(record)) for record in records]) == [None] * len(records)
    found = select_states(db, [record.file_id for record in records])
    assert {row[0] for row in found} == {record.file_id for record in records}


# --- against every order -----------------------------------------------------------------------------


class Guesses:
    """Random transactions over few items, so that callers meet."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.ids = [a_record().file_id for _ in range(4)]
        self.paths = ["a", "b", "c"]
        self.versions = 0

    def seen(self, db: sqlite3.Connection, path: str) -> Head | None:
        rows = db.execute("SELECT * FROM heads WHERE path = ?", (path,)).fetchall()
        return Head(*rows[0]) if rows and self.rng.random() < 0.8 else None

    def one(self, db: sqlite3.Connection) -> Transaction:
        rng, file_id, path = self.rng, self.rng.choice(self.ids), self.rng.choice(self.paths)
        self.versions += 1
        put = head(path, file_id, self.versions)
        states = frozenset(rng.sample(list(FileState), rng.randint(1, 3)))
        chosen = rng.choice(("file", "head", "on", "change", "rows", "remove", "check", "operation", "skew"))
        match chosen:
            case "file":
                return steps(PutFile(a_record(path, file_id=file_id)), PutReplica(a_replica(file_id)))
            case "head":
                return steps(PutHead(put, self.seen(db, path)), CheckFile(file_id, states))
            case "on":
                more = PutFile(a_record(path, file_id=file_id))
                return Transaction(None, ("default", path), lambda found: [PutHead(put, found), more])
            case "change":
                changes = {"state": FileState.COMMITTED, "size": self.versions}
                return steps(ChangeFile(file_id, states, changes))
            case "rows":
                mark = PutShort(file_id, 1, self.versions)
                return steps(CheckFile(file_id, states), PutReplica(a_replica(file_id, 1)), mark)
            case "remove":
                seen = self.seen(db, path)
                return steps(RemoveHead(seen)) if seen else steps(CheckFile(file_id, ANY))
            case "skew":
                other = rng.choice([one for one in self.ids if one != file_id])
                changes = {"state": FileState.COMMITTED, "size": self.versions}
                return steps(CheckFile(file_id, states), ChangeFile(other, states, changes))
            case "check":
                return steps(CheckReplica(file_id, 1, "n1"), PutShort(file_id, 2, self.versions))
            case _:
                return steps(PutOperation(rng.choice("xyz"), {"n": self.versions}, NOW))


def dump(db: sqlite3.Connection) -> list[str]:
    return [line for line in db.iterdump() if line.startswith("INSERT")]


def told(outcomes: list[Outcome]) -> list[str | None]:
    return [None if error is None else type(error).__name__ for _, error in outcomes]


def test_a_batch_is_some_order_of_its_callers(db: sqlite3.Connection, rng: random.Random) -> None:
    guesses = Guesses(rng)
    met = 0
    for _ in range(200):
        works = [guesses.one(db) for _ in range(rng.randint(1, 4))]
        before = sqlite3.connect(":memory:", isolation_level=None)
        db.backup(before)
        outcome = told(run_batch(db, works, begin))
        db.execute("COMMIT")
        result = dump(db)
        met += len(set(outcome)) > 1
        for order in permutations(range(len(works))):
            copy = sqlite3.connect(":memory:", isolation_level=None)
            before.backup(copy)
            one_by_one: dict[int, str | None] = {}
            for number in order:
                one_by_one[number] = told(run_batch(copy, [works[number].__call__], begin))[0]
                copy.execute("COMMIT")
            same = [one_by_one[n] for n in range(len(works))] == outcome and dump(copy) == result
            copy.close()
            if same:
                break
        else:
            raise AssertionError(f"no order of the callers gives {outcome}")
        before.close()
    assert met > 10
