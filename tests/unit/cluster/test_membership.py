"""Liveness as one reader sees it. The clock is the test's; nothing here waits for time to pass."""

from __future__ import annotations

import threading

import pytest

from dfs.cluster.membership import PROBE_EVERY, Membership
from dfs.errors import Unavailable
from dfs.model import AdminState, NodeInfo, NodeStatus
from tests.unit.cluster.fakes import CLUSTER, Clock, Inline, Never, Registry, info


class Probed:
    """A membership whose probes the test answers: nodes in `silent` do not."""

    def __init__(self, *nodes: NodeInfo, timeout: float = 60.0) -> None:
        self.registry = Registry(*nodes)
        self.clock = Clock()
        self.silent: set[str] = set()
        self.probed: list[str] = []
        self.alive_when_probed = ""
        self.broken = False
        self.now_ms = 0
        self.it = Membership(
            self.registry.as_store(),
            CLUSTER,
            heartbeat_timeout=timeout,
            probe=self._probe,
            clock=self.clock,
            now_ms=lambda: self.now_ms,
            probers=Inline(),
        )

    def _probe(self, node: NodeInfo) -> bool:
        self.probed.append(node.node_id)
        self.alive_when_probed = self.alive()
        if self.broken:
            raise ZeroDivisionError
        return node.node_id not in self.silent

    def round(self, seconds: float = 0.0) -> None:
        """What the refresher thread does every two seconds."""
        self.clock.now += seconds
        self.it._round(everyone=False)

    def writable(self) -> str:
        return "".join(node.node_id for node in self.it.view().writable)

    def alive(self) -> str:
        return "".join(member.info.node_id for member in self.it.view().members if member.alive)

    def suspect(self) -> str:
        return "".join(member.info.node_id for member in self.it.view().members if member.suspect)


@pytest.fixture
def three() -> Probed:
    probed = Probed(info("a"), info("b"), info("c"))
    probed.it.refresh()
    return probed


def test_a_fresh_server_knows_the_living_at_once_and_is_not_held_up_by_the_dead() -> None:
    probed = Probed(info("a"), info("b"), info("dead"))
    probed.silent.add("dead")
    probed.it.refresh()
    assert probed.writable() == "ab"
    assert probed.alive() == "ab"


def test_a_node_whose_heartbeat_changes_stays_alive(three: Probed) -> None:
    for _ in range(50):
        for node_id in "ab":
            three.registry.beat(node_id)
        three.silent.add("c")
        three.round(2.0)
    assert three.alive() == "ab"
    assert three.writable() == "ab"


def test_a_node_without_heartbeat_that_answers_calls_stays_alive(three: Probed) -> None:
    for _ in range(50):
        three.it.report_success("a")
        three.silent.update("bc")
        three.round(2.0)
    assert three.alive() == "a"


def test_a_node_without_heartbeat_that_answers_probes_is_used(three: Probed) -> None:
    for _ in range(50):
        three.round(2.0)
    assert three.writable() == "abc"


def test_a_node_without_heartbeat_counts_as_alive_until_it_was_asked(three: Probed) -> None:
    while not three.probed[3:]:
        three.round(2.0)
    assert three.alive_when_probed == "abc"
    three.silent.add("b")
    del three.probed[:]
    while "b" not in three.probed:
        assert three.alive() == "abc"
        three.round(2.0)
    assert three.alive() == "ac"


def test_a_node_that_speaks_another_version_is_left_alone() -> None:
    probed = Probed(info("a"), info("future", wire_version=3), info("next", wire_version=2))
    probed.it.refresh()
    assert [node.node_id for node in probed.it.view().writable] == ["a", "next"]
    assert probed.probed == ["a", "next"]


def test_time_in_which_the_registry_cannot_be_read_ages_nobody(three: Probed) -> None:
    three.silent.update("abc")
    three.registry.failure = Unavailable("metadata is away")
    for _ in range(100):
        three.round(60.0)
    three.registry.failure = None
    three.round(60.0)
    assert three.alive() == "abc"
    assert three.it.read_age() == 0


def test_a_process_that_was_stopped_for_an_hour_takes_nobody_for_dead(three: Probed) -> None:
    three.silent.update("abc")
    three.round(3600.0)
    assert three.writable() == "abc"


