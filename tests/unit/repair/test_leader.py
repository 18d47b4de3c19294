"""The leader of repair: who is lost when, which tours that makes, and what the next leader goes on with."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dfs import errors
from dfs.metadata.contract import OutcomeUnknown
from dfs.metadata.lease import LeaseHolder
from dfs.metadata.steps import PutShort, RemoveReplica
from dfs.model import AdminState, Document, FileState, new_file_id
from dfs.repair import auditresult
from dfs.repair.auditresult import AuditResult, State, Verdict
from dfs.repair.crew import Crew
from dfs.repair.leader import Leader, Tools
from dfs.repair.mend import Mender
from dfs.repair.pace import Pace
from dfs.repair.progress import DOCUMENT, Orders, RepairStatus, TourKind
from tests.unit.repair.stage import HOUR, Stage
from tests.unit.repair.world import Call, Key

MakeStage = Callable[..., Stage]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[MakeStage]:
    made: list[Stage] = []

    def stage(names: str = "abc", **more: Any) -> Stage:
        made.append(Stage(tmp_path, names, **more))
        return made[-1]

    yield stage
    for each in made:
        each.close()


def keys(file_ids: list[str], chunks: int = 1) -> list[Key]:
    return [(file_id, index) for file_id in file_ids for index in range(chunks)]


# --- who is lost, and when ---


def test_nothing_is_copied_before_the_delay_is_over_and_everything_after(make: MakeStage) -> None:
    stage = make(delay=60.0)
    files = [stage.file("ab"), stage.file("ac"), stage.file("bc")]
    status = stage.until(lambda status: status.whole_at > 0)
    assert (status.short, status.short_more, status.problems) == (0, False, ())
    stage.kill("a")
    status = stage.ticks(12)
    assert status.absent == {"a": 55.0} and not status.tours and not status.repaired
    assert [stage.rows((file_id, 0)) for file_id in files] == ["ab", "ac", "bc"]
    status = stage.tick()
    assert status.repaired == ("a",) and not status.tours
    assert all(len(stage.good((file_id, 0))) == 2 for file_id in files)
    assert (status.copied_chunks, status.copied_bytes, status.bytes_per_second) == (2, 20, 2.0)
    assert stage.ticks(2).whole_at > status.whole_at, "absent, but nothing depends on it"


def test_a_node_that_returns_is_trimmed_and_a_node_that_flaps_is_never_lost(make: MakeStage) -> None:
    stage = make(delay=20.0)
    files = [stage.file("ab", chunks=3), stage.file("ac"), stage.file("bc")]
    for _ in range(5):
        stage.kill("a")
        assert stage.ticks(4).absent == {"a": 15.0}
        stage.revive("a")
        assert stage.tick().absent == {}
    assert stage.status().copied_chunks == 0
    stage.kill("a")
    stage.until(lambda status: status.repaired == ("a",))
    assert all(len(stage.rows(key)) == 3 for key in keys(files[:1], 3))
    stage.revive("a")
    status = stage.until(lambda status: not status.tours)
    assert status.repaired == () and status.absent == {}
    assert all(len(stage.good(key)) == len(stage.rows(key)) == len(stage.holders(key)) == 2 for key in keys(files))


def test_what_is_too_much_is_trimmed_when_another_holder_was_silent_as_the_node_returned(make: MakeStage) -> None:
    stage = make(delay=20.0)
    key = stage.file("ab"), 0
    stage.kill("a")
    stage.until(lambda status: status.repaired == ("a",))
    assert stage.rows(key) == "abc"
    stage.kill("b")
    stage.revive("a")
    assert not stage.ticks(2).whole_at > stage.now_ms() - 15_000
    stage.revive("b")
    stage.until(lambda status: not status.tours)
    assert len(stage.good(key)) == len(stage.rows(key)) == len(stage.holders(key)) == 2


def test_a_registry_that_cannot_be_read_ages_nobody_and_stops_everything(make: MakeStage) -> None:
    stage = make(delay=30.0)
    stage.file("ab")
    stage.kill("a")
    assert stage.ticks(3).absent == {"a": 10.0}
    stage.store.registry_away = True
    given = stage.hands.given
    for _ in range(100):
        stage.tick()
    status = stage.status()
    assert status.absent["a"] <= 20.0 and not status.tours and not stage.marks()
    assert "registry" in status.problems[0]
    assert stage.hands.given - given <= 4, "but for what was begun before it was noticed"
    stage.store.registry_away = False
    assert stage.tick().absent["a"] <= 20.0, "the first look only begins to count"
    assert stage.ticks(5).repaired == ("a",)


def test_maintenance_is_waited_for_and_ends_by_itself(make: MakeStage) -> None:
    stage = make(delay=20.0)
    file_id = stage.file("ab")
    stage.set_state("a", AdminState.MAINTENANCE, until=stage.now_ms() + 60_000)
    stage.kill("a")
    status = stage.ticks(11)
    assert status.absent == {} and stage.rows((file_id, 0)) == "ab" and not status.whole_at
    assert stage.state("a") is AdminState.MAINTENANCE
    stage.ticks(2)
    assert stage.state("a") is AdminState.ACTIVE and stage.row("a").admin_until == 0
    assert stage.ticks(5).repaired == ("a",)


def test_an_order_skips_the_delay_and_is_cleared_when_the_node_lives(make: MakeStage) -> None:
    stage = make(delay=6000.0)
    stage.file("ab")
    stage.kill("a")
    stage.order(Orders(0, {"a": stage.now_ms(), "b": stage.now_ms(), "gone": 1}))
    status = stage.ticks(2)
    assert status.repaired == ("a",)
    assert stage.store.read_document("orders").value == {"repair_now": {"a": stage.now_ms() - 10_000}}  # type: ignore[union-attr]
    stage.revive("a")
    stage.ticks(2)
    assert stage.store.read_document("orders").value == {"repair_now": {}}  # type: ignore[union-attr]


@pytest.mark.parametrize("later", [True, False])
def test_the_last_word_on_a_node_in_maintenance_counts(make: MakeStage, later: bool) -> None:
    stage = make(delay=6000.0)
    stage.file("ab")
    stage.set_state("a", AdminState.MAINTENANCE, until=stage.now_ms() + HOUR)
    stage.kill("a")
    stage.order(Orders(0, {"a": stage.now_ms() + (1 if later else -1)}))
    assert stage.ticks(2).repaired == (("a",) if later else ())


# --- marks and bad chunks ---


def test_marked_chunks_are_verified_healed_and_unmarked_oldest_first(make: MakeStage) -> None:
    stage = make("abcd")
    files = [stage.file("ab") for _ in range(30)]
    for age, file_id in enumerate(files):
        stage.corrupt((file_id, 0), "a")
        stage.mark((file_id, 0), age_ms=age)
    stage.tick()
    healed = [key for key in stage.hands.keys if key in set(keys(files))]
    assert healed == list(reversed(keys(files)))
    assert all(len(stage.good(key)) == 2 for key in keys(files)) and not stage.marks()
    assert stage.ticks(2).short == 0


def test_marks_of_a_write_that_may_still_be_at_it_are_left_to_it(make: MakeStage) -> None:
    stage = make(write_seconds=30.0)
    young = stage.file("a", age_ms=1000)
    upload = stage.file("a", state=FileState.UPLOADING)
    for file_id in (young, upload):
        stage.mark((file_id, 0), age_ms=1000)
    assert stage.tick().short == 2
    assert [stage.rows((file_id, 0)) for file_id in (young, upload)] == ["a", "a"]
    stage.ticks(6)
    assert [len(stage.good((file_id, 0))) for file_id in (young, upload)] == [2, 2]
    assert not stage.marks()


def test_all_was_not_well_at_a_moment_at_which_a_chunk_was_marked(make: MakeStage) -> None:
    stage = make()
    file_id = stage.file("a")
    before = stage.until(lambda status: status.whole_at > 0).whole_at
    stage.mark((file_id, 0))
    status = stage.tick()
    assert not stage.marks() and len(stage.good((file_id, 0))) == 2
    began = status.at
    assert before <= stage.tick().whole_at < began
    assert stage.ticks(2).whole_at > began


def test_all_is_not_well_by_a_raised_factor_until_an_audit_says_so(make: MakeStage) -> None:
    stage = make(factor=1)
    key = stage.file("a"), 0
    stage.until(lambda status: status.whole_at > 0)
    stage.leader._stopping.set()
    stage.leader._run()  # as its thread ends
    stage.factor, stage.policy = 2, replace(stage.policy, factor=2)
    stage.lead()
    status = stage.ticks(4)
    assert status.whole_at == 0 and "raised from 1 to 2" in status.problems[0]
    stage.mark(key)  # by the audit
    assert stage.ticks(4).whole_at == 0 and len(stage.good(key)) == 2
    done = AuditResult("1", State.DONE, 1, 2, "me", False, ended_at=2, factor=2, verdict=Verdict.WHOLE)
    for audit, whole in ((replace(done, factor=1), False), (replace(done, verdict=Verdict.DEGRADED), False), (done, True)):
        for name in (auditresult.DOCUMENT, auditresult.LAST_DOCUMENT):
            stage.store.write_document(name, audit.to_json(), stage.store.read_document(name))
        status = stage.ticks(3)
        assert (status.whole_at > 0, not status.problems) == (whole, whole)


def test_marks_of_a_writer_whose_clock_is_far_ahead_are_not_left_to_it(make: MakeStage) -> None:
    stage = make(write_seconds=30.0)
    ahead = stage.file("a", age_ms=-24 * HOUR)
    upload = stage.file("a", state=FileState.UPLOADING, age_ms=-24 * HOUR)
    for file_id in (ahead, upload):
        stage.mark((file_id, 0), age_ms=-24 * HOUR)
    stage.tick()
    assert [len(stage.good((file_id, 0))) for file_id in (ahead, upload)] == [2, 2]
    assert not stage.marks()


def test_a_mark_that_is_put_again_while_the_chunk_is_healed_stays(make: MakeStage) -> None:
    stage = make()
    file_id = stage.file("ab")
    stage.mark((file_id, 0), age_ms=5)

    def hook(call: Call, after: bool) -> None:
        if call.name == "verify" and after:
            stage.hook = lambda call, after: None
            stage.mark((file_id, 0))

    stage.hook = hook
    stage.tick()
    assert stage.hands.keys.count((file_id, 0)) == 2 and not stage.marks(), "and it is looked at again"


def test_marks_of_files_that_are_gone_go(make: MakeStage) -> None:
    stage = make()
    stage.mark((stage.file("ab", state=FileState.DELETING), 0))
    stage.mark(("3f0c1a52-0d3e-4c56-9a51-6f3c1d2e4b5a", 3))
    stage.tick()
    assert not stage.marks()


def test_a_chunk_without_a_copy_is_named_keeps_its_mark_and_is_looked_at_slowly(make: MakeStage) -> None:
    stage = make()
    file_id = stage.file("ab")
    for name in "ab":
        stage.corrupt((file_id, 0), name)
    stage.mark((file_id, 0))
    status = stage.ticks(2)
    assert (status.unrecoverable, status.unrecoverable_chunks, status.short) == (1, ((file_id, 0),), 1)
    assert "no copy" in status.problems[0] and not status.whole_at
    tries = stage.hands.keys.count((file_id, 0))
    stage.ticks(20)
    assert stage.hands.keys.count((file_id, 0)) == tries and len(stage.marks()) == 1
    stage.nodes["b"].lose((file_id, 0))
    stage.put((file_id, 0), "b")
    status = stage.ticks(150)
    assert (status.unrecoverable, status.short) == (0, 0) and len(stage.good((file_id, 0))) == 2


def test_what_waits_is_tried_again_ever_less_often_and_at_once_when_nodes_change(make: MakeStage) -> None:
    stage = make("a")
    file_id = stage.file("a")
    stage.mark((file_id, 0))
    status = stage.ticks(100)
    assert (status.short, status.waiting) == (1, 1)
    assert 5 <= stage.hands.keys.count((file_id, 0)) <= 8
    stage.add("b")
    assert stage.ticks(2).short == 0 and len(stage.good((file_id, 0))) == 2


def test_marks_that_cannot_be_helped_do_not_hold_up_a_tour(make: MakeStage) -> None:
    stage = make("ab", factor=3, delay=10.0)
    for _ in range(40):
        stage.mark((stage.file("b"), 0))
    lost = stage.file("ab", chunks=5)
    stage.kill("a")
    stage.pass_time(5.0)
    stage.leader.step(0.0)
    for _ in range(3):
        stage.pass_time(5.0)
        for _ in range(4):
            stage.leader.step(0.0)
    assert {key for key in stage.hands.keys if key[0] == lost}


def test_what_nodes_know_to_be_bad_is_healed_page_by_page(make: MakeStage) -> None:
    stage = make("abc")
    stage.page = 4
    files = [stage.file("ab") for _ in range(10)]
    for file_id in files:
        stage.corrupt((file_id, 0), "a", known=True)
    stage.beat("a", bad_chunks=10)
    status = stage.ticks(3)
    assert status.bad == 10 and not status.whole_at
    assert all(len(stage.good(key)) == 2 for key in keys(files)) and not stage.nodes["a"].knows_bad
    stage.beat("a", bad_chunks=0)
    assert stage.ticks(3).whole_at


def test_a_bad_record_without_a_row_goes_once_the_chunk_is_whole(make: MakeStage) -> None:
    stage = make("abc")
    file_id = stage.file("ab")
    stage.put((file_id, 0), "c", row=False)
    stage.corrupt((file_id, 0), "c", known=True)
    stage.beat("c", bad_chunks=1)
    stage.ticks(2)
    assert stage.holders((file_id, 0)) == "ab"


def test_a_bad_chunk_that_cannot_be_mended_is_marked_once(make: MakeStage) -> None:
    stage = make("abc")
    file_id = stage.file("a")
    stage.corrupt((file_id, 0), "a", known=True)
    stage.beat("a", bad_chunks=1)
    stage.tick()
    marks = stage.marks()
    assert [mark.id for mark in marks] == [file_id]
    assert stage.ticks(20).unrecoverable == 1 and stage.marks() == marks


def test_a_node_that_does_not_tell_is_asked_again(make: MakeStage) -> None:
    stage = make("abc")
    file_id = stage.file("ab")
    stage.corrupt((file_id, 0), "a", known=True)

    def hook(call: Call, after: bool) -> None:
        if call.name == "bad_chunks":
            stage.hook = lambda call, after: None
            raise errors.Busy("later")

    stage.hook = hook
    stage.beat("a", bad_chunks=1)
    stage.ticks(2)
    assert len(stage.good((file_id, 0))) == 2


def test_a_reader_that_finds_a_bad_copy_need_not_wait_for_the_next_look(make: MakeStage) -> None:
    stage = make("abc", interval=3600.0)
    file_id = stage.file("ab")
    stage.tick(5.0)
    stage.corrupt((file_id, 0), "a")
    stage.mark((file_id, 0))
    stage.tick(5.0)
    assert stage.good((file_id, 0)) == "b"
    stage.leader.wake()
    stage.tick(5.0)
    assert len(stage.good((file_id, 0))) == 2 and not stage.marks()


# --- tours, and who goes on with them ---


def spread(stage: Stage, count: int = 60) -> list[str]:
    return [stage.file("ab") for _ in range(count)]


def begin_lost(stage: Stage) -> None:
    stage.kill("a")


def begin_returned(stage: Stage) -> None:
    stage.kill("a")
    stage.until(lambda status: status.repaired == ("a",))
    stage.revive("a")


def begin_drain(stage: Stage) -> None:
    stage.set_state("a", AdminState.DRAINING)


def begin_forget(stage: Stage) -> None:
    stage.set_state("a", AdminState.DECOMMISSIONED)
    stage.kill("a")


def begin_rebalance(stage: Stage) -> None:
    stage.add("e")
    stage.order(Orders(stage.now_ms()))


KINDS = {
    TourKind.LOST: begin_lost,
    TourKind.RETURNED: begin_returned,
    TourKind.DRAIN: begin_drain,
    TourKind.FORGET: begin_forget,
    TourKind.REBALANCE: begin_rebalance,
}


def settled(stage: Stage, kind: TourKind, files: list[str]) -> None:
    """What a tour of the kind is for has come about."""
    for key in keys(files):
        rows = stage.rows(key)
        assert len(stage.good(key)) == 2, rows
        if kind in (TourKind.RETURNED, TourKind.REBALANCE):
            assert len(rows) == len(stage.holders(key)) == 2
        if kind in (TourKind.DRAIN, TourKind.FORGET):
            assert "a" not in rows
    if kind is TourKind.DRAIN:
        assert stage.state("a") is AdminState.DRAINED and not stage.nodes["a"].chunks
    if kind is TourKind.LOST:
        assert stage.status().repaired == ("a",)
    if kind is TourKind.REBALANCE:
        assert stage.nodes["e"].chunks and stage.status().rebalanced_at


@pytest.mark.parametrize("saved", [True, False], ids=["stopped", "killed"])
@pytest.mark.parametrize("kind", list(KINDS))
def test_the_next_leader_goes_on_in_the_middle_of_a_tour(make: MakeStage, kind: TourKind, saved: bool) -> None:
    stage = make("abcd", delay=20.0)
    files = spread(stage)
    stage.ticks(2)
    KINDS[kind](stage)
    steps = 0
    while not any(tour.kind is kind and 10 < tour.chunks_done < 50 for tour in stage.status().tours):
        stage.pass_time(0.5)
        stage.leader.step(0.0)
        steps += 1
        assert steps < 1000
    stage.leader.step(0.0)
    if saved:
        stage.leader._stopping.set()
        stage.leader._run()  # as its thread ends
        done = next(tour for tour in stage.written().tours if tour.kind is kind)
        assert (done.copied_bytes > 0) is (kind in (TourKind.LOST, TourKind.DRAIN, TourKind.REBALANCE, TourKind.FORGET))
        assert done.cursor is not None and done.chunks_done > 10
    given = stage.hands.given
    stage.lead()
    status = stage.until(lambda status: not status.tours and status.whole_at > stage.now_ms() - 20_000)
    settled(stage, kind, files)
    assert status.unrecoverable == 0 and given > 10


@pytest.mark.parametrize("kind", list(KINDS))
def test_leaders_that_die_again_and_again_come_to_an_end(make: MakeStage, kind: TourKind) -> None:
    stage = make("abcd", delay=20.0)
    files = spread(stage, 40)
    stage.ticks(2)
    KINDS[kind](stage)
    for _ in range(12):
        for _ in range(6):
            stage.pass_time(1.0)
            stage.leader.step(0.0)
        stage.lead()
    stage.until(lambda status: not status.tours and status.whole_at > stage.now_ms() - 20_000)
    settled(stage, kind, files)


def test_a_new_leader_goes_on_counting_absence(make: MakeStage) -> None:
    stage = make(delay=100.0)
    stage.file("ab")
    stage.kill("a")
    assert stage.ticks(11).absent == {"a": 50.0}
    stage.lead()
    assert stage.tick().absent == {"a": 50.0}
    assert stage.ticks(9).repaired == ()
    assert stage.ticks(2).repaired == ("a",)


def test_a_node_that_lived_between_two_leaders_is_not_taken_for_repaired(make: MakeStage) -> None:
    stage = make(delay=20.0)
    stage.file("ab")
    stage.kill("a")
    stage.until(lambda status: status.repaired == ("a",))
    stage.beat("a")
    late = stage.file("ab")
    stage.kill("a")
    stage.lead()
    status = stage.tick()
    assert (status.repaired, status.absent) == ((), {"a": 0.0})
    stage.until(lambda status: status.repaired == ("a",))
    assert len(stage.good((late, 0))) == 2


@pytest.mark.parametrize("done", [True, False], ids=["repaired", "halfway"])
def test_a_node_that_returns_between_two_leaders_is_trimmed_all_the_same(make: MakeStage, done: bool) -> None:
    stage = make(delay=20.0)
    files = spread(stage, 30)
    stage.kill("a")
    if done:
        stage.until(lambda status: status.repaired == ("a",))
    else:
        stage.ticks(4)
        while not any(tour.chunks_done > 10 for tour in stage.status().tours):
            stage.pass_time(1.0)
            stage.leader.step(0.0)
    stage.leader._stopping.set()
    stage.leader._run()  # as its thread ends
    stage.revive("a")
    stage.lead()
    status = stage.until(lambda status: not status.tours)
    assert status.repaired == () and status.absent == {}
    assert all(len(stage.good(key)) == len(stage.rows(key)) == len(stage.holders(key)) == 2 for key in keys(files))


def test_a_lost_tour_is_not_over_while_chunks_wait(make: MakeStage) -> None:
    stage = make("ab", delay=10.0)
    file_id = stage.file("ab")
    stage.kill("a")
    status = stage.ticks(20)
    assert (status.repaired, status.waiting) in (((), 0), ((), 1))
    assert any("lost of node a" in problem and "no node takes" in problem for problem in status.problems)
    stage.add("c")
    assert stage.ticks(2).repaired == ("a",)
    assert stage.good((file_id, 0)) == "bc"


def test_a_lost_node_with_the_only_copy_is_not_repaired_until_it_is_back(make: MakeStage) -> None:
    stage = make(delay=10.0)
    file_id = stage.file("a")
    stage.kill("a")
    status = stage.ticks(10)
    assert status.repaired == () and status.unrecoverable == 1 and len(stage.marks()) == 1
    stage.revive("a")
    status = stage.until(lambda status: not status.tours and not status.short)
    assert status.unrecoverable == 0 and len(stage.good((file_id, 0))) == 2 and not stage.marks()


# --- drain, forget, rebalance ---


def test_a_drain_ends_with_an_empty_inventory_whatever_the_index_says(make: MakeStage) -> None:
    stage = make("abcd")
    late = stage.file("ab", chunks=3)
    stage.store.hidden = frozenset({late})
    files = spread(stage, 5)
    stage.set_state("a", AdminState.DRAINING)
    status = stage.ticks(6)
    assert all("a" not in stage.rows(key) for key in keys(files))
    assert stage.state("a") is AdminState.DRAINING and "have a row" in status.tours[0].waits_for
    stage.store.hidden = frozenset()
    stage.until(lambda status: stage.state("a") is AdminState.DRAINED)
    assert not stage.nodes["a"].chunks and all(len(stage.good(key)) == 2 for key in keys([late], 3))
    assert not stage.ticks(2).tours


def test_a_drain_judges_records_without_a_row(make: MakeStage) -> None:
    stage = make("abc", upload_ttl=3600.0)
    committed = stage.file("bc")
    stage.put((committed, 0), "a", row=False)
    unknown = "3f0c1a52-0d3e-4c56-9a51-6f3c1d2e4b5a"
    stage.put((unknown, 0), "a", row=False, age_ms=3_000_000)
    going = stage.file("", state=FileState.DELETING)
    stage.put((going, 0), "a", row=False)
    fresh = stage.file("bc")
    stage.put((fresh, 0), "a", row=False, age_ms=0)
    stage.set_state("a", AdminState.DRAINING)
    status = stage.ticks(6)
    assert set(stage.nodes["a"].chunks) == {(unknown, 0), (going, 0), (fresh, 0)}
    assert "uploaded or deleted" in status.tours[0].waits_for and "too young" in status.tours[0].waits_for
    stage.ticks(20)
    assert set(stage.nodes["a"].chunks) == {(unknown, 0), (going, 0)}
    stage.nodes["a"].lose((going, 0))
    for _ in range(60):
        stage.pass_time(10.0)
    stage.until(lambda status: stage.state("a") is AdminState.DRAINED)
    assert unknown in stage.nodes["a"].erased


def test_a_drain_does_not_erase_what_metadata_may_have_lost(make: MakeStage) -> None:
    stage = make("abc", upload_ttl=60.0)
    for number in range(30):
        stage.put((f"3f0c1a52-0d3e-4c56-9a51-6f3c1d2e4b{number:02x}", 0), "a", row=False)
    stage.set_state("a", AdminState.DRAINING)
    status = stage.ticks(30)
    assert len(stage.nodes["a"].chunks) == 30 and "belong to no file" in status.tours[0].waits_for


def test_a_node_that_does_not_know_that_it_is_draining_is_not_declared_empty(make: MakeStage) -> None:
    stage = make("abc")
    stage.set_state("a", AdminState.DRAINING)
    stage.knows["a"] = "active"
    status = stage.ticks(10)
    assert stage.state("a") is AdminState.DRAINING and "does not know" in status.tours[0].waits_for
    stage.knows["a"] = "draining"
    stage.tick()
    assert stage.state("a") is AdminState.DRAINING, "what it had begun to store gets time to end"
    stage.tick()
    assert stage.state("a") is AdminState.DRAINED


def test_a_drain_waits_for_a_node_that_is_away_and_is_given_up_when_told(make: MakeStage) -> None:
    stage = make("abc", delay=1000.0)
    stage.set_state("a", AdminState.DRAINING)
    stage.kill("a")
    status = stage.ticks(5)
    assert "does not answer" in status.tours[0].waits_for
    stage.revive("a")
    stage.set_state("a", AdminState.ACTIVE)
    assert not stage.tick().tours


def test_another_command_on_nodes_comes_between(make: MakeStage) -> None:
    stage = make("abc")
    stage.set_state("a", AdminState.DRAINING)
    real: Any = stage.store.set_admin_state
    refused = []

    def set_admin_state(*args: Any, **named: Any) -> bool:
        if not refused:
            refused.append(True)
            return False
        return bool(real(*args, **named))

    stage.store.set_admin_state = set_admin_state  # type: ignore[method-assign]
    stage.until(lambda status: stage.state("a") is AdminState.DRAINED)
    assert refused


def test_rows_of_a_decommissioned_node_go_once_others_have_copies(make: MakeStage) -> None:
    stage = make("abc")
    files = spread(stage, 10)
    only = stage.file("a")
    stage.set_state("a", AdminState.DECOMMISSIONED)
    stage.kill("a")
    stage.ticks(5)
    assert all(len(stage.good(key)) == 2 and "a" not in stage.rows(key) for key in keys(files))
    assert stage.rows((only, 0)) == "a", "nobody else has it"
    assert stage.tours() == [(TourKind.FORGET, "a")] and stage.status().unrecoverable == 1
    stage.store.transact([RemoveReplica(only, 0, "a")])
    assert not stage.until(lambda status: not status.tours, 150).tours


def test_a_rebalance_towards_a_new_node_ends_and_the_next_moves_nothing(make: MakeStage) -> None:
    stage = make("abc")
    files = [stage.file(on) for on in ("ab", "bc", "ac") * 20]
    stage.add("d")
    stage.order(Orders(stage.now_ms()))
    status = stage.until(lambda status: status.rebalanced_at > 0 and not status.tours)
    assert stage.store.read_document("orders").value == {"repair_now": {}}  # type: ignore[union-attr]
    assert 15 <= len(stage.nodes["d"].chunks) <= 45, "of 120 copies a quarter, give or take"
    assert all(len(stage.good(key)) == len(stage.holders(key)) == 2 for key in keys(files))
    copied = status.copied_chunks
    stage.order(Orders(stage.now_ms()))
    status = stage.until(lambda later: later.rebalanced_at > status.rebalanced_at and not later.tours)
    assert status.copied_chunks == copied


def test_a_rebalance_rests_while_a_node_is_away(make: MakeStage) -> None:
    stage = make("abc", delay=1000.0)
    for on in ("ab", "bc", "ac") * 10:
        stage.file(on)
    stage.add("d")
    stage.kill("c")
    stage.order(Orders(stage.now_ms()))
    status = stage.ticks(5)
    assert status.copied_chunks == 0 and all("node c is away" in tour.waits_for for tour in status.tours[:1])
    stage.revive("c")
    assert stage.until(lambda status: status.rebalanced_at > 0 and not status.tours).copied_chunks > 0


def test_a_rebalance_that_is_stopped_leaves_every_chunk_whole(make: MakeStage) -> None:
    stage = make("abc")
    files = [stage.file(on) for on in ("ab", "bc", "ac") * 20]
    stage.add("d")
    stage.order(Orders(stage.now_ms()))
    while stage.status_or_none() is None or stage.status().copied_chunks < 3:
        stage.pass_time(1.0)
        stage.leader.step(0.0)
    stage.order(Orders(stop_rebalance_at=stage.now_ms()))
    copied = stage.ticks(2).copied_chunks
    assert not stage.tours() and stage.ticks(3).copied_chunks == copied
    assert stage.store.read_document("orders").value == {"repair_now": {}}  # type: ignore[union-attr]
    assert all(len(stage.good(key)) == len(stage.holders(key)) == 2 for key in keys(files))


# --- the document, and who may write it ---


def test_a_leader_that_finds_a_later_ones_document_resigns(make: MakeStage) -> None:
    stage = make()
    stage.ticks(2)
    old = stage.store.read_document(DOCUMENT)
    assert old is not None
    other = RepairStatus(at=1, leader="other", generation=1, fence=9).to_json()
    stage.store.write_document(DOCUMENT, other, old)
    stage.pass_time(10.0)
    stage.leader.step(0.0)
    assert not stage.leader.leading and stage.leader._term is None
    assert stage.written().leader == "other"


def test_an_earlier_leaders_last_words_are_overruled(make: MakeStage) -> None:
    stage = make()
    stage.ticks(2)
    old = stage.store.read_document(DOCUMENT)
    assert old is not None
    stage.store.write_document(DOCUMENT, RepairStatus(leader="other").to_json(), old)
    for _ in range(4):
        stage.tick()
    assert stage.leader.leading and stage.written().leader != "other"


@pytest.mark.parametrize("applied", [True, False])
def test_a_lost_answer_to_the_document_is_looked_up(make: MakeStage, applied: bool) -> None:
    stage = make(delay=0.0)
    stage.ticks(2)
    real = stage.store.write_document
    lost: list[bool] = []

    def write(name: str, value: dict[str, Any], seen: Document | None) -> Document | None:
        if not lost:
            lost.append(True)
            if applied:
                real(name, value, seen)
            raise OutcomeUnknown("lost")
        return real(name, value, seen)

    stage.store.write_document = write  # type: ignore[method-assign]
    stage.kill("a")
    stage.ticks(4)
    assert stage.leader.leading and stage.written().repaired == ("a",)


def test_a_document_that_cannot_be_understood_costs_nothing_but_time(make: MakeStage) -> None:
    stage = make()
    for name in (DOCUMENT, "strays"):
        stage.store.write_document(name, {"absent": 7, "tours": [{"kind": "odd"}], "nodes": {"a": 5}}, None)
    stage.file("ab")
    assert stage.ticks(4).whole_at > 0


def test_it_writes_at_most_every_two_seconds_unless_something_begins_or_ends(make: MakeStage) -> None:
    stage = make("abcd", interval=0.5, delay=5.0)
    stage.ticks(4)
    version = stage.store.read_document(DOCUMENT).version  # type: ignore[union-attr]
    stage.ticks(40)
    assert stage.store.read_document(DOCUMENT).version - version <= 10  # type: ignore[union-attr]
    version = stage.store.read_document(DOCUMENT).version  # type: ignore[union-attr]
    stage.kill("a")
    stage.ticks(16)
    status = stage.written()
    assert status.repaired == ("a",) and status.at > stage.now_ms() - 2500
    assert stage.store.read_document(DOCUMENT).version - version <= 4 + 2  # type: ignore[union-attr]


def test_it_does_nothing_without_the_lease(make: MakeStage) -> None:
    stage = make(delay=0.0)
    stage.file("ab")
    stage.kill("a")
    stage.lease.release()
    given = stage.hands.given
    for _ in range(5):
        stage.clock.now += 5
        stage.leader.step(0.0)
    assert stage.hands.given == given and not stage.leader.leading
    assert stage.leader.away(replace(stage.row("a"))), "and gives nobody up"


# --- when things go wrong ---


def test_metadata_that_fail_in_the_middle_of_a_round_of_marks_end_it_and_nothing_else(make: MakeStage) -> None:
    stage = make()
    files = spread(stage, 12)
    for file_id in files:
        stage.mark((file_id, 0))
    real = stage.store.gc_entries
    trouble = [errors.Unavailable("away")]

    def gc_entries(*args: Any, **named: Any) -> Any:
        if trouble:
            raise trouble.pop()
        return real(*args, **named)

    stage.store.gc_entries = gc_entries  # type: ignore[method-assign]
    stage.pass_time(5.0)
    with pytest.raises(errors.Unavailable):
        stage.leader.step(0.0)
    assert stage.status().short_more and not stage.status().whole_at
    stage.ticks(3)
    assert not stage.marks() and stage.status().short == 0


@pytest.mark.parametrize("error", [errors.Unavailable("away"), ZeroDivisionError("a bug")])
def test_a_chunk_whose_mending_fails_waits(make: MakeStage, error: Exception) -> None:
    stage = make(delay=10.0)
    file_id = stage.file("ab")
    mark = stage.file("ab")
    stage.mark((mark, 0))
    real: Any = stage.leader._parts.mender.mend
    trouble = {(file_id, 0), (mark, 0)}

    def mend(*key: Any, **named: Any) -> Any:
        if key in trouble:
            raise error
        return real(*key, **named)

    stage.leader._parts.mender.mend = mend  # type: ignore[method-assign]
    stage.kill("a")
    stage.ticks(5)
    status = stage.status()
    assert status.repaired == () and status.waiting == 3 and str(error) in status.problems[0]
    trouble.clear()
    stage.until(lambda status: status.repaired == ("a",) and not status.short)


def test_many_marks_are_never_all_in_memory(make: MakeStage) -> None:
    stage = make("a", factor=1)
    for _ in range(2):
        file_id = stage.file("", chunks=180, state=FileState.DELETING)
        for first in (0, 90):
            stage.store.transact([PutShort(file_id, index, index) for index in range(first, first + 90)])
    pages: list[int] = []
    real = stage.store.gc_entries

    def gc_entries(partition: str, **named: Any) -> Any:
        pages.append(named.get("limit", 1000))
        return real(partition, **named)

    stage.store.gc_entries = gc_entries  # type: ignore[method-assign]
    stage.pass_time(5.0)
    stage.leader.step(0.0)
    status = stage.status()
    assert status.short_more and status.short < 10
    stage.tick()
    assert set(pages) == {100} and 18 <= len(pages) <= 40 and not stage.marks()


def test_a_node_drained_and_to_be_drained_again_at_once(make: MakeStage) -> None:
    stage = make("abc")
    stage.set_state("a", AdminState.DRAINING)
    stage.until(lambda status: stage.state("a") is AdminState.DRAINED)
    file_id = stage.file("bc")
    stage.set_state("a", AdminState.ACTIVE)
    stage.put((file_id, 0), "a")
    stage.clock.now += 0.1
    stage.set_state("a", AdminState.DRAINING)
    stage.until(lambda status: stage.state("a") is AdminState.DRAINED)
    assert stage.good((file_id, 0)) == "bc" and not stage.nodes["a"].chunks


def test_an_inventory_that_cannot_be_read_is_read_again(make: MakeStage) -> None:
    stage = make("abc")

    def hook(call: Call, after: bool) -> None:
        if call.name in ("look", "inventory") and call.node == "a":
            raise errors.Busy("much to do")

    stage.hook = hook
    stage.set_state("a", AdminState.DRAINING)
    assert "much to do" in stage.ticks(4).tours[0].waits_for
    stage.hook = lambda call, after: None
    stage.until(lambda status: stage.state("a") is AdminState.DRAINED)


@pytest.mark.parametrize("error", [errors.Unavailable("away"), OutcomeUnknown("lost")])
def test_a_state_whose_setting_fails_is_set_again(make: MakeStage, error: Exception) -> None:
    stage = make("abc")
    real: Any = stage.store.set_admin_state
    trouble = [error]

    def set_admin_state(*args: Any, **named: Any) -> bool:
        if trouble and args[1] is AdminState.DRAINED:
            raise trouble.pop()
        return bool(real(*args, **named))

    stage.store.set_admin_state = set_admin_state  # type: ignore[method-assign]
    stage.set_state("a", AdminState.DRAINING)
    stage.until(lambda status: stage.state("a") is AdminState.DRAINED)
    assert not trouble


def test_where_the_walks_over_inventories_are_is_written_by_whoever_leads(make: MakeStage) -> None:
    stage = make()
    stage.ticks(4)
    document = stage.store.read_document("strays")
    assert document is not None and set(document.value["nodes"]) == {"a", "b", "c"}
    stage.store.write_document("strays", {"nodes": {}}, document)
    stage.add("d")
    stage.ticks(8)
    assert set(stage.store.read_document("strays").value["nodes"]) == {"a", "b", "c", "d"}  # type: ignore[union-attr]


@pytest.mark.parametrize("error", [errors.Unavailable("away"), ZeroDivisionError("a bug")])
def test_last_words_that_cannot_be_written_hold_up_no_stop(make: MakeStage, error: Exception) -> None:
    stage = make()
    stage.tick()

    def write(*_: Any) -> None:
        raise error

    stage.store.write_document = write  # type: ignore[method-assign]
    stage.leader._stopping.set()
    stage.leader._run()  # as its thread ends
    assert stage.written().leader


def test_a_lost_answer_about_the_walks_is_looked_up(make: MakeStage) -> None:
    stage = make()
    real = stage.store.write_document

    def write(name: str, value: dict[str, Any], seen: Document | None) -> Document | None:
        written = real(name, value, seen)
        if name == "strays":
            raise OutcomeUnknown("lost")
        return written

    stage.store.write_document = write  # type: ignore[method-assign]
    stage.ticks(6)
    assert set(stage.store.read_document("strays").value["nodes"]) == {"a", "b", "c"}  # type: ignore[union-attr]


# --- with its own threads ---


def test_its_threads_work_survive_trouble_and_leave_at_once(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "abc", delay=0.0, interval=0.02)
    stage.lease.release()
    file_id = stage.file("ab")
    stage.kill("a")
    done, entered, go = threading.Event(), threading.Event(), threading.Event()
    first = threaded(stage)
    trouble: list[Exception] = [errors.Unavailable("away"), ZeroDivisionError("a bug")]
    real = stage.store.gc_partitions

    def gc_partitions(kind: Any) -> list[str]:
        if trouble:
            raise trouble.pop()
        return real(kind)

    def hook(call: Call, after: bool) -> None:
        if call.name == "pull" and not after and not entered.is_set():
            entered.set()
            go.wait(30)
        if call.name == "pull" and after:
            done.set()

    stage.store.gc_partitions = gc_partitions  # type: ignore[method-assign]
    stage.hook = hook
    first.start()
    first.wake()
    assert entered.wait(30), "it got as far as the copy"
    first.stop(0.4)
    assert not first.leading and first.fence() is None
    second = threaded(stage)
    second.start()
    assert done.wait(30), "another goes on while that copy still hangs"
    go.set()
    second.stop(30.0)
    assert len(stage.good((file_id, 0))) == 2
    assert stage.store.read_lease("repair").owner == ""  # type: ignore[union-attr]
    stage.close()


def threaded(stage: Stage) -> Leader:
    """A leader with threads of its own, and the real clock for them."""
    name = new_file_id()
    calls: Any = stage.calls

    def tools(leader: Leader) -> Tools:
        mender = Mender(
            stage.store, stage.membership, stage.placement, calls, factor=2,
            pace=Pace(1e12, lambda: 0.0, lambda seconds: False), fence=leader.fence, away=leader.away,
            now_ms=stage.now_ms,
        )  # fmt: skip
        return Tools(calls, mender, Crew(2))

    return Leader(
        stage.store, stage.cluster, stage.membership, stage.placement, calls,
        LeaseHolder(stage.store, "repair", name, 15.0), name, stage.policy, mbps=100, jobs=2, tools=tools,
    )  # fmt: skip
