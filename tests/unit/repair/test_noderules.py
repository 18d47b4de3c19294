"""When a node may be taken away: each reason alone, and what is granted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from dfs.model import AdminState, NodeInfo
from dfs.repair.noderules import Action, Situation, reasons
from dfs.repair.progress import RepairStatus, Tour, TourKind
from tests.unit.cluster.fakes import GIB, info

NOW = 1_700_000_000_000
NODES = ("n1", "n2", "n3", "n4")


def situation(
    states: dict[str, AdminState] | None = None,
    *,
    down: tuple[str, ...] = (),
    rows: dict[str, dict[str, Any]] | None = None,
    repair: RepairStatus | None = RepairStatus(at=NOW - 5000),
    **changes: Any,
) -> Situation:
    """Four nodes of 100 GiB that hold 10, all well but for what is named."""
    nodes: dict[str, NodeInfo] = {}
    for node_id in NODES:
        row = info(node_id, used_bytes=10 * GIB, free_bytes=90 * GIB, chunks=1000)
        state = (states or {}).get(node_id, AdminState.ACTIVE)
        until = NOW + 60_000 if state is AdminState.MAINTENANCE else 0
        nodes[node_id] = replace(row, admin_state=state, admin_at=NOW - 60_000, admin_until=until)
        nodes[node_id] = replace(nodes[node_id], **(rows or {}).get(node_id, {}))
    answering = frozenset(nodes) - set(down)
    found = Situation(
        now=NOW,
        factor=2,
        nodes=nodes,
        answering=answering,
        writable=frozenset(n for n in answering if nodes[n].state_at(NOW) is AdminState.ACTIVE),
        repair=repair,
    )
    return replace(found, **changes)


def said(action: Action, found: Situation, node_id: str = "n1") -> list[str]:
    return [reason.text for reason in reasons(action, found, node_id)]


STATUS = RepairStatus(at=NOW - 5000)
FORGETTING = (Tour(TourKind.FORGET, "n2", NOW - 1),)

OK_TO_STOP: list[tuple[str, Situation, str]] = [
    ("maintenance", situation({"n2": AdminState.MAINTENANCE}), "n2 is in maintenance: one node at a time"),
    ("draining", situation({"n2": AdminState.DRAINING}), "n2 is draining: one node at a time"),
    ("dead", situation(down=("n3",)), "n3 does not answer, and its chunks do not all have"),
    (
        "decommissioned, being forgotten",
        situation({"n2": AdminState.DECOMMISSIONED}, repair=replace(STATUS, tours=FORGETTING)),
        "n2 was decommissioned and repair has not gone through its chunks yet",
    ),
    (
        "decommissioned since repair looked",
        situation({"n2": AdminState.DECOMMISSIONED}, rows={"n2": {"admin_at": NOW - 1000}}),
        "n2 was decommissioned",
    ),
    ("short", situation(short=1), "short of a copy or reported bad: 1 chunk; wait for repair"),
    ("many short", situation(short=1600, short_more=True), "reported bad: at least 1,600 chunks"),
    ("bad", situation(repair=replace(STATUS, bad=2)), "known to be bad on a disk: 2 chunks; wait for repair"),
    ("bad, just found", situation(rows={"n1": {"bad_chunks": 1}}), "known to be bad on a disk: 1 chunk"),
    ("lost", situation(repair=replace(STATUS, unrecoverable=2)), "without any good copy that answers: 2 chunks"),
    ("waiting", situation(repair=replace(STATUS, waiting=3)), "repair cannot help now: 3 chunks"),
    (
        "too few left",
        situation({"n3": AdminState.DRAINED, "n4": AdminState.DRAINED}),
        "without n1 only 1 node would take chunks, and every chunk needs 2: writes would fail",
    ),
    ("one copy only", situation(factor=1), "with REPLICATION_FACTOR=1 the chunks on n1 have no other copy"),
    ("never reported", situation(repair=None), "repair has not reported yet"),
    ("old report", situation(repair=RepairStatus(at=NOW - 61_000)), "repair last reported 61 s ago"),
]


@pytest.mark.parametrize("action", [Action.OK_TO_STOP, Action.MAINTENANCE])
@pytest.mark.parametrize(("found", "reason"), [case[1:] for case in OK_TO_STOP], ids=[case[0] for case in OK_TO_STOP])
def test_each_reason_against_stopping_a_node(action: Action, found: Situation, reason: str) -> None:
    (given,) = reasons(action, found, "n1")
    assert reason in given.text and not given.final


def test_what_was_bad_on_a_disk_that_is_away_or_gone_is_nothing_to_wait_for() -> None:
    replaced = situation(down=("n3",), rows={"n3": {"bad_chunks": 1}}, repair=replace(STATUS, repaired=("n3",)))
    gone = situation({"n3": AdminState.DECOMMISSIONED}, down=("n3",), rows={"n3": {"bad_chunks": 1}})
    assert said(Action.OK_TO_STOP, replaced) == said(Action.OK_TO_STOP, gone) == []


def test_a_dead_node_is_replaced_only_as_long_as_repair_says_so() -> None:
    old = situation(down=("n3",), repair=RepairStatus(at=NOW - 61_000, repaired=("n3",)))
    assert len(said(Action.OK_TO_STOP, old)) == 2
    assert said(Action.OK_TO_STOP, old)[0].startswith("n3 does not answer")


@pytest.mark.parametrize(
    "found",
    [
        situation(),
        situation(down=("n1",)),
        situation({"n2": AdminState.DRAINED}),
        situation({"n2": AdminState.DRAINED}, down=("n2",)),
        situation({"n2": AdminState.DECOMMISSIONED}, down=("n2",)),
        situation(down=("n2",), repair=replace(STATUS, repaired=("n2",))),
        situation({"n2": AdminState.MAINTENANCE}, rows={"n2": {"admin_until": NOW}}),
    ],
    ids=["all well", "down already", "drained", "drained and off", "decommissioned", "replaced", "maintenance over"],
)
def test_a_node_that_can_be_stopped(found: Situation) -> None:
    assert said(Action.OK_TO_STOP, found) == said(Action.MAINTENANCE, found) == []


def test_an_empty_node_can_be_stopped_whatever_else_is_wrong() -> None:
    wrong = {"n1": AdminState.DRAINED, "n2": AdminState.MAINTENANCE}
    assert said(Action.OK_TO_STOP, situation(wrong, down=("n3",), short=9, repair=None)) == []


def test_all_reasons_are_given_at_once() -> None:
    wrong = situation({"n2": AdminState.MAINTENANCE}, down=("n3",), short=5, repair=None)
    assert len(said(Action.MAINTENANCE, wrong)) == 5


def test_maintenance_can_be_extended_while_the_node_is_away() -> None:
    assert said(Action.MAINTENANCE, situation({"n1": AdminState.MAINTENANCE}, down=("n1",))) == []


@pytest.mark.parametrize("state", [AdminState.DRAINING, AdminState.DRAINED, AdminState.DECOMMISSIONED])
def test_maintenance_does_not_undo_a_drain(state: AdminState) -> None:
    (reason,) = reasons(Action.MAINTENANCE, situation({"n1": state}), "n1")
    assert reason.final and str(state) in reason.text


DRAIN: list[tuple[str, Situation, str, bool]] = [
    (
        "too few left",
        situation({"n3": AdminState.DRAINED, "n4": AdminState.DRAINED}),
        "without n1 only 1 node would take chunks, and every chunk needs 2: add a node first",
        True,
    ),
    (
        "no room",
        situation(rows={name: {"free_bytes": 3 * GIB} for name in NODES}),
        "n1 uses 10.0 GiB, and the other nodes have room for 9.0 GiB: add a node first",
        False,
    ),
    ("another in maintenance", situation({"n2": AdminState.MAINTENANCE}), "n2 is in maintenance", False),
    ("another draining", situation({"n2": AdminState.DRAINING}), "n2 is draining: one node at a time", False),
    ("dead", situation(down=("n1",)), "n1 does not answer, so it cannot be emptied", False),
    ("decommissioned", situation({"n1": AdminState.DECOMMISSIONED}), "there is nothing to drain", True),
]


@pytest.mark.parametrize(("found", "reason", "final"), [case[1:] for case in DRAIN], ids=[case[0] for case in DRAIN])
def test_each_reason_against_draining(found: Situation, reason: str, final: bool) -> None:
    (given,) = reasons(Action.DRAIN, found, "n1")
    assert reason in given.text and given.final is final


@pytest.mark.parametrize("state", [AdminState.ACTIVE, AdminState.MAINTENANCE, AdminState.DRAINING, AdminState.DRAINED])
def test_a_drain_that_is_granted(state: AdminState) -> None:
    assert said(Action.DRAIN, situation({"n1": state}, short=3)) == []


def test_activating() -> None:
    for state in AdminState:
        given = reasons(Action.ACTIVATE, situation({"n1": state}), "n1")
        assert [each.final for each in given] == ([False] if state is AdminState.DECOMMISSIONED else [])


def test_decommissioning_what_is_empty_or_replaced() -> None:
    assert said(Action.DECOMMISSION, situation({"n1": AdminState.DRAINED}, repair=None)) == []
    assert said(Action.DECOMMISSION, situation(down=("n1",), repair=replace(STATUS, repaired=("n1",)))) == []
    assert said(Action.DECOMMISSION, situation({"n1": AdminState.DECOMMISSIONED})) == []


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (situation(), ["n1 answers and holds chunks: drain it first"]),
        (situation({"n1": AdminState.DRAINING}), ["it is still being drained: wait for it"]),
        (
            situation(down=("n1",), repair=replace(STATUS, absent={"n1": 130.0})),
            ["n1 does not answer, for 2 min now, and repair has not copied"],
        ),
        (situation(down=("n1",), repair=None), ["n1 does not answer, and repair", "repair has not reported yet"]),
    ],
    ids=["serving", "draining", "dead", "dead, no leader"],
)
def test_each_reason_against_decommissioning(found: Situation, wanted: list[str]) -> None:
    given = reasons(Action.DECOMMISSION, found, "n1")
    assert len(given) == len(wanted) and not any(each.final for each in given)
    assert all(part in each.text for part, each in zip(wanted, given, strict=True))


def test_decommissioning_spells_out_how_much_is_at_risk() -> None:
    counted = replace(situation(), rows=10_000, rows_more=True)
    assert "n1 is recorded to hold at least 10,000 chunks" in said(Action.DECOMMISSION, counted)[1]
    assert "to hold 1 chunk:" in said(Action.DECOMMISSION, replace(counted, rows=1, rows_more=False))[1]


@pytest.mark.parametrize(
    ("found", "reason", "final"),
    [
        (situation(), "n1 answers: drain it if it is to go", True),
        (situation({"n1": AdminState.MAINTENANCE}, down=("n1",)), "n1 is in maintenance", True),
        (situation({"n1": AdminState.DRAINED}, down=("n1",)), "nothing on it to repair", True),
        (situation({"n2": AdminState.DRAINED, "n3": AdminState.DRAINED}, down=("n1",)), "add a node first", False),
    ],
)
def test_each_reason_against_repairing_a_node_now(found: Situation, reason: str, final: bool) -> None:
    (given,) = reasons(Action.REPAIR, found, "n1")
    assert reason in given.text and given.final is final


def test_repairing_a_dead_node_now() -> None:
    assert said(Action.REPAIR, situation(down=("n1",))) == []
    small = {name: {"free_bytes": 0} for name in NODES}
    assert "have room for 0 B" in said(Action.REPAIR, situation(down=("n1",), rows=small))[0]
    assert said(Action.REPAIR, situation(down=("n1",), rows=small, repair=replace(STATUS, repaired=("n1",)))) == []


@pytest.mark.parametrize("action", list(Action))
def test_a_node_that_is_not_registered(action: Action) -> None:
    (reason,) = reasons(action, situation(), "n9")
    assert reason.final and reason.text == "there is no node n9 (registered: n1, n2, n3, n4)"
