"""The audit, on SQLite and nodes in memory: every kind of finding, and no false one while things change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from dfs import errors
from dfs.cluster.nodeanswers import Verified
from dfs.metadata.steps import ChangeFile, PutReplica, RemoveFile, RemoveReplica
from dfs.model import AdminState, ChunkReplica, FileState, NodeInfo, new_file_id
from dfs.repair import holdings
from dfs.repair.auditresult import Kind, State, Verdict
from dfs.repair.sorting import Fact, FactKind, Sorting
from tests.unit.repair.audit_world import NOW, OLD, Key, World, found, once


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(holdings, "_PAUSE", 0.0)
    made = World(tmp_path)
    yield made
    made.store.close()


def test_a_whole_cluster_is_whole(world: World) -> None:
    for state in (FileState.COMMITTED, FileState.TRASHED, FileState.UPLOADING):
        world.file(state, chunks=3)
    world.file(chunks=0)
    result = world.audit()
    assert (result.verdict, result.state, result.reason) == (Verdict.WHOLE, State.DONE, "every chunk has its replicas")
    assert (result.files, result.chunks, result.replicas, result.bytes) == (4, 10, 20, 90)
    assert (found(result), world.marked()) == ({}, set())
    assert ("verify_many", "a") not in world.nodes.asked, "nothing was in doubt"


def test_an_empty_cluster_is_whole(world: World) -> None:
    result = world.audit()
    assert (result.verdict, result.files, result.oldest_verified) == (Verdict.WHOLE, 0, 0)


def test_a_replica_without_bytes_is_missing_named_and_marked_for_repair(world: World) -> None:
    file_id = world.file(chunks=3, path="dir/name")
    world.lose(file_id, 1, "b")
    result = world.audit()
    assert result.verdict is Verdict.DEGRADED
    assert found(result) == {"missing": 1, "under": 1}
    example = result.examples[Kind.MISSING][0]
    assert (example.file_id, example.chunk_index, example.node_id, example.path) == (file_id, 1, "b", "dir/name")
    assert world.marked() == {(file_id, 1)} and result.marked_short == 1


def test_a_chunk_that_a_node_knows_to_be_bad_is_corrupt(world: World) -> None:
    file_id = world.file(chunks=3)
    world.spoil(file_id, 2, "a", known=True)
    gone = world.file()
    world.spoil(gone, 0, "b", known=True)
    world.lose(gone, 0, "b")
    result = world.audit()
    assert found(result) == {"corrupt": 2, "under": 2}
    assert result.examples[Kind.CORRUPT][0].detail == "its bytes do not match"
    assert world.marked() == {(file_id, 2), (gone, 0)}


def test_a_chunk_that_only_reading_shows_to_be_bad_needs_verify(world: World) -> None:
    file_id = world.file(chunks=5)
    world.spoil(file_id, 2, "a")
    assert world.audit().verdict is Verdict.WHOLE
    result = world.audit(verify=True)
    assert (result.verdict, found(result)) == (Verdict.DEGRADED, {"corrupt": 1, "under": 1})
    assert (result.verified_now, result.never_verified, result.oldest_verified) == (10, 0, NOW)


def test_a_chunk_that_was_healed_meanwhile_is_no_finding(world: World) -> None:
    file_id = world.file()
    world.spoil(file_id, 0, "a", known=True)

    def heal(call: str, node_id: str) -> None:
        if call == "verify_many":
            world.nodes.nodes["a"].corrupt.clear()

    world.nodes.before = heal
    assert world.audit().verdict is Verdict.WHOLE


def test_other_bytes_than_the_row_says_are_wrong(world: World) -> None:
    file_id = world.file()
    world.change_bytes(file_id, 0, "a")
    result = world.audit()
    assert found(result) == {"wrong": 1, "under": 1}
    assert world.marked() == {(file_id, 0)}


def test_rows_that_contradict_each_other_are_wrong(world: World) -> None:
    file_id = world.file(on="a")
    world.transact(PutReplica(ChunkReplica(file_id, 0, "b", "f" * 64, 10, "secondary", OLD)))
    world.hold(file_id, 0, "b")
    world.change_bytes(file_id, 0, "b")
    assert found(world.audit()) == {"wrong": 1}


def test_rows_of_another_length_than_the_file_needs_are_wrong(world: World) -> None:
    file_id = world.file(on="")
    for name in "ab":
        world.row(file_id, 0, name, length=7)
        world.hold(file_id, 0, name, length=7)
    assert found(world.audit()) == {"wrong": 1}


def test_too_few_and_too_many_replicas(world: World) -> None:
    short, much = world.file(on="a"), world.file(on="abc")
    result = world.audit()
    assert found(result) == {"under": 1, "over": 1}
    assert world.marked() == {(short, 0)}
    world.row(short, 0, "c")
    world.hold(short, 0, "c")
    result = world.audit()
    assert (result.verdict, found(result)) == (Verdict.WHOLE, {"over": 1})
    assert result.examples[Kind.OVER][0].file_id == much
    assert "more copies" in result.reason


def test_replicas_in_one_zone_count_only_where_there_are_more(tmp_path: Path) -> None:
    world = World(tmp_path, zones=("x", "x", "y"))
    together, apart = world.file(on="ab"), world.file(on="bc")
    result = world.audit()
    assert (result.verdict, found(result)) == (Verdict.DEGRADED, {"same_zone": 1})
    assert result.examples[Kind.SAME_ZONE][0].file_id == together != apart
    world.store.close()


def test_no_copy_left_is_data_missing_and_the_file_is_named(world: World) -> None:
    gone = world.file(chunks=3, path="precious")
    for index in (0, 2):
        world.lose(gone, index, "ab")
    never = world.file(FileState.TRASHED, on="", path="no rows at all")
    result = world.audit()
    assert result.verdict is Verdict.DATA_MISSING
    assert found(result) == {"missing": 4, "no_copy": 3}
    named = {(lost.path, lost.bucket, lost.chunks, lost.state) for lost in result.lost_files}
    assert named == {("precious", "default", 2, "committed"), ("no rows at all", "default", 1, "trashed")}
    assert world.marked() == {(gone, 0), (gone, 2), (never, 0)}


def test_chunks_in_the_middle_and_at_the_end_that_nobody_knows_are_found(world: World) -> None:
    file_id = world.file(chunks=6)
    for index in (1, 2, 5):
        world.lose(file_id, index, "ab")
        world.transact(*[RemoveReplica(file_id, index, name) for name in "ab"])
    result = world.audit()
    assert found(result) == {"no_copy": 3}
    assert [example.chunk_index for example in result.examples[Kind.NO_COPY]] == [1, 2, 5]


def test_bytes_whose_row_is_lost_are_a_copy_that_nobody_can_read(world: World) -> None:
    file_id = world.file(on="a")
    world.transact(RemoveReplica(file_id, 0, "a"))
    result = world.audit()
    assert (result.verdict, found(result)) == (Verdict.DEGRADED, {"no_row": 1, "extra": 1})


def test_an_empty_file_that_no_node_knows_is_short_but_not_lost(world: World) -> None:
    world.file(chunks=0, on="")
    assert found(world.audit()) == {"under": 1}


def test_records_without_a_row_are_remarked_on_when_nothing_under_way_explains_them(world: World) -> None:
    stray, young = new_file_id(), new_file_id()
    world.hold(stray, 0, "c")
    world.hold(young, 0, "c", created=NOW - 1000)
    surplus = world.file()
    world.hold(surplus, 0, "c")
    audit = world.make()
    result = audit.run()
    assert (result.verdict, found(result)) == (Verdict.WHOLE, {"extra": 2})
    assert {(extra.file_id, extra.node_id) for extra in audit.extras()} == {(stray, "c"), (surplus, "c")}
    assert "no row" in result.reason


def test_files_that_are_being_deleted_are_left_out(world: World) -> None:
    deleting = world.file(FileState.DELETING, chunks=2)
    world.lose(deleting, 0, "a")
    world.lose(deleting, 1, "ab")
    assert found(world.audit()) == {}


def test_of_uploads_only_the_rows_there_are_count(world: World) -> None:
    upload = world.file(FileState.UPLOADING, chunks=4, on="ab")
    world.transact(*[RemoveReplica(upload, 3, name) for name in "ab"], RemoveReplica(upload, 1, "b"))
    world.row(upload, 7, "a")
    world.hold(upload, 7, "a")
    assert found(world.audit()) == {}
    world.lose(upload, 2, "a")
    world.lose(upload, 7, "a")
    assert found(world.audit()) == {"missing": 2}
    assert world.marked() == {(upload, 2), (upload, 7)}


def test_rows_that_belong_to_nothing(world: World) -> None:
    file_id = world.file(chunks=2)
    world.row(file_id, 2, "a")
    orphan = world.file(FileState.DELETING, on="b")
    world.transact(RemoveFile(orphan, frozenset({FileState.DELETING})))
    world.lose(orphan, 0, "b")
    result = world.audit()
    assert (result.verdict, found(result)) == (Verdict.DEGRADED, {"stray_row": 2})
    details = {example.detail for example in result.examples[Kind.STRAY_ROW]}
    assert details == {"the file has no record", "the file has 2 chunks"}


# --- nodes that do not answer --------------------------------------------------------------------------


def test_a_node_that_is_away_makes_what_depends_on_it_degraded(world: World) -> None:
    both, one = world.file(on="ac"), world.file(on="c")
    world.file(on="ab")
    world.nodes.nodes["c"].down = True
    result = world.audit()
    assert result.verdict is Verdict.DEGRADED and result.unreachable == ("c",)
    assert found(result) == {"under": 1, "unseen": 1, "unreachable_nodes": 1}
    assert "1 node did not answer" in result.reason
    assert result.examples[Kind.UNDER][0].detail == "1 of 2 copies, c did not answer"
    assert world.marked() == {(one, 0)} and both, "the other has two rows: the node may come back"


def test_a_chunk_without_rows_may_lie_on_a_node_that_is_away(world: World) -> None:
    world.file(on="")
    world.nodes.nodes["c"].down = True
    assert found(world.audit()) == {"unseen": 1, "unreachable_nodes": 1}


def test_a_node_that_is_away_and_on_which_nothing_depends_is_only_remarked_on(world: World) -> None:
    file_id = world.file(on="ab")
    world.row(file_id, 0, "c")
    world.nodes.nodes["c"].down = True
    result = world.audit()
    assert (result.verdict, result.unreachable) == (Verdict.WHOLE, ("c",))
    assert "1 node did not answer" in result.reason


def test_what_a_node_told_before_it_died_does_not_count(world: World) -> None:
    for _ in range(8):
        world.file(on="ab")
    pages = [0]

    def die(call: str, node_id: str) -> None:
        if (call, node_id) == ("inventory", "b"):
            pages[0] += 1
            world.nodes.nodes["b"].down = pages[0] > 2

    world.nodes.before = die
    assert found(world.audit()) == {"under": 8, "unreachable_nodes": 1}


def test_a_node_that_fails_a_moment_is_asked_again(world: World) -> None:
    world.file()
    failures = [errors.Busy("later"), errors.Unavailable("later")]

    def fail(call: str, node_id: str) -> None:
        if node_id == "a" and failures:
            raise failures.pop()

    world.nodes.before = fail
    assert world.audit().verdict is Verdict.WHOLE


def test_a_node_that_cannot_verify_when_asked_counts_as_away(world: World) -> None:
    file_id = world.file()
    world.lose(file_id, 0, "b")
    world.nodes.nodes["b"].deaf = {"verify_many"}
    assert found(world.audit()) == {"under": 1, "unreachable_nodes": 1}


def test_copies_on_nodes_that_are_ours_no_more_are_gone(world: World) -> None:
    registered = world.store.list_nodes()
    node = next(node for node in registered if node.node_id == "c")
    document = world.store.read_document("nodes")
    assert world.store.set_admin_state(
        node, AdminState.DECOMMISSIONED, at=1, until=0, guard=document, guard_name="nodes"
    )
    lost, short = world.file(on="c"), world.file(on="a")
    world.row(short, 0, "never-registered")
    result = world.audit()
    assert found(result) == {"no_copy": 1, "under": 1}
    assert result.lost_files[0].file_id == lost
    assert ("inventory", "c") not in world.nodes.asked


def test_a_node_too_busy_to_verify_counts_as_away(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.file(on="ab")
    real = world.nodes.verify_many

    def busy(node: NodeInfo, keys: Sequence[Key], *, deadline: object) -> list[Verified | errors.DfsError]:
        said = real(node, keys, deadline=deadline)
        return [errors.Busy("reading much") for _ in said] if node.node_id == "b" else said

    monkeypatch.setattr(world.nodes, "verify_many", busy)
    result = world.audit(verify=True)
    assert (found(result), result.unreachable) == ({"under": 1, "unreachable_nodes": 1}, ("b",))


def test_a_full_disk_for_temporary_files_ends_the_audit_everywhere(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(30):
        world.file(on="abc")
    real = Sorting.add

    def full(self: Sorting, facts: Sequence[Fact]) -> None:
        if any(fact.kind == FactKind.HELD for fact in facts):
            raise errors.Unavailable("the temporary files cannot be written: make room")
        real(self, facts)

    monkeypatch.setattr(Sorting, "add", full)
    with pytest.raises(errors.Unavailable, match="make room"):
        world.audit()


def test_nonsense_from_a_node_makes_it_count_as_away(world: World) -> None:
    world.file()
    world.hold("not a file id", 0, "b")
    assert found(world.audit()) == {"under": 1, "unreachable_nodes": 1}


# --- things that change meanwhile ----------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["inventory", "bad_chunks", "verify_many"])
def test_files_that_come_go_and_move_meanwhile_are_no_findings(world: World, moment: str) -> None:
    deleted, replaced, moved = world.file(chunks=3), world.file(), world.file()
    world.lose(world.file(path="x"), 0, "a")  # so that nodes are asked to verify at all

    def change() -> None:
        world.file(chunks=2)
        for file_id in (deleted, replaced):
            gone = {"state": FileState.DELETING, "touched_at": NOW}
            world.transact(ChangeFile(file_id, frozenset({FileState.COMMITTED}), gone))
        for index in range(3):
            world.lose(deleted, index, "ab")
        # As repair moves a copy: the new one, its row, the old row, the old one.
        world.hold(moved, 0, "c", created=NOW)
        world.row(moved, 0, "c")
        world.transact(RemoveReplica(moved, 0, "a"))
        world.lose(moved, 0, "a")

    once(world, moment, change)
    assert found(world.audit()) == {"missing": 1, "under": 1}


def test_a_copy_that_goes_between_the_reading_of_rows_and_the_question_to_the_node(world: World) -> None:
    file_id = world.file(on="abc")
    world.spoil(file_id, 0, "c", known=True)

    def trim() -> None:
        world.transact(RemoveReplica(file_id, 0, "c"))
        del world.nodes.nodes["c"].corrupt[file_id, 0]
        world.lose(file_id, 0, "c")

    once(world, "verify_many", trim)
    assert found(world.audit()) == {}


def test_a_row_that_comes_after_the_question_to_the_node(world: World) -> None:
    late = new_file_id()
    world.hold(late, 0, "a")

    def commit() -> None:
        world.row(late, 0, "a")
        world.row(late, 0, "b")
        world.hold(late, 0, "b")

    once(world, "verify_many", commit)
    result = world.audit()
    assert found(result) == {"stray_row": 2}, "rows by now, though no file: no record without a row"


# --- notes, ages, stopping -----------------------------------------------------------------------------


def test_notes_are_sent_again_word_for_word_the_same(world: World) -> None:
    committed, trashed = world.file(chunks=2), world.file(FileState.TRASHED)
    world.file(FileState.UPLOADING)
    world.file(FileState.DELETING)
    assert world.audit().notes_sent == 4
    first = list(world.nodes.nodes["a"].notes)
    assert {(note["file_id"], note["state"], note["op"], note["op_id"], note["at"]) for note in first} == {
        (committed, "committed", "audit", None, OLD),
        (trashed, "trashed", "audit", None, OLD + 1),
    }
    world.audit()
    again = world.nodes.nodes["a"].notes[len(first) :]
    key = repr
    assert sorted(again, key=key) == sorted(first, key=key)


def test_a_node_that_takes_no_notes_spoils_nothing(world: World) -> None:
    world.file()
    world.nodes.nodes["a"].deaf = {"notes"}
    result = world.audit()
    assert (result.verdict, result.notes_sent) == (Verdict.WHOLE, 1)


def test_the_age_of_verification(world: World) -> None:
    file_id = world.file(chunks=3)
    world.hold(file_id, 0, "a", verified=500)
    world.hold(file_id, 1, "b", verified=400)
    result = world.audit()
    assert (result.oldest_verified, result.never_verified) == (400, 4)


@pytest.mark.parametrize("moment", ["inventory", "verify_many", "bad_chunks"])
def test_an_audit_that_is_stopped_ends_soon(world: World, moment: str) -> None:
    for _ in range(10):
        world.lose(world.file(), 0, "a")
    once(world, moment, world.stopping.set)
    with pytest.raises(InterruptedError):
        world.audit(verify=moment == "verify_many")


def test_metadata_that_fails_fails_the_audit(world: World) -> None:
    def away(file_id: str) -> None:
        raise errors.Unavailable("away")

    world.lose(world.file(), 0, "a")
    world.store.get_file = away  # type: ignore[method-assign]
    with pytest.raises(errors.Unavailable):
        world.audit()