def test_a_failed_call_makes_suspect_at_once_and_a_probe_clears_it(three: Probed) -> None:
    three.silent.add("b")
    three.it.report_failure("b", "refused")
    assert (three.writable(), three.suspect(), three.alive()) == ("ac", "b", "abc")
    three.it.report_failure("b", "refused")
    three.round()
    assert three.writable() == "ac"
    three.silent.clear()
    three.round(PROBE_EVERY / 2)
    assert three.writable() == "ac", "probed every two seconds, not more often"
    three.round(PROBE_EVERY / 2)
    assert three.writable() == "abc"


def test_a_node_whose_probes_work_and_whose_calls_fail_is_trusted_less_each_time(three: Probed) -> None:
    waits: list[float] = []
    for _ in range(7):
        three.it.report_failure("a", "stalled")
        began = three.clock.now
        while three.writable() != "abc":
            three.it.report_success("a") if len(waits) else None
            three.round(0.5)
            three.registry.beat("a")
        waits.append(three.clock.now - began)
    assert waits == sorted(waits)
    assert waits[0] <= 0.5 and waits[2] >= 4 and waits[-1] <= 31
    three.clock.now += 100
    three.it.report_failure("a", "stalled")
    three.round()
    assert three.writable() == "abc", "long ago is forgotten"


def test_a_successful_call_clears_a_first_suspicion(three: Probed) -> None:
    three.it.report_failure("a", "reset")
    three.it.report_success("a")
    assert three.writable() == "abc"


def test_a_node_that_refuses_is_left_out_until_its_next_heartbeat(three: Probed) -> None:
    three.it.report_refusal("a", "node_full")
    three.it.report_refusal("a", "node_full")
    view = three.it.view()
    assert (three.writable(), three.suspect(), view.full) == ("bc", "", 1)
    three.round(2)
    assert three.writable() == "bc"
    three.registry.beat("a")
    three.round(2)
    assert three.writable() == "abc"


@pytest.mark.parametrize(
    "changes",
    [
        {"status": NodeStatus.FULL},
        {"status": NodeStatus.READ_ONLY},
        {"status": NodeStatus.STOPPING},
        {"admin_state": AdminState.DRAINING},
        {"admin_state": AdminState.MAINTENANCE},
        {"wire_version": 3},
    ],
)
def test_who_is_not_written_to(three: Probed, changes: dict[str, object]) -> None:
    epoch = three.it.view().epoch
    three.registry.change("a", **changes)
    three.round(2)
    assert three.writable() == "bc"
    assert three.it.view().epoch == epoch + 1
    assert three.it.view().full == (changes.get("status") == NodeStatus.FULL)


def test_a_maintenance_that_is_over_counts_as_none(three: Probed) -> None:
    three.registry.change("a", admin_state=AdminState.MAINTENANCE, admin_until=5_000)
    three.now_ms = 4_999
    three.round(2)
    assert three.writable() == "bc"
    three.now_ms = 5_000
    three.round(2)
    assert three.writable() == "abc"
    member = three.it.view().get("a")
    assert member is not None and member.maintained
    assert (member.admin_state, member.info.admin_state) == (AdminState.ACTIVE, AdminState.MAINTENANCE)


def test_the_epoch_changes_with_the_placement_and_with_nothing_else(three: Probed) -> None:
    epoch = three.it.view().epoch
    three.registry.change("a", heartbeat_seq=9, free_bytes=5, port=7, chunks=3)
    three.round(2)
    member = three.it.view().get("a")
    assert member is not None and member.info.port == 7
    assert three.it.view().epoch == epoch
    three.registry.change("a", zone="z")
    three.round(2)
    assert three.it.view().epoch == epoch + 1


def test_a_restarted_node_is_probed_at_once_at_its_new_place(three: Probed) -> None:
    three.silent.add("a")
    for _ in range(5):
        three.it.report_failure("a", "refused")
        three.round(2)
    three.silent.clear()
    three.registry.change("a", boot_id="boot-2", port=9999)
    three.round(0.1)
    assert three.writable() == "abc"


