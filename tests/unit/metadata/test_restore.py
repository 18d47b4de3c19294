"""Out of the trash: each interleaving and each lost answer by name."""

from __future__ import annotations

from typing import Any

import pytest

from dfs.errors import ConditionFailed, NotFound, Unknown
from dfs.metadata import operations, restore
from dfs.metadata.contract import GcEntry, StepsRefused
from dfs.metadata.operations import ALWAYS, LATEST
from dfs.metadata.sqlite import SqliteStore
from dfs.model import FileState, Head, new_file_id
from tests.support.fakes.scripted_store import Act, ScriptedStore
from tests.support.metadata_records import NOW, put

B = "default"


def scripted(store: SqliteStore, *script: Act) -> Any:
    return ScriptedStore(store, *script)


def trashed(store: SqliteStore, path: str = "p", at: int = NOW + 10) -> Head:
    put(store, path)
    return operations.delete_path(store, B, path, ALWAYS, at)


def back(store: Any, which: str = LATEST, path: str = "p", now: int = NOW + 20, **more: Any) -> Head:
    return operations.restore_path(store, B, path, which, now, **more)


def state_of(store: SqliteStore, file_id: str) -> FileState | None:
    record = store.get_file(file_id)
    return record.state if record else None


def test_a_restored_file_is_what_it_was_under_a_higher_version(store: SqliteStore) -> None:
    was = trashed(store)
    head = back(store, was.file_id)
    assert head == store.get_head(B, "p")
    assert head == operations.head_of(store.get_file(was.file_id))  # type: ignore[arg-type]
    assert (head.file_id, head.sha256, head.modified, head.version) == (was.file_id, was.sha256, NOW, NOW + 20)
    record = store.get_file(was.file_id)
    assert record is not None and (record.state, record.retired) == (FileState.COMMITTED, "")
    assert store.gc_entries("trashed#default") == []


def test_a_clock_that_lags_gives_a_higher_version_all_the_same(store: SqliteStore) -> None:
    was = trashed(store)
    assert back(store, was.file_id, now=5).version == was.version + 1


@pytest.mark.parametrize("to", [None, "q"])
def test_a_restored_file_is_above_what_left_the_path_by_a_clock_ahead(store: SqliteStore, to: str | None) -> None:
    was = trashed(store)
    ahead = put(store, to or "p", now=NOW + 60_000).head
    operations.delete_path(store, B, ahead.path, ALWAYS, NOW + 60_000)
    assert back(store, was.file_id, to=to).version == ahead.version + 1
    operations.delete_path(store, B, ahead.path, ALWAYS, NOW + 30)
    assert back(store, path=ahead.path, now=NOW + 40).file_id == was.file_id, "it was the last"


def test_a_delete_to_the_trash_is_no_answer_to_a_purge_under_the_same_id(store: SqliteStore) -> None:
    first = put(store, "p").head
    operations.delete_path(store, B, "p", ALWAYS, NOW + 1, op_id="id")
    with pytest.raises(ConditionFailed, match="another operation"):
        operations.delete_path(store, B, "p", ALWAYS, NOW + 2, purge=True, op_id="id")
    assert state_of(store, first.file_id) is FileState.TRASHED
    second = put(store, "q").head
    for _ in range(2):
        assert operations.delete_path(store, B, "q", ALWAYS, NOW + 3, purge=True, op_id="other") == second


def test_what_was_restored_can_be_deleted_and_restored_again(store: SqliteStore) -> None:
    was = trashed(store)
    versions = [was.version]
    for turn in range(3):
        versions.append(back(store, now=NOW).version)
        operations.delete_path(store, B, "p", ALWAYS, NOW + 30 + turn)
    assert versions == sorted(set(versions))


def test_the_latest_is_the_last_that_the_path_showed(store: SqliteStore) -> None:
    files = [put(store, "p", now=NOW + 1000 * number).head for number in range(5)]
    trashed(store, "p0")
    trashed(store, "p/q")
    operations.delete_path(store, B, "p", ALWAYS, NOW + 9000)
    assert back(store, now=NOW + 20 * 86_400_000).file_id == files[-1].file_id
    operations.delete_path(store, B, "p", ALWAYS, NOW + 21 * 86_400_000, purge=True)
    assert back(store, now=NOW + 22 * 86_400_000).file_id == files[-2].file_id, "found beyond every window"


def test_the_latest_of_a_path_that_no_key_holds(store: SqliteStore) -> None:
    paths = ["é" * 511 + tail for tail in "xy"]
    heads = [trashed(store, path) for path in paths]
    for path, head in zip(paths, heads, strict=True):
        assert back(store, path=path).file_id == head.file_id


