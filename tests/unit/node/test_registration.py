"""dfs.node.registration: what the registry is told, and what its answers do to the node."""

from __future__ import annotations

import logging
import threading
from dataclasses import replace
from typing import Any

import pytest

from dfs import logs
from dfs.errors import StartError, Unavailable
from dfs.metadata.contract import OutcomeUnknown
from dfs.model import AdminState, NodeStatus
from dfs.node.registration import Registration
from dfs.node.standing import Standing
from tests.unit.node.fakes import NODE, USAGE, FakeRegistry, FakeStore


class Bench:
    """A registration on fakes; time stands still unless `now` is moved."""

    def __init__(self, interval: float = 30.0) -> None:
        self.registry = FakeRegistry()
        self.store = FakeStore()
        self.standing = Standing(self.store)
        self.lost: list[str] = []
        registry: Any = self.registry
        self.registration = Registration(
            registry,
            NODE,
            self.standing,
            cluster_id="c1",
            interval=interval,
            on_lost=self.lost.append,
            wall_ms=lambda: 1234,
        )


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Event words that were logged."""
    words: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            words.append(record.getMessage())

    monkeypatch.setattr(logs.LOGGER, "handlers", [Keep()])
    monkeypatch.setattr(logs.LOGGER, "propagate", False)
    logs.LOGGER.setLevel(logging.INFO)
    return words


def test_registering_publishes_space_status_and_the_time(bench: Bench) -> None:
    bench.registration.register()
    row = bench.registry.row
    assert row is not None
    assert (row.free_bytes, row.used_bytes, row.capacity_bytes, row.chunks) == (900, 100, 1000, 3)
    assert (row.status, row.heartbeat_seq, row.heartbeat_ts) == (NodeStatus.ACTIVE, 1, 1234)
    assert bench.registration.node == row


def test_every_heartbeat_has_a_new_number_and_the_space_of_its_moment(bench: Bench) -> None:
    bench.registration.register()
    bench.store.space = replace(USAGE, free_bytes=7)
    assert bench.registration.beat()
    bench.registry.failures = [OutcomeUnknown("lost")]
    assert not bench.registration.beat()
    assert bench.registration.beat()
    assert [node.heartbeat_seq for _, node in bench.registry.calls] == [1, 2, 3, 4]
    assert bench.registry.row is not None
    assert bench.registry.row.free_bytes == 7


def test_the_operators_state_reaches_the_node(bench: Bench) -> None:
    bench.registration.register()
    assert bench.registry.row is not None
    bench.registry.row = replace(bench.registry.row, admin_state=AdminState.DRAINING)
    bench.registration.beat()
    assert bench.standing.admin_state is AdminState.DRAINING
    assert bench.registration.node.admin_state is AdminState.ACTIVE, "the node never writes it"


def test_registering_keeps_a_drain_that_a_restart_must_not_undo(bench: Bench) -> None:
    bench.registry.row = replace(NODE, boot_id="older", admin_state=AdminState.DRAINING)
    bench.registration.register()
    assert bench.standing.admin_state is AdminState.DRAINING


def test_registering_over_another_disk_is_refused_with_both_disks_named(bench: Bench) -> None:
    bench.registry.row = replace(NODE, disk_id="other")
    with pytest.raises(StartError, match=r"node id n1 belongs to another disk \(other; this one is d1\)"):
        bench.registration.register()


@pytest.mark.parametrize("error", [Unavailable("no network"), OutcomeUnknown("lost")])
def test_metadata_that_is_away_is_said_once_and_stops_nothing(
    bench: Bench, events: list[str], error: Exception
) -> None:
    bench.registration.register()
    for _ in range(3):
        bench.registry.failures = [error]
        assert not bench.registration.beat()
        assert not bench.registration.reachable
    assert bench.registration.beat()
    assert bench.registration.beat()
    assert bench.registration.reachable
    assert events == ["registry.unreachable", "registry.reachable_again"]
    assert bench.lost == []
    bench.standing.check_takes_chunks()


def test_a_bug_does_not_end_the_heartbeats(bench: Bench, events: list[str]) -> None:
    bench.registration.register()
    bench.registry.failures = [RuntimeError("bug")]
    assert not bench.registration.beat()
    assert bench.registration.beat()
    assert events == ["heartbeat.broken"]


def test_a_newer_process_on_the_disk_ends_this_one(bench: Bench) -> None:
    bench.registration.register()
    bench.registry.row = replace(NODE, boot_id="newer", address="10.0.0.9", port=9)
    assert not bench.registration.beat()
    (sentence,) = bench.lost
    assert sentence.startswith("a newer process of node n1 has registered from 10.0.0.9:9: ")
    assert bench.standing.lost == sentence
    bench.registration.leave()
    assert [name for name, _ in bench.registry.calls] == ["register", "heartbeat"], "the row is the newer one's"


def test_another_disk_under_the_node_id_ends_this_one(bench: Bench) -> None:
    bench.registration.register()
    bench.registry.row = replace(NODE, disk_id="other")
    assert not bench.registration.beat()
    assert "belongs to another disk" in bench.lost[0]


def test_a_row_that_vanished_is_put_again(bench: Bench, events: list[str]) -> None:
    bench.registration.register()
    bench.registry.row = None
    assert bench.registration.beat()
    assert bench.registry.row is not None
    assert "node.registered_again" in events
    assert bench.registration.beat()
    assert bench.lost == []


def test_a_row_that_vanished_during_a_drain_comes_back_draining(bench: Bench) -> None:
    bench.registration.register()
    bench.standing.admin_state = AdminState.DRAINING
    bench.registry.row = None
    assert bench.registration.beat()
    assert bench.registry.row is not None
    assert bench.registry.row.admin_state is AdminState.DRAINING
    assert bench.standing.admin_state is AdminState.DRAINING


def test_a_row_that_vanished_after_decommissioning_is_not_put_again(bench: Bench) -> None:
    bench.registration.register()
    bench.standing.admin_state = AdminState.DECOMMISSIONED
    bench.registry.row = None
    assert not bench.registration.beat()
    assert bench.registry.row is None
    assert "no longer in the registry" in bench.lost[0]


def test_a_row_that_vanished_with_its_cluster_ends_the_node(bench: Bench) -> None:
    bench.registration.register()
    bench.registry.row = None
    bench.registry.cluster_id = "c2"
    assert not bench.registration.beat()
    assert bench.registry.row is None
    assert "another cluster" in bench.lost[0]


def test_a_row_that_vanished_and_came_back_as_anothers_ends_the_node(bench: Bench) -> None:
    bench.registration.register()
    bench.registry.row = None

    def taken() -> None:
        if bench.registry.calls[-1][0] == "register":
            bench.registry.row = replace(NODE, disk_id="other")

    bench.registry.on_call = taken
    assert not bench.registration.beat()
    assert "belongs to another disk" in bench.lost[0]


@pytest.mark.parametrize("error", [Unavailable("away"), OutcomeUnknown("lost"), StartError("no table")])
def test_a_row_that_vanished_while_metadata_is_away_is_put_again_later(bench: Bench, error: Exception) -> None:
    bench.registration.register()
    bench.registry.row = None

    def fail_registering() -> None:
        if bench.registry.calls[-1][0] == "register":
            bench.registry.failures = [error]
            bench.registry.on_call = lambda: None

    bench.registry.on_call = fail_registering
    assert not bench.registration.beat()
    assert bench.lost == []
    assert bench.registration.beat()
    assert bench.registry.row is not None


def test_a_stop_says_stopping_last(bench: Bench) -> None:
    bench.registration.register()
    bench.registration.start()
    bench.standing.stopping = True
    bench.registration.leave()
    assert bench.registry.row is not None
    assert bench.registry.row.status is NodeStatus.STOPPING


def test_a_stop_does_not_wait_for_a_heartbeat_that_hangs(
    bench: Bench, events: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dfs.node.registration.LEAVE_SECONDS", 0.01)
    bench.registration.register()
    hanging, go_on = threading.Event(), threading.Event()

    def hang() -> None:
        hanging.set()
        go_on.wait()

    bench.registry.on_call = hang
    bench.store.space = replace(USAGE, full=True)
    bench.registration.start()
    bench.registration.look()
    assert hanging.wait(60)
    bench.registration.leave()
    assert events[-1] == "heartbeat.stuck"
    go_on.set()


def test_a_change_of_status_is_published_at_once(bench: Bench) -> None:
    bench.registration.register()
    beaten = threading.Event()
    bench.registry.on_call = beaten.set
    bench.registration.start()
    bench.store.space = replace(USAGE, read_only_reason="fdatasync failed")
    bench.registration.look()
    assert beaten.wait(60), "the next heartbeat of the schedule is due in 30 s"
    bench.registration.leave()
    assert bench.registry.calls[1][1].status is NodeStatus.READ_ONLY


def test_the_schedule_goes_on_by_itself_and_survives_failures() -> None:
    bench = Bench(interval=0.001)
    bench.registration.register()
    bench.registry.failures = [Unavailable("away"), RuntimeError("bug")]
    enough = threading.Event()

    def count() -> None:
        if len(bench.registry.calls) >= 8:
            enough.set()

    bench.registry.on_call = count
    bench.registration.start()
    assert enough.wait(60)
    bench.registration.leave()


def test_heartbeats_end_when_the_row_is_lost() -> None:
    bench = Bench(interval=0.001)
    bench.registration.register()
    bench.registry.row = replace(NODE, disk_id="other")
    bench.registration.start()
    thread = bench.registration._thread
    assert thread is not None
    thread.join(60)
    assert not thread.is_alive()
    assert len(bench.lost) == 1


def test_a_disk_that_cannot_tell_its_space_does_not_end_the_heartbeats(events: list[str]) -> None:
    bench = Bench(interval=3600)
    bench.registration.register()
    asked = threading.Event()

    class Broken(FakeStore):
        def usage(self) -> Any:
            asked.set()
            raise OSError(5, "I/O error")

    bench.standing._store = Broken()
    bench.registration.start()
    bench.registration.look()
    assert asked.wait(60)
    bench.standing._store = bench.store
    bench.registration.leave()
    assert "heartbeat.broken" in events
    assert bench.registry.row is not None
    assert bench.registry.row.heartbeat_seq == 2


def test_a_change_of_the_bad_chunks_or_a_scrub_that_ended_goes_out_at_once(bench: Bench) -> None:
    bench.registration.register()
    assert not bench.registration._status_changed()
    bench.store.space = replace(USAGE, bad_chunks=2)
    assert bench.registration._status_changed()
    assert bench.registration.beat() and not bench.registration._status_changed()
    bench.standing.scrubbed_at = 99
    assert bench.registration._status_changed()
    assert bench.registration.beat() and not bench.registration._status_changed()
    row = bench.registry.row
    assert row is not None and (row.bad_chunks, row.scrubbed_at) == (2, 99)


def test_a_node_told_to_look_learns_of_a_drain_before_its_next_heartbeat(bench: Bench) -> None:
    bench.registration.register()
    bench.registration.start()
    try:
        row = bench.registry.row
        assert row is not None
        bench.registry.row = replace(row, admin_state=AdminState.DRAINING)
        assert bench.registration.beat_now(30)
        assert bench.standing.admin_state is AdminState.DRAINING
    finally:
        bench.registration.leave()


def test_a_look_at_a_registry_that_does_not_answer_says_so(bench: Bench) -> None:
    bench.registration.register()
    bench.registry.failures = [Unavailable("down")] * 1000
    bench.registration.start()
    try:
        assert not bench.registration.beat_now(0.05)
    finally:
        bench.registry.failures = []
        bench.registration.leave()
    assert not bench.registration.beat_now(30), "the heartbeats have ended: nobody waits"


def test_a_decommissioned_node_does_not_register(bench: Bench) -> None:
    bench.registry.row = replace(NODE, admin_state=AdminState.DECOMMISSIONED)
    with pytest.raises(StartError, match="python -m dfs.admin activate n1"):
        bench.registration.register()