def test_long_dead_nodes_are_probed_ever_less_often() -> None:
    probed = Probed(info("a"), timeout=10)
    probed.silent.add("a")
    probed.it.refresh()
    for _ in range(300):
        probed.round(2)
    assert len(probed.probed) < 40
    probed.silent.clear()
    probed.it.refresh()
    assert probed.writable() == "a"


def test_nodes_that_left_the_registry_are_forgotten_and_decommissioned_ones_not_probed(three: Probed) -> None:
    del three.registry.nodes["a"]
    three.registry.change("b", admin_state=AdminState.DECOMMISSIONED)
    three.it.report_failure("b", "gone")
    three.probed.clear()
    three.it.refresh()
    three.it.report_success("a")
    three.it.report_failure("a", "whatever")
    three.it.report_refusal("a", "node_full")
    assert three.it.view().get("a") is None
    assert three.probed == []


def test_a_probe_that_breaks_is_a_node_that_does_not_answer(three: Probed) -> None:
    three.broken = True
    three.it.report_failure("a", "refused")
    three.round(2)
    assert three.suspect() == "a"


def test_those_who_ask_at_the_same_time_share_one_reading() -> None:
    registry = Registry(info("a"))
    reading, go_on = threading.Event(), threading.Event()
    membership = Membership(
        registry.as_store(), CLUSTER, heartbeat_timeout=60, probe=lambda node: True, probers=Inline()
    )

    def slow_read() -> None:
        reading.set()
        assert go_on.wait(30)

    registry.on_read = slow_read
    first = threading.Thread(target=membership.refresh)
    first.start()
    assert reading.wait(30)
    others = [threading.Thread(target=membership.refresh) for _ in range(20)]
    for other in others:
        other.start()
    go_on.set()
    for thread in [first, *others]:
        thread.join(30)
    # Those who came while the first was reading need a reading that began after they asked, and it
    # may begin before the last of them has asked.
    assert 2 <= registry.reads <= 21
    before = registry.reads
    membership.refresh(max_age=60)
    assert registry.reads == before
    membership.stop()


def test_the_thread_reads_at_once_after_a_failure_and_survives_everything() -> None:
    registry = Registry(info("a"), info("b"))
    silent: set[str] = set()
    membership = Membership(
        registry.as_store(),
        CLUSTER,
        heartbeat_timeout=0.2,
        probe=lambda node: node.node_id not in silent,
    )
    registry.failure = Unavailable("starting")
    membership.start()
    assert membership.view().members == ()
    registry.failure = None
    assert membership.wait_for(lambda view: len(view.writable) == 2, 30)
    registry.failure = ZeroDivisionError("a bug")
    membership.report_failure("a", "refused")
    assert membership.wait_for(lambda view: len(view.writable) == 2, 30), "probed without the registry"
    registry.failure = None
    silent.add("a")
    membership.report_failure("a", "refused")
    assert membership.wait_for(lambda view: [node.node_id for node in view.writable] == ["b"], 30)
    membership.stop()
    membership.refresh()
    membership._run()
    assert not any(thread.name == "dfs-membership" for thread in threading.enumerate() if thread.is_alive())


def test_a_bug_in_a_round_does_not_end_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    membership = Membership(Registry().as_store(), CLUSTER, heartbeat_timeout=0.2, probe=lambda node: True)
    rounds = threading.Semaphore(0)

    def broken(*, everyone: bool) -> None:
        rounds.release()
        if not everyone:
            raise ZeroDivisionError

    monkeypatch.setattr(membership, "_round", broken)
    membership.start()
    for _ in range(4):
        assert rounds.acquire(timeout=30)
    membership.stop()


def test_refresh_does_not_wait_for_ever_for_probes_that_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dfs.cluster.membership._PROBE_WAIT", 0.01)
    registry, hanging = Registry(info("a")), Never()
    membership = Membership(
        registry.as_store(), CLUSTER, heartbeat_timeout=60, probe=lambda node: True, probers=hanging
    )
    assert membership.refresh().writable == ()
    membership.refresh()
    assert len(hanging.queue) == 1, "one probe of a node at a time"
    hanging.run()
    assert len(membership.view().writable) == 1