def test_entries_that_are_not_true_any_more_are_passed_over(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = put(store, "p").head
    second = put(store, "p", now=NOW + 5).head
    operations.delete_path(store, B, "p", ALWAYS, NOW + 10)
    stale = store.gc_entries("trashed#default")
    back(store, second.file_id)
    operations.move_path(store, B, "p", "elsewhere", ALWAYS, NOW + 30)

    def lagging(partition: str, *, after: str | None = None, **_: Any) -> list[GcEntry]:
        return [entry for entry in stale if after is None or entry.key > after]

    monkeypatch.setattr(store, "gc_entries", lagging)
    assert back(store, now=NOW + 40).file_id == first.file_id


def test_to_another_path(store: SqliteStore) -> None:
    was = trashed(store)
    newer = put(store, "p").head
    head = back(store, was.file_id, to="q")
    assert (store.get_head(B, "q"), store.get_head(B, "p")) == (head, newer)
    record = store.get_file(was.file_id)
    assert record is not None and (record.path, record.origin) == ("q", "default/p")


@pytest.mark.parametrize("op_id", [None, "op-1"])
@pytest.mark.parametrize("which", ["id", LATEST])
def test_a_path_that_is_taken_refuses(store: SqliteStore, which: str, op_id: str | None) -> None:
    was = trashed(store)
    newer = put(store, "p").head
    with pytest.raises(ConditionFailed, match=newer.file_id):
        back(store, was.file_id if which == "id" else LATEST, op_id=op_id)
    assert state_of(store, was.file_id) is FileState.TRASHED and store.get_head(B, "p") == newer


@pytest.mark.parametrize("op_id", [None, "op-1"])
def test_what_is_not_in_the_trash_is_not_found(store: SqliteStore, op_id: str | None) -> None:
    shown = put(store, "shown").head
    gone = trashed(store, "gone")
    operations.purge_trashed(store, B, "gone", gone.file_id, NOW)
    elsewhere = trashed(store, "elsewhere")
    cases = ((shown.file_id, "shown"), (gone.file_id, "gone"), (elsewhere.file_id, "p"), (new_file_id(), "p"), (LATEST, "p"))
    for number, (which, path) in enumerate(cases):
        with pytest.raises(NotFound, match="trash"):
            back(store, which, path, op_id=op_id and f"{op_id}-{number}")
        with pytest.raises(NotFound, match="trash"):
            operations.purge_trashed(store, B, path, which, NOW, op_id=op_id and f"purge-{number}")
    with pytest.raises(NotFound):
        operations.restore_path(store, "uploads", "elsewhere", elsewhere.file_id, NOW)


def test_restored_twice_under_one_id_is_restored_once(store: SqliteStore) -> None:
    was = trashed(store)
    head = back(store, op_id="op-1")
    assert back(store, op_id="op-1", now=NOW + 99) == head
    operations.delete_path(store, B, "p", ALWAYS, NOW + 100)
    assert back(store, op_id="op-1", now=NOW + 101) == head, "told what happened then"
    assert store.get_head(B, "p") is None and state_of(store, was.file_id) is FileState.TRASHED
    with pytest.raises(ConditionFailed, match="another operation"):
        back(store, op_id="op-1", to="q")


def test_a_refused_restore_stays_refused_under_its_id(store: SqliteStore) -> None:
    with pytest.raises(NotFound):
        back(store, op_id="op-1")
    was = trashed(store)
    with pytest.raises(NotFound):
        back(store, op_id="op-1")
    assert state_of(store, was.file_id) is FileState.TRASHED


@pytest.mark.parametrize("op_id", [None, "op-1"])
@pytest.mark.parametrize("act", ["lost", "drop", "late"])
@pytest.mark.parametrize("verb", ["restore", "purge"])
def test_a_lost_answer_is_found_out_and_nothing_happens_twice(
    store: SqliteStore, verb: str, act: str, op_id: str | None
) -> None:
    was = trashed(store)
    chaos = scripted(store, act)
    if verb == "restore":
        assert back(chaos, was.file_id, op_id=op_id) == store.get_head(B, "p")
    else:
        assert operations.purge_trashed(chaos, B, "p", was.file_id, NOW + 20, op_id=op_id) == was
        assert state_of(store, was.file_id) is FileState.DELETING
    before = store.get_file(was.file_id)
    assert not any(chaos.arrive())
    assert store.get_file(was.file_id) == before


@pytest.mark.parametrize("verb", ["restore", "purge"])
def test_a_late_arrival_after_a_refusal_does_nothing(store: SqliteStore, verb: str) -> None:
    """The first attempt is under way when the file leaves the trash by other means; then the client is refused."""
    was = trashed(store)
    chaos = scripted(store, "late", lambda: back(store, was.file_id, to="other"))
    with pytest.raises(NotFound):
        if verb == "restore":
            back(chaos, was.file_id, op_id="op-1")
        else:
            operations.purge_trashed(chaos, B, "p", was.file_id, NOW + 20, op_id="op-1")
    operations.delete_path(store, B, "other", ALWAYS, NOW + 10)
    operations.restore_path(store, B, "other", was.file_id, NOW, to="p")
    operations.delete_path(store, B, "p", ALWAYS, NOW + 10)
    assert not any(chaos.arrive())
    assert state_of(store, was.file_id) is FileState.TRASHED


def test_a_path_taken_in_between_refuses_and_one_freed_again_does_not(store: SqliteStore) -> None:
    was = trashed(store)
    with pytest.raises(ConditionFailed):
        back(scripted(store, lambda: put(store, "p")), was.file_id)

    def freed_again() -> None:
        put(store, "q")
        operations.delete_path(store, B, "q", ALWAYS, NOW)

    assert back(scripted(store, freed_again), was.file_id, to="q").path == "q"


def test_without_an_answer_at_all_the_outcome_is_unknown(store: SqliteStore) -> None:
    was = trashed(store)
    with pytest.raises(Unknown):
        back(scripted(store, "dark"), was.file_id)
    with pytest.raises(Unknown):
        operations.purge_trashed(scripted(store, "dark"), B, "p", was.file_id, NOW)


def test_an_end_of_retention_that_lost_to_a_restore_does_nothing(store: SqliteStore) -> None:
    was = trashed(store)
    (entry,) = store.gc_entries("trashed#default")
    back(store, was.file_id)
    with pytest.raises(StepsRefused):
        store.transact([restore.expire(entry, NOW)])
    operations.delete_path(store, B, "p", ALWAYS, NOW + 10)
    with pytest.raises(StepsRefused):
        store.transact([restore.expire(entry, NOW)])
    assert state_of(store, was.file_id) is FileState.TRASHED, "in the trash again, and not as old"


# --- an index that lags ------------------------------------------------------------------------------


class Lagging:
    """The index shows nothing that came after `seen` until `pauses` pauses have been made."""

    def __init__(self, store: SqliteStore, monkeypatch: pytest.MonkeyPatch, pauses: int) -> None:
        self.left = pauses
        real, seen = store.gc_entries, {entry.id for entry in store.gc_entries("trashed#default")}

        def entries(partition: str, **more: Any) -> list[GcEntry]:
            found = real(partition, **more)
            return [each for each in found if each.id in seen] if self.left > 0 else found

        monkeypatch.setattr(store, "gc_entries", entries)
        monkeypatch.setattr(store, "index_lag", 1.0, raising=False)

    def pause(self, seconds: float) -> None:
        assert 0 < seconds <= 1.0
        self.left -= 1


@pytest.mark.parametrize("older", [False, True])
def test_a_file_deleted_just_now_is_the_latest_where_the_index_lags(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, older: bool
) -> None:
    for version in range(2 if older else 1):
        put(store, "p", now=NOW + version)
    index = Lagging(store, monkeypatch, pauses=2)
    newest = operations.delete_path(store, B, "p", ALWAYS, NOW + 3)
    assert back(store, pause=index.pause).file_id == newest.file_id


def test_a_file_of_an_earlier_delete_is_not_the_latest_where_the_index_lags(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    trashed(store, at=NOW)
    put(store, "p", now=NOW + 1)
    index = Lagging(store, monkeypatch, pauses=2)
    newest = operations.delete_path(store, B, "p", ALWAYS, NOW + 3)
    assert back(store, pause=index.pause).file_id == newest.file_id


def test_where_nothing_comes_the_older_one_is_taken_in_the_end(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = put(store, "p").head
    put(store, "p", now=NOW + 1)
    operations.delete_path(store, B, "p", ALWAYS, NOW + 3, purge=True)
    index = Lagging(store, monkeypatch, pauses=99)
    assert back(store, pause=index.pause).file_id == older.file_id
    assert index.left == 95


def test_a_path_that_shows_a_file_is_not_waited_for(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, "p")
    put(store, "p", now=NOW + 1)
    index = Lagging(store, monkeypatch, pauses=9)
    with pytest.raises(ConditionFailed):
        back(store, pause=index.pause)
    assert index.left == 9
