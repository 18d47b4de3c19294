"""Records whose row is not known: what goes, when, and what stops everything."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dfs import errors
from dfs.metadata.steps import PutReplica
from dfs.model import ChunkReplica, ClusterInfo, FileState, new_file_id
from dfs.repair.progress import Orders
from dfs.repair.strays import DOCUMENT, Strays, Trail, Verdict, too_many
from tests.unit.cluster.fakes import info, sha
from tests.unit.repair.stage import HOUR, Stage
from tests.unit.repair.world import Call

DAY = 24 * HOUR


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path, "abc", write_seconds=5.0)
    yield made
    made.close()


def stray(stage: Stage, file_id: str, name: str = "c", *, age_ms: int = 2 * DAY) -> None:
    stage.put((file_id, 0), name, row=False, age_ms=age_ms)


def test_each_record_gets_what_the_rule_says(stage: Stage) -> None:
    fine = stage.file("ac", age_ms=2 * DAY)
    surplus = stage.file("ab", age_ms=2 * DAY)
    trashed = stage.file("ab", state=FileState.TRASHED, age_ms=2 * DAY)
    young = stage.file("ab")
    uploading = stage.file("ab", state=FileState.UPLOADING, age_ms=2 * DAY)
    deleting = stage.file("ab", state=FileState.DELETING, age_ms=2 * DAY)
    short = stage.file("a", age_ms=2 * DAY)
    unknown, unknown_young = new_file_id(), new_file_id()
    for file_id in (surplus, trashed, uploading, deleting, short, unknown):
        stray(stage, file_id)
    for file_id in (young, unknown_young):
        stray(stage, file_id, age_ms=HOUR)
    stage.ticks(6)
    kept = {fine, young, uploading, deleting, short, unknown_young}
    assert {key[0] for key in stage.nodes["c"].chunks} == kept
    assert stage.nodes["c"].erased == {unknown}
    assert not stage.status().problems


def test_a_surplus_record_stays_while_the_others_are_not_proved(stage: Stage) -> None:
    file_id = stage.file("ab", age_ms=2 * DAY)
    stray(stage, file_id)
    stage.corrupt((file_id, 0), "a")
    stage.ticks(6)
    assert (file_id, 0) in stage.nodes["c"].chunks


def test_a_record_that_is_used_while_it_is_dropped_is_marked(stage: Stage) -> None:
    file_id = stage.file("ab", age_ms=2 * DAY)
    stray(stage, file_id)
    data = stage.nodes["c"].chunks[file_id, 0]

    def hook(call: Call, after: bool) -> None:
        if call.name == "drop" and call.node == "c" and not after:
            stage.hook = lambda call, after: None
            stage.store.transact([PutReplica(ChunkReplica(file_id, 0, "c", sha(data), 10, "secondary", 1))])

    stage.hook = hook
    stage.until(lambda status: (file_id, 0) not in stage.nodes["c"].chunks)
    stage.ticks(3)
    assert not stage.marks()
    assert len(stage.good((file_id, 0))) == len(stage.rows((file_id, 0))) == 2, "healed, and trimmed"


def test_a_copy_that_is_being_made_is_not_taken_for_a_stray(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "ab", factor=1)
    ideal = ""
    while ideal != "b":
        file_id = new_file_id()
        ideal = stage.placement.nodes_for(file_id, 0, stage.membership.view())[0].node_id
    stage.file("a", age_ms=2 * DAY, file_id=file_id)
    key = (file_id, 0)
    stray(stage, file_id, "b")  # as the pull finds it: there is nothing to fetch

    def hook(call: Call, after: bool) -> None:
        if call.name == "verify" and call.node == "b" and after:
            stage.hook = lambda call, after: None
            removed.append(stage.leader._parts.rule.remove(stage.row("b"), {key: Verdict.DROP}))

    removed: list[int] = []
    stage.hook = hook
    stage.order(Orders(stage.now_ms()))
    stage.tick()
    assert removed == [0]
    assert stage.good(key) == stage.rows(key) == "b"
    stage.close()


def test_a_write_under_way_is_not_erased_whatever_the_clocks_say(stage: Stage) -> None:
    write, leftover = new_file_id(), new_file_id()
    for file_id in (write, leftover):
        for name in "ab":
            stray(stage, file_id, name)  # stored just now by nodes whose clocks are two days behind
    stage.ticks(2)
    stage.file("ab", file_id=write)
    stage.ticks(8)
    assert stage.good((write, 0)) == "ab"
    assert stage.nodes["a"].erased == stage.nodes["b"].erased == {leftover}


def test_a_walk_that_ended_in_the_future_is_repeated() -> None:
    a = info("a")
    trail = Trail(a.disk_id, 1, ended_at=5000)
    assert Strays({"a": trail}, 1000).next([a], "a", 4500) is None
    assert Strays({"a": trail}, 1000).next([a], "a", 2000) == (a, 0)


def test_any_number_of_files_is_erased(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dfs.repair.strays.MAX_ERASE", 2)
    unknown = {new_file_id() for _ in range(5)}
    for file_id in unknown:
        stray(stage, file_id)
    asked: list[Call] = []
    stage.hook = lambda call, after: asked.append(call) if call.name == "erase" and not after else None
    doomed = {(file_id, 0): Verdict.ERASE for file_id in unknown}
    stage.leader.step(0.0)
    assert stage.leader._parts.rule.remove(stage.row("c"), doomed) == 5
    assert len(asked) == 3 and stage.nodes["c"].erased == unknown
    stage.lease.release()
    assert stage.leader._parts.rule.remove(stage.row("c"), doomed) == 0


def test_nothing_goes_when_metadata_know_nothing_of_too_much(stage: Stage) -> None:
    known = [stage.file("ac", age_ms=2 * DAY) for _ in range(20)]
    for _ in range(11):
        stray(stage, new_file_id())
    status = stage.ticks(6)
    assert len(stage.nodes["c"].chunks) == len(known) + 11
    assert any("11 of 31 records of node c" in problem for problem in status.problems)
    for key in list(stage.nodes["c"].chunks)[-1:]:
        stage.nodes["c"].lose(key)
    stage.leader._stopping.set()
    stage.leader._run()  # as its thread ends
    stage.clock.now += DAY / 1000
    stage.membership.refresh()
    stage.lead()
    status = stage.ticks(8)
    assert len(stage.nodes["c"].chunks) == len(known) and not status.problems, "ten can come about"


@pytest.mark.parametrize("doomed, of, braked", [(10, 0, False), (11, 1100, False), (11, 1099, True), (200, 19_999, True)])
def test_how_much_is_too_much(doomed: int, of: int, braked: bool) -> None:
    assert too_many(doomed, of) is braked


@pytest.mark.parametrize("found", [ClusterInfo("other", 1, 1), None, "generation"])
def test_nothing_goes_when_the_metadata_are_of_another_cluster(stage: Stage, found: Any) -> None:
    surplus, unknown = stage.file("ab", age_ms=2 * DAY), new_file_id()
    stray(stage, surplus)
    stray(stage, unknown)
    real = stage.store.cluster_info()

    def cluster_info() -> ClusterInfo:
        if found is None:
            raise errors.StartError("there is no cluster#info")
        return found if isinstance(found, ClusterInfo) else replace(real, generation=real.generation + 1)

    stage.store.cluster_info = cluster_info  # type: ignore[method-assign]
    stage.ticks(6)
    assert {key[0] for key in stage.nodes["c"].chunks} == {surplus, unknown}


def test_a_walk_is_resumed_where_it_was_and_not_repeated_before_its_time(stage: Stage) -> None:
    stage.page = 3
    for _ in range(10):
        stage.file("c", age_ms=2 * DAY)
    stray(stage, new_file_id())
    stage.ticks(5)
    reads: list[Call] = []
    stage.hook = lambda call, after: reads.append(call) if call.name == "inventory" and not after else None
    document = stage.store.read_document(DOCUMENT)
    assert document is not None
    stage.lead()
    stage.ticks(6)
    walked = Strays.from_json(stage.store.read_document(DOCUMENT).value, 1).trails  # type: ignore[union-attr]
    assert set(walked) == {"a", "b", "c"} and walked["c"].ended_at > 0
    before = len(reads)
    stage.ticks(5)
    assert len(reads) == before


def test_what_goes_wrong_is_left_for_the_next_walk(stage: Stage) -> None:
    unknown = new_file_id()
    stray(stage, unknown)

    def hook(call: Call, after: bool) -> None:
        if call.name in ("inventory", "erase") and call.node == "c":
            raise errors.Busy("later")

    stage.hook = hook
    stage.ticks(5)
    assert (unknown, 0) in stage.nodes["c"].chunks
    stage.hook = lambda call, after: None
    stage.ticks(5)
    assert (unknown, 0) not in stage.nodes["c"].chunks


def test_nodes_take_turns_and_a_new_disk_begins_anew() -> None:
    a, b = info("a"), info("b")
    old = Trail("another disk", 1, sequence=900, seen=5)
    strays = Strays({"a": old, "gone": old}, 1000)
    asked = [strays.next([a, b], "ab", 10) for _ in range(3)]
    assert asked == [(a, 0), (b, 0), (a, 0)]
    assert set(strays.trails) == {"a", "b"} and strays.trails["a"].seen == 0


def test_what_is_written_is_read_again() -> None:
    strays = Strays({"a": Trail("d", 1, 2, 3, 4, 5)}, 1000)
    assert Strays.from_json(strays.to_json(), 1000).trails == strays.trails
    assert Strays.from_json({}, 1000).trails == {}
