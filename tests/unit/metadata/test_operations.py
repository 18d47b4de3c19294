"""The rules of files, each interleaving and each lost answer by name."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from dfs.errors import BadRequest, Busy, ConditionFailed, Gone, NotFound, Unavailable, Unknown
from dfs.metadata import operations
from dfs.metadata.contract import GcKind
from dfs.metadata.operations import ALWAYS, Committed, Precondition, head_of
from dfs.metadata.sqlite import SqliteStore
from dfs.metadata.steps import PutShort, RemoveFile
from dfs.model import FileRecord, FileState, new_file_id
from tests.support.fakes.scripted_store import Act, ScriptedStore
from tests.support.metadata_records import NOW, SHA, a_record, a_replica, put, replicas_of

ABSENT = Precondition(if_none_match=("*",))
B = "default"


def scripted(store: SqliteStore, *script: Act) -> Any:
    return ScriptedStore(store, *script)


def commit(store: Any, record: FileRecord, condition: Precondition = ALWAYS, now: int = NOW) -> Committed:
    return operations.commit_file(store, record, condition, now, replicas=replicas_of(record))


def state_of(store: SqliteStore, file_id: str) -> FileState | None:
    record = store.get_file(file_id)
    return record.state if record else None


# --- commit of a single chunk ------------------------------------------------------------------------


def test_a_commit_makes_record_rows_and_head_at_once(store: SqliteStore) -> None:
    record = a_record("p")
    done = operations.commit_file(
        store, record, ALWAYS, NOW, replicas=replicas_of(record), short=[PutShort(record.file_id, 0, NOW)]
    )
    assert (done.replaced, done.repeated) == (None, False)
    assert done.head == store.get_head(B, "p")
    assert (done.head.version, done.head.modified) == (NOW, NOW)
    stored = store.get_file(record.file_id)
    assert stored is not None and stored.state is FileState.COMMITTED
    assert stored.origin == "default/p" and head_of(stored) == done.head
    assert list(store.replicas(record.file_id)) == replicas_of(record)
    assert [e.chunk_index for name in store.gc_partitions(GcKind.SHORT) for e in store.gc_entries(name)] == [
        0
    ]


def test_a_commit_over_a_file_trashes_it_and_raises_the_version(store: SqliteStore) -> None:
    first = put(store, "p", now=NOW + 1000)
    second = put(store, "p", now=NOW)
    assert second.replaced == first.head
    assert second.head.version == NOW + 1001
    old = store.get_file(first.head.file_id)
    assert old is not None and (old.state, old.version) == (FileState.TRASHED, NOW + 1000)
    (entry,) = store.gc_entries("trashed#default")
    assert (entry.id, entry.path) == (first.head.file_id, "p")


def test_a_repeated_put_succeeds_once(store: SqliteStore) -> None:
    record = a_record("p")
    first = commit(store, record)
    again = commit(store, record, ABSENT)
    assert again == Committed(first.head, None, repeated=True)
    assert operations.find_commit(store, record) == again


def test_a_repeated_put_succeeds_after_the_file_was_replaced_moved_deleted_or_purged(
    store: SqliteStore,
) -> None:
    replaced, moved, deleted, purged = (a_record(name) for name in ("r", "m", "d", "x"))
    for record in (replaced, moved, deleted, purged):
        commit(store, record)
    newer = put(store, "r")
    operations.move_path(store, B, "m", "elsewhere", ALWAYS, NOW)
    operations.delete_path(store, B, "d", ALWAYS, NOW)
    operations.delete_path(store, B, "x", ALWAYS, NOW, purge=True)
    for record in (replaced, moved, deleted, purged):
        done = commit(store, record, ABSENT)
        assert done.repeated and done.head.file_id == record.file_id
    assert commit(store, moved).head.path == "elsewhere"
    assert store.get_head(B, "r") == newer.head
    assert store.get_head(B, "d") is store.get_head(B, "x") is store.get_head(B, "m") is None


@pytest.mark.parametrize(
    "other", [{"path": "q"}, {"size": 5}, {"sha256": "cd" * 32}, {"chunk_size": 5}, {"bucket": "uploads"}]
)
def test_an_id_used_for_two_files_is_refused(store: SqliteStore, other: dict[str, Any]) -> None:
    record = a_record("p")
    commit(store, record)
    with pytest.raises(ConditionFailed, match="another file"):
        commit(store, replace(record, **other))
    with pytest.raises(ConditionFailed, match="another file"):
        operations.find_commit(store, replace(record, **other))
    head = store.get_head(B, "p")
    assert head is not None and head.file_id == record.file_id


@pytest.mark.parametrize("act", ["lost", "drop"])
def test_a_commit_whose_answer_was_lost_succeeds(store: SqliteStore, act: str) -> None:
    record = a_record("p")
    done = commit(scripted(store, act), record, ABSENT)
    assert done.repeated == (act == "lost")
    assert store.get_head(B, "p") == done.head


def test_a_commit_that_arrives_late_is_not_applied_twice(store: SqliteStore) -> None:
    chaos = scripted(store, "late")
    done = commit(chaos, a_record("p"), ABSENT)
    assert not done.repeated
    assert chaos.arrive() == [False]
    assert store.get_head(B, "p") == done.head


def test_a_lost_commit_that_was_applied_and_replaced_since_is_a_success(store: SqliteStore) -> None:
    record = a_record("p")
    chaos = scripted(store, "lost")
    chaos.at("get_file", 1, lambda: put(store, "p"))
    done = commit(chaos, record, ABSENT)
    assert done.repeated and done.head.file_id == record.file_id
    assert state_of(store, record.file_id) is FileState.TRASHED


def test_two_commits_race_and_the_second_replaces_the_first(store: SqliteStore) -> None:
    winner: list[Committed] = []
    chaos = scripted(store, lambda: winner.append(put(store, "p")))
    done = commit(chaos, a_record("p"))
    assert done.replaced == winner[0].head
    assert len(chaos.sent) == 2


def test_two_conditional_commits_race_and_the_loser_is_told_and_discarded(store: SqliteStore) -> None:
    record = a_record("p")
    chaos = scripted(store, lambda: put(store, "p"))
    with pytest.raises(ConditionFailed, match="the path shows file"):
        commit(chaos, record, ABSENT)
    assert state_of(store, record.file_id) is FileState.DELETING
    with pytest.raises(ConditionFailed, match="the path shows file"):
        commit(store, record, ABSENT)
    with pytest.raises(ConditionFailed, match="the path shows file"):
        operations.begin_upload(store, record)
    with pytest.raises(ConditionFailed, match="the path shows file"):
        operations.find_commit(store, record)


def test_a_refused_commit_that_arrives_late_finds_itself_fenced(store: SqliteStore) -> None:
    """Sent while the path was free, lost; refused because another came first; that one deleted; arrives."""
    record = a_record("p")
    chaos = scripted(store, "late")
    chaos.at("get_head", 2, lambda: put(store, "p"))
    with pytest.raises(ConditionFailed):
        commit(chaos, record, ABSENT)
    operations.delete_path(store, B, "p", ALWAYS, NOW)
    assert chaos.arrive() == [False]
    assert store.get_head(B, "p") is None


def test_a_commit_found_applied_while_it_is_being_refused_is_a_success(store: SqliteStore) -> None:
    """Late; another file takes the path and is deleted between the read and the fence; arrives."""
    record = a_record("p")
    chaos = scripted(store, "late")
    chaos.at("get_head", 2, lambda: put(store, "p"))
    chaos.at("get_file", 2, lambda: (operations.delete_path(store, B, "p", ALWAYS, NOW), chaos.arrive()))
    assert commit(chaos, record, ABSENT).repeated
    assert state_of(store, record.file_id) is FileState.COMMITTED


def test_a_commit_goes_on_from_the_record_another_attempt_began(store: SqliteStore) -> None:
    record = a_record("p")
    operations.begin_upload(store, replace(record, size=0, chunk_count=0, sha256=None))
    done = commit(store, record)
    assert not done.repeated and done.head.size == 1000 and done.head.sha256 == SHA
    assert list(store.replicas(record.file_id)) == replicas_of(record)


def test_a_commit_of_a_discarded_upload_is_gone(store: SqliteStore) -> None:
    record = a_record("p")
    assert operations.discard_upload(store, record, NOW)
    with pytest.raises(Gone):
        commit(store, record)
    assert store.get_head(B, "p") is None


def test_contention_without_end_is_busy_and_with_a_lost_answer_unknown(store: SqliteStore) -> None:
    def interfere() -> None:
        put(store, "p")

    with pytest.raises(Busy) as busy:
        commit(scripted(store, *[interfere, "ok"] * 8), a_record("p"))
    assert busy.value.code == "busy"
    with pytest.raises(Unknown):
        commit(scripted(store, "drop", *[interfere, "ok"] * 8), a_record("p"))
    with pytest.raises(Busy):
        commit(scripted(store, *["busy"] * 8), a_record("p"))
    with pytest.raises(Unknown):
        commit(scripted(store, *["drop"] * 8), a_record("p"))


def test_metadata_going_away_is_unavailable_before_and_unknown_after_a_lost_answer(
    store: SqliteStore,
) -> None:
    with pytest.raises(Unavailable) as plain:
        commit(scripted(store, "down"), a_record("p"))
    assert plain.value.code == "unavailable"
    with pytest.raises(Unknown):
        commit(scripted(store, "drop", "down"), a_record("p"))
    with pytest.raises(Unknown):
        commit(scripted(store, "dark"), a_record("p"))


# --- uploads of several chunks -----------------------------------------------------------------------


def begun(store: SqliteStore, path: str = "p") -> FileRecord:
    return operations.begin_upload(store, a_record(path, chunk_count=3, size=10_000, sha256=None))


def test_an_upload_begins_once_and_is_committed(store: SqliteStore) -> None:
    record = begun(store)
    assert (record.state, record.version) == (FileState.UPLOADING, 0)
    assert operations.begin_upload(store, record) == record
    assert operations.find_commit(store, record) is None
    store.add_replicas(record.file_id, [a_replica(record.file_id, index) for index in range(3)])
    done = operations.commit_file(store, record, ALWAYS, NOW + 5)
    assert done.head == store.get_head(B, "p") and done.head.chunk_count == 3
    stored = operations.begin_upload(store, record)
    assert stored.state is FileState.COMMITTED
    assert operations.touch_upload(store, record, NOW + 9).state is FileState.COMMITTED
    assert operations.commit_file(store, record, ABSENT, NOW + 9).repeated


def test_the_commit_sets_what_was_learnt_while_receiving(store: SqliteStore) -> None:
    record = operations.begin_upload(store, a_record("p", size=0, chunk_count=0, sha256=None))
    done = operations.commit_file(store, replace(record, size=9, chunk_count=1, sha256=SHA), ALWAYS, NOW)
    assert (done.head.size, done.head.chunk_count, done.head.sha256) == (9, 1, SHA)


def test_beginning_another_upload_under_the_same_id_is_refused(store: SqliteStore) -> None:
    record = begun(store)
    for other in ({"size": 1}, {"path": "q"}, {"chunk_size": 7}):
        with pytest.raises(ConditionFailed, match="another file"):
            operations.begin_upload(store, replace(record, origin="", **other))


@pytest.mark.parametrize("act", ["lost", "drop", "late"])
def test_a_begin_whose_answer_was_lost_succeeds(store: SqliteStore, act: str) -> None:
    chaos = scripted(store, act)
    record = operations.begin_upload(chaos, a_record("p"))
    assert chaos.arrive() in ([], [False])
    assert store.get_file(record.file_id) == record


def test_a_begin_that_never_gets_through_is_unknown(store: SqliteStore) -> None:
    with pytest.raises(Unknown):
        operations.begin_upload(scripted(store, *["drop"] * 8), a_record("p"))


@pytest.mark.parametrize("act", ["lost", "drop"])
def test_a_finalize_whose_answer_was_lost_succeeds(store: SqliteStore, act: str) -> None:
    record = begun(store)
    done = operations.commit_file(scripted(store, act), record, ABSENT, NOW)
    assert done.repeated == (act == "lost")


def test_a_finalize_refused_by_its_condition_leaves_the_upload_and_is_fenced(store: SqliteStore) -> None:
    record = begun(store)
    chaos = scripted(store, "late")
    chaos.at("get_head", 2, lambda: put(store, "p"))
    with pytest.raises(ConditionFailed):
        operations.commit_file(chaos, record, ABSENT, NOW)
    operations.delete_path(store, B, "p", ALWAYS, NOW)
    assert chaos.arrive() == [False]
    assert state_of(store, record.file_id) is FileState.UPLOADING
    assert not operations.commit_file(store, record, ABSENT, NOW).repeated


def test_a_commit_against_a_discard_has_one_winner(store: SqliteStore) -> None:
    first, second = begun(store, "a"), begun(store, "b")
    chaos = scripted(store, lambda: operations.discard_upload(store, first, NOW))
    with pytest.raises(Gone):
        operations.commit_file(chaos, first, ALWAYS, NOW)
    assert store.get_head(B, "a") is None
    chaos = scripted(store, lambda: operations.commit_file(store, second, ALWAYS, NOW))
    assert not operations.discard_upload(chaos, second, NOW)
    assert state_of(store, second.file_id) is FileState.COMMITTED


def test_a_discard_stops_a_first_commit_still_under_way(store: SqliteStore) -> None:
    record = a_record("p")
    chaos = scripted(store, lambda: operations.discard_upload(store, record, NOW))
    with pytest.raises(Gone):
        commit(chaos, record)
    assert state_of(store, record.file_id) is FileState.DELETING
    assert store.get_head(B, "p") is None


@pytest.mark.parametrize("act", ["lost", "drop", "ok"])
def test_discarding_is_harmless_to_repeat(store: SqliteStore, act: str) -> None:
    for record in (begun(store, act), a_record("fresh")):
        assert operations.discard_upload(scripted(store, act), record, NOW, reason="no")
        assert operations.discard_upload(store, record, NOW, reason="no")
        assert operations.discard_upload(store, record, NOW)
        with pytest.raises(ConditionFailed, match="no"):
            operations.begin_upload(store, record)


def test_discarding_works_when_the_eraser_left_only_the_reason(store: SqliteStore) -> None:
    record = a_record("p")
    assert operations.discard_upload(store, record, NOW, reason="no")
    store.transact([RemoveFile(record.file_id, frozenset({FileState.DELETING}))])
    assert operations.discard_upload(store, record, NOW, reason="no")
    assert state_of(store, record.file_id) is FileState.DELETING


def test_a_discard_that_never_gets_through_is_unknown(store: SqliteStore) -> None:
    with pytest.raises(Unknown):
        operations.discard_upload(scripted(store, *["drop"] * 8), a_record("p"), NOW)


def test_a_purged_file_was_committed_and_is_not_discarded(store: SqliteStore) -> None:
    record = a_record("p")
    commit(store, record)
    operations.delete_path(store, B, "p", ALWAYS, NOW, purge=True)
    assert not operations.discard_upload(store, record, NOW)
    assert operations.begin_upload(store, record).version > 0


def test_finalizing_what_is_not_there_is_gone(store: SqliteStore) -> None:
    with pytest.raises(Gone):
        operations.commit_file(store, a_record("p"), ALWAYS, NOW)


def test_touching_keeps_an_upload_alive(store: SqliteStore) -> None:
    record = begun(store)
    touched = operations.touch_upload(store, record, NOW + 100)
    assert touched == store.get_file(record.file_id) == replace(record, touched_at=NOW + 100)
    assert operations.touch_upload(store, record, NOW + 50) == touched
    assert operations.touch_upload(store, record, NOW + 200).touched_at == NOW + 200
    assert operations.touch_upload(scripted(store, "lost"), record, NOW + 300).touched_at == NOW + 300


def test_touching_what_was_discarded_or_erased_is_gone(store: SqliteStore) -> None:
    record = begun(store)
    operations.discard_upload(store, record, NOW)
    with pytest.raises(Gone):
        operations.touch_upload(store, record, NOW + 1)
    with pytest.raises(Gone):
        operations.touch_upload(store, a_record("never"), NOW + 1)


def test_touching_again_and_again_in_vain_is_busy(store: SqliteStore) -> None:
    record = begun(store)
    with pytest.raises(Busy):
        operations.touch_upload(scripted(store, *["busy"] * 8), record, NOW + 1)


def test_a_commit_survives_a_touch_in_between(store: SqliteStore) -> None:
    record = begun(store)
    chaos = scripted(store, lambda: operations.touch_upload(store, record, NOW + 1))
    assert not operations.commit_file(chaos, record, ALWAYS, NOW).repeated


# --- delete ------------------------------------------------------------------------------------------


def test_a_delete_goes_to_the_trash_and_a_purge_to_the_eraser(store: SqliteStore) -> None:
    first, second = put(store, "a"), put(store, "b")
    assert operations.delete_path(store, B, "a", ALWAYS, NOW) == first.head
    assert operations.delete_path(store, B, "b", ALWAYS, NOW + 3, purge=True) == second.head
    assert state_of(store, first.head.file_id) is FileState.TRASHED
    gone = store.get_file(second.head.file_id)
    assert gone is not None and (gone.state, gone.touched_at) == (FileState.DELETING, NOW + 3)


@pytest.mark.parametrize("op_id", [None, "op-1"])
def test_a_delete_of_nothing_or_of_another_file_is_refused(store: SqliteStore, op_id: str | None) -> None:
    with pytest.raises(NotFound):
        operations.delete_path(store, B, "p", ALWAYS, NOW, op_id=op_id)
    put(store, "q")
    with pytest.raises(ConditionFailed):
        operations.delete_path(store, B, "q", Precondition(if_match=("x",)), NOW, op_id=op_id and "op-2")
    assert store.get_head(B, "q") is not None


def test_a_repeated_delete_does_not_delete_the_file_that_came_since(store: SqliteStore) -> None:
    first = put(store, "p")
    assert operations.delete_path(store, B, "p", ALWAYS, NOW, op_id="op-1") == first.head
    newer = put(store, "p")
    assert operations.delete_path(store, B, "p", ALWAYS, NOW, op_id="op-1") == first.head
    assert store.get_head(B, "p") == newer.head


def test_a_refused_delete_stays_refused_under_its_id(store: SqliteStore) -> None:
    with pytest.raises(NotFound):
        operations.delete_path(store, B, "p", ALWAYS, NOW, op_id="op-1")
    kept = put(store, "p")
    with pytest.raises(NotFound):
        operations.delete_path(store, B, "p", ALWAYS, NOW, op_id="op-1")
    assert store.get_head(B, "p") == kept.head


@pytest.mark.parametrize("op_id", [None, "op-1"])
@pytest.mark.parametrize("act", ["lost", "drop", "late"])
def test_a_delete_whose_answer_was_lost_succeeds_once(
    store: SqliteStore, act: str, op_id: str | None
) -> None:
    head = put(store, "p").head
    chaos = scripted(store, act)
    assert operations.delete_path(chaos, B, "p", ALWAYS, NOW, op_id=op_id) == head
    newer = put(store, "p")
    assert chaos.arrive() in ([], [False])
    assert store.get_head(B, "p") == newer.head


def test_a_delete_racing_an_overwrite_deletes_what_is_there(store: SqliteStore) -> None:
    put(store, "p")
    newer: list[Committed] = []
    chaos = scripted(store, lambda: newer.append(put(store, "p")))
    assert operations.delete_path(chaos, B, "p", ALWAYS, NOW) == newer[0].head
    assert store.get_head(B, "p") is None


def test_a_conditional_delete_racing_an_overwrite_is_refused(store: SqliteStore) -> None:
    first = put(store, "p")
    chaos = scripted(store, lambda: put(store, "p"))
    with pytest.raises(ConditionFailed):
        operations.delete_path(chaos, B, "p", Precondition(if_match=(first.head.file_id,)), NOW, op_id="x")
    assert store.get_head(B, "p") is not None


def test_two_deletes_at_once_under_one_id_are_one(store: SqliteStore) -> None:
    head = put(store, "p").head

    def other() -> None:
        assert operations.delete_path(store, B, "p", ALWAYS, NOW, op_id="x") == head
        put(store, "p")

    assert operations.delete_path(scripted(store, other), B, "p", ALWAYS, NOW, op_id="x") == head
    assert store.get_head(B, "p") is not None


def test_an_operation_id_is_used_for_one_thing(store: SqliteStore) -> None:
    put(store, "p"), put(store, "q")
    operations.delete_path(store, B, "p", ALWAYS, NOW, op_id="x")
    for again in (
        lambda: operations.delete_path(store, B, "q", ALWAYS, NOW, op_id="x"),
        lambda: operations.move_path(store, B, "q", "r", ALWAYS, NOW, op_id="x"),
    ):
        with pytest.raises(ConditionFailed, match="another operation"):
            again()
    assert store.get_head(B, "q") is not None


@pytest.mark.parametrize("op_id", ["", "x" * 201, "a\nb", "é"])
def test_bad_operation_ids(store: SqliteStore, op_id: str) -> None:
    with pytest.raises(BadRequest):
        operations.delete_path(store, B, "p", ALWAYS, NOW, op_id=op_id)


def test_a_delete_that_never_gets_through(store: SqliteStore) -> None:
    put(store, "p")
    with pytest.raises(Unknown):
        operations.delete_path(scripted(store, *["drop"] * 8), B, "p", ALWAYS, NOW)
    with pytest.raises(Busy):
        operations.delete_path(scripted(store, *["busy"] * 8), B, "p", ALWAYS, NOW)


# --- move --------------------------------------------------------------------------------------------


def test_a_move_is_atomic_and_keeps_the_file(store: SqliteStore) -> None:
    first = put(store, "a")
    done = operations.move_path(store, B, "a", "b", ALWAYS, NOW)
    assert store.get_head(B, "a") is None
    assert done == Committed(replace(first.head, path="b", version=NOW + 1), None, repeated=False)
    assert store.get_head(B, "b") == done.head
    stored = store.get_file(first.head.file_id)
    assert stored is not None and head_of(stored) == done.head and stored.origin == "default/a"
    assert operations.delete_path(store, B, "b", ALWAYS, NOW) == done.head


def test_a_move_onto_a_file_needs_overwrite_and_trashes_it(store: SqliteStore) -> None:
    source, target = put(store, "a"), put(store, "b", now=NOW + 50)
    with pytest.raises(ConditionFailed, match="exists"):
        operations.move_path(store, B, "a", "b", ALWAYS, NOW)
    done = operations.move_path(store, B, "a", "b", ALWAYS, NOW, overwrite=True)
    assert done.replaced == target.head and done.head.version == NOW + 51
    assert done.head.file_id == source.head.file_id
    assert state_of(store, target.head.file_id) is FileState.TRASHED


def test_a_move_onto_itself_changes_nothing(store: SqliteStore) -> None:
    head = put(store, "a").head
    assert operations.move_path(store, B, "a", "a", ALWAYS, NOW, op_id="x") == Committed(
        head, None, repeated=False
    )
    assert store.get_head(B, "a") == head
    with pytest.raises(NotFound):
        operations.move_path(store, B, "z", "z", ALWAYS, NOW)


def test_a_move_is_conditional_on_its_source(store: SqliteStore) -> None:
    put(store, "a")
    with pytest.raises(ConditionFailed):
        operations.move_path(store, B, "a", "b", Precondition(if_match=(new_file_id(),)), NOW)
    with pytest.raises(NotFound):
        operations.move_path(store, B, "x", "b", ALWAYS, NOW)


@pytest.mark.parametrize("op_id", [None, "op-1"])
@pytest.mark.parametrize("act", ["lost", "drop", "late"])
def test_a_move_whose_answer_was_lost_succeeds_once(store: SqliteStore, act: str, op_id: str | None) -> None:
    source, target = put(store, "a").head, put(store, "b").head
    chaos = scripted(store, act)
    done = operations.move_path(chaos, B, "a", "b", ALWAYS, NOW, overwrite=True, op_id=op_id)
    assert (done.head.file_id, done.replaced) == (source.file_id, target)
    assert done.repeated == (act == "lost")
    assert chaos.arrive() in ([], [False])
    assert store.get_head(B, "b") == done.head


def test_a_repeated_move_does_not_move_the_file_that_came_since(store: SqliteStore) -> None:
    put(store, "a")
    done = operations.move_path(store, B, "a", "b", ALWAYS, NOW, op_id="x")
    newer = put(store, "a")
    again = operations.move_path(store, B, "a", "b", ALWAYS, NOW, op_id="x")
    assert again == replace(done, repeated=True)
    assert store.get_head(B, "a") == newer.head


def test_a_move_racing_an_overwrite_of_its_source_moves_the_new_file(store: SqliteStore) -> None:
    put(store, "a")
    newer: list[Committed] = []
    done = operations.move_path(
        scripted(store, lambda: newer.append(put(store, "a"))), B, "a", "b", ALWAYS, NOW
    )
    assert done.head.file_id == newer[0].head.file_id
    assert store.get_head(B, "a") is None


def test_a_move_racing_a_file_at_its_target(store: SqliteStore) -> None:
    put(store, "a"), put(store, "c")
    with pytest.raises(ConditionFailed):
        operations.move_path(scripted(store, lambda: put(store, "b")), B, "a", "b", ALWAYS, NOW)
    newer: list[Committed] = []
    chaos = scripted(store, lambda: newer.append(put(store, "b")))
    done = operations.move_path(chaos, B, "a", "b", ALWAYS, NOW, overwrite=True)
    assert done.replaced == newer[0].head


@pytest.mark.parametrize("op_id", [None, "x"])
def test_a_late_move_is_fenced_before_it_is_refused(store: SqliteStore, op_id: str | None) -> None:
    """Lost; refused, because a file has come to the target; that one deleted; arrives."""
    head = put(store, "a").head
    chaos = scripted(store, "late")
    chaos.at("get_head", 3, lambda: put(store, "b"))
    with pytest.raises(ConditionFailed, match="exists"):
        operations.move_path(chaos, B, "a", "b", ALWAYS, NOW, op_id=op_id)
    operations.delete_path(store, B, "b", ALWAYS, NOW)
    assert chaos.arrive() == [False]
    assert store.get_head(B, "a") == head and store.get_head(B, "b") is None


class Meddling:
    """A store in which `meddle` happens after the first look at the path `after`."""

    def __init__(self, store: SqliteStore, after: str, meddle: Callable[[], object]) -> None:
        self._store = store
        self._after = after
        self._meddle: Callable[[], object] | None = meddle

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def get_head(self, bucket: str, path: str) -> Any:
        head = self._store.get_head(bucket, path)
        if path == self._after and self._meddle is not None:
            meddle, self._meddle = self._meddle, None
            meddle()
        return head


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_move_that_sees_its_file_at_both_paths_looks_again(store: SqliteStore, overwrite: bool) -> None:
    put(store, "a")
    meddling: Any = Meddling(store, "a", lambda: operations.move_path(store, B, "a", "b", ALWAYS, NOW))
    with pytest.raises(NotFound):
        operations.move_path(meddling, B, "a", "b", ALWAYS, NOW, overwrite=overwrite)
    assert store.get_head(B, "a") is None and store.get_head(B, "b") is not None


def test_a_move_is_not_refused_for_two_files_that_were_never_there_together(store: SqliteStore) -> None:
    put(store, "a")

    def meddle() -> None:
        operations.delete_path(store, B, "a", ALWAYS, NOW)
        put(store, "b")

    meddling: Any = Meddling(store, "a", meddle)
    with pytest.raises(NotFound):
        operations.move_path(meddling, B, "a", "b", ALWAYS, NOW)


def test_moving_there_and_back_never_shows_an_old_version_again(store: SqliteStore) -> None:
    versions = [put(store, "a").head.version]
    for source, target in (("a", "b"), ("b", "a"), ("a", "b")):
        versions.append(operations.move_path(store, B, source, target, ALWAYS, NOW).head.version)
    assert versions == sorted(set(versions))


def test_crossing_moves_have_one_winner(store: SqliteStore) -> None:
    put(store, "a")
    chaos = scripted(store, lambda: operations.move_path(store, B, "a", "c", ALWAYS, NOW))
    with pytest.raises(NotFound):
        operations.move_path(chaos, B, "a", "b", ALWAYS, NOW)
    assert store.get_head(B, "b") is None and store.get_head(B, "c") is not None


# --- the whole, against a model ----------------------------------------------------------------------


class Pair:
    """The store and a dictionary, told to do the same; what is refused must leave both alike."""

    def __init__(self, store: SqliteStore) -> None:
        self.store = store
        self.model: dict[str, str] = {}

    def put(self, chaos: Any, path: str, now: int, condition: Precondition) -> None:
        record = a_record(path)
        try:
            commit(chaos, record, condition, now)
        except ConditionFailed:
            assert condition is ABSENT and path in self.model
            return
        assert condition is ALWAYS or path not in self.model
        self.model[path] = record.file_id

    def delete(self, chaos: Any, path: str, now: int) -> None:
        try:
            operations.delete_path(chaos, B, path, ALWAYS, now)
        except NotFound:
            assert path not in self.model
            return
        del self.model[path]

    def move(self, chaos: Any, path: str, to: str, now: int, overwrite: bool) -> None:
        try:
            operations.move_path(chaos, B, path, to, ALWAYS, now, overwrite=overwrite)
        except NotFound:
            assert path not in self.model
        except ConditionFailed:
            assert path in self.model and to in self.model and not overwrite
        else:
            self.model[to] = self.model.pop(path)


def test_random_operations_agree_with_a_dictionary(store: SqliteStore, rng: random.Random) -> None:
    pair = Pair(store)
    paths = [f"p{number}" for number in range(6)]
    for _ in range(400):
        path, now = rng.choice(paths), NOW + rng.randrange(50)
        chaos = scripted(store, rng.choice(["ok", "ok", "lost", "drop"]))
        kind = rng.randrange(4)
        if kind < 2:
            pair.put(chaos, path, now, (ALWAYS, ABSENT)[kind])
        elif kind == 2:
            pair.delete(chaos, path, now)
        else:
            pair.move(chaos, path, rng.choice(paths), now, bool(rng.randrange(2)))
        shown = {
            h.path: h.file_id for h in store.scan_heads(B, start="", inclusive=True, end=None, limit=100)
        }
        assert shown == pair.model
