"""Late rows and short marks, on SQLite; what cannot be written is left for repair."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dfs.cluster.records import mark_short, record_late
from dfs.cluster.replicate import Late
from dfs.errors import Unavailable
from dfs.metadata.contract import GcKind, OutcomeUnknown
from dfs.metadata.sqlite import SqliteStore
from dfs.metadata.steps import ChangeFile, PutFile, PutShort
from dfs.model import ChunkReplica, FileRecord, FileState
from tests.unit.cluster.fakes import FILE

ROW = ChunkReplica(FILE, 0, "a", "0" * 64, 1, "primary", 1)
SECOND = replace(ROW, node_id="b", replica_type="secondary")
LATE = Late(FILE, 0, (SECOND,), (ROW,), complete=True)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    made = SqliteStore(str(tmp_path / "meta.db"))
    made.create()
    record = FileRecord(FILE, FileState.COMMITTED, "default", "p", 1, 1, 1, "x", None, "p", 1, 1, 1)
    made.transact([PutFile(record)])
    made.add_replicas(FILE, [ROW], [PutShort(FILE, 0, 1)])
    yield made
    made.close()


def shorts(store: SqliteStore) -> int:
    return sum(len(store.gc_entries(partition)) for partition in store.gc_partitions(GcKind.SHORT))


def delete(store: SqliteStore) -> None:
    changes = {"state": FileState.DELETING, "touched_at": 1}
    store.transact([ChangeFile(FILE, frozenset({FileState.COMMITTED}), changes)])


def test_late_rows_are_added_and_the_mark_goes_when_nothing_is_missing(store: SqliteStore) -> None:
    record_late(store)(replace_late(complete=False))
    assert shorts(store) == 1
    record_late(store)(LATE)
    assert [row.node_id for row in store.replicas(FILE)] == ["a", "b"]
    assert shorts(store) == 0


def replace_late(complete: bool) -> Late:
    return replace(LATE, complete=complete)


def test_the_mark_stays_when_a_row_has_gone_meanwhile(store: SqliteStore) -> None:
    record_late(store)(replace(LATE, recorded=(replace(ROW, node_id="z"),)))
    assert shorts(store) == 1


def test_nothing_is_added_to_a_file_that_is_being_deleted(store: SqliteStore) -> None:
    delete(store)
    record_late(store)(LATE)
    assert [row.node_id for row in store.replicas(FILE)] == ["a"]


def test_a_bad_chunk_gets_a_mark_unless_its_file_is_being_deleted(store: SqliteStore) -> None:
    mark_short(store, lambda: 7)(FILE, 5)
    assert shorts(store) == 2
    delete(store)
    mark_short(store, lambda: 7)(FILE, 6)
    assert shorts(store) == 2


@pytest.mark.parametrize("failure", [OutcomeUnknown("lost"), Unavailable("away")])
@pytest.mark.parametrize("times", [1, 99])
def test_lost_answers_are_repeated_and_then_left(store: SqliteStore, failure: Exception, times: int) -> None:
    real: Callable[..., None] = store.transact
    left = [failure] * times

    def flaky(steps: Any) -> None:
        if left:
            raise left.pop()
        real(steps)

    store.transact = flaky  # type: ignore[method-assign]
    mark_short(store, lambda: 7)(FILE, 5)
    assert shorts(store) == (2 if times == 1 else 1)
