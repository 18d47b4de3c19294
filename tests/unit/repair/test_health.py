"""What may be said of all data's health, and on what proof."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from dfs.cluster.view import MemberState
from dfs.model import AdminState
from dfs.repair.auditresult import AuditResult, Verdict
from dfs.repair.auditresult import State as Ran
from dfs.repair.health import Facts, State, as_of_now, bytes_left, judge, seconds_left, tour_seconds_left
from dfs.repair.pace import LEAST_CHUNK, LEAST_MOVED
from dfs.repair.progress import RepairStatus, Tour, TourKind
from tests.unit.cluster.fakes import info

NOW = 1_700_000_000_000
MINUTE = 60_000
WHOLE = RepairStatus(at=NOW - 1000, whole_at=NOW - 4000)


def member(node_id: str, *, down: bool = False, **changes: Any) -> MemberState:
    return MemberState(info(node_id, **changes), alive=not down, suspect=down)


WELL = (member("n1"), member("n2"), member("n3"))


def facts(*members: MemberState, repair: RepairStatus | None = WHOLE, audit: AuditResult | None = None) -> Facts:
    return Facts(NOW, 2, 600.0, 1e6, members or WELL, repair, audit)


def audited(verdict: Verdict, ended_at: int, reason: str = "") -> AuditResult:
    return AuditResult("a", Ran.DONE, ended_at - 1000, ended_at, "api", False, ended_at, verdict=verdict, reason=reason)


def test_healthy_by_repair_with_its_age() -> None:
    found = judge(facts())
    assert (found.state, found.proved_at, found.proved_by) == (State.HEALTHY, NOW - 4000, "repair")
    assert found.sentence == "repair found every chunk with its 2 copies 4 s ago"


def test_healthy_by_the_later_proof() -> None:
    audit = audited(Verdict.WHOLE, NOW - 2000)
    assert judge(facts(audit=audit)).sentence == "an audit found every chunk with its 2 copies 2 s ago"
    assert judge(facts(audit=replace(audit, ended_at=NOW - 9 * MINUTE))).proved_by == "repair"
    assert judge(facts(audit=replace(audit, factor=1))).proved_by == "repair", "it was by a smaller factor"
    assert judge(replace(facts(), factor=1)).sentence == "repair found every chunk with its copy 4 s ago"


def test_nothing_heard_is_no_proof() -> None:
    for repair in (None, RepairStatus(at=NOW)):
        found = judge(facts(repair=repair))
        assert found.state is State.UNPROVEN and "run an audit" in found.sentence


@pytest.mark.parametrize(
    ("given", "state", "said"),
    [
        (facts(repair=replace(WHOLE, short=1)), State.REPAIRING, "1 chunk short of a copy"),
        (facts(repair=replace(WHOLE, bad=2)), State.REPAIRING, "2 chunks with a bad copy"),
        (facts(*WELL[:2], member("n3", bad_chunks=4)), State.REPAIRING, "4 chunks with a bad copy"),
        (facts(*WELL[:2], member("n3", bad_chunks=4), repair=None), State.DEGRADED, "4 chunks with a bad copy"),
        (facts(*WELL, member("n4", down=True)), State.DEGRADED, "n4 does not answer"),
        (
            facts(*WELL, member("n4", down=True), member("n5", down=True)),
            State.DEGRADED,
            "n4 and n5 do not answer",
        ),
        (
            facts(*WELL, *(member(f"n{number}", down=True) for number in range(4, 9))),
            State.DEGRADED,
            "5 nodes do not answer",
        ),
        (
            facts(*WELL, member("n4", down=True), repair=replace(WHOLE, tours=(Tour(TourKind.LOST, "n4", NOW),))),
            State.REPAIRING,
            "the chunks of n4 are being copied elsewhere",
        ),
        (facts(WELL[0], member("n2", admin_state=AdminState.DRAINED)), State.DEGRADED, "1 node takes chunks, and every"),
        (facts(repair=replace(WHOLE, waiting=3)), State.DEGRADED, "3 chunks wait for a node or for space"),
        (
            facts(audit=audited(Verdict.DEGRADED, NOW - 2000, "5 replicas are corrupt")),
            State.DEGRADED,
            "the audit 2 s ago: 5 replicas are corrupt",
        ),
        (
            facts(audit=audited(Verdict.DATA_MISSING, NOW - 9 * MINUTE, "1 chunk has no copy left")),
            State.DATA_MISSING,
            "the audit 9 min ago: 1 chunk has no copy left",
        ),
        (facts(repair=replace(WHOLE, unrecoverable=1)), State.DATA_MISSING, "repair finds no good copy of 1 chunk"),
        (
            facts(repair=RepairStatus(at=NOW - 9 * MINUTE, unrecoverable=7)),
            State.DATA_MISSING,
            "repair finds no good copy of 7 chunks",
        ),
    ],
)
def test_what_speaks_against_health(given: Facts, state: State, said: str) -> None:
    found = judge(given)
    assert found.state is state and said in found.sentence


@pytest.mark.parametrize(
    "given",
    [
        facts(*WELL, member("n4", down=True), repair=replace(WHOLE, repaired=("n4",))),
        facts(*WELL, member("n4", down=True, admin_state=AdminState.MAINTENANCE, admin_until=NOW + 1)),
        facts(*WELL, member("n4", down=True, admin_state=AdminState.DRAINED)),
        facts(*WELL, member("n4", down=True, admin_state=AdminState.DECOMMISSIONED)),
        facts(repair=replace(WHOLE, tours=(Tour(TourKind.DRAIN, "n1", NOW),))),
        facts(audit=audited(Verdict.DEGRADED, NOW - 5000)),
        facts(*WELL, member("n4", bad_chunks=3, admin_state=AdminState.DECOMMISSIONED)),
    ],
    ids=["replaced", "in maintenance", "drained", "decommissioned", "draining", "healed since the audit", "bad but gone"],
)
def test_what_does_not_speak_against_it(given: Facts) -> None:
    assert judge(given).state is State.HEALTHY


def test_what_was_said_of_nodes_that_have_moved_on_is_not_shown() -> None:
    states = {
        "n1": (TourKind.DRAIN, AdminState.DRAINED),
        "n2": (TourKind.DRAIN, AdminState.DRAINING),
        "n3": (TourKind.LOST, AdminState.DECOMMISSIONED),
        "n4": (TourKind.FORGET, AdminState.ACTIVE),
        "n5": (TourKind.FORGET, AdminState.DECOMMISSIONED),
        "n6": (TourKind.REBALANCE, AdminState.DRAINING),
        "n7": (TourKind.REBALANCE, AdminState.MAINTENANCE),
        "n8": (TourKind.RETURNED, AdminState.ACTIVE),
    }
    members = [member(name, admin_state=state, admin_until=NOW + 1) for name, (_, state) in states.items()]
    tours = tuple(Tour(kind, name, NOW) for name, (kind, _) in states.items())
    unregistered = (Tour(TourKind.FORGET, "n9", NOW), Tour(TourKind.LOST, "n0", NOW))
    said = ("drain of node n1: it does not know yet", "drain of node n2: no node takes its chunks", "of something else")
    shown = as_of_now(replace(WHOLE, tours=(*tours, *unregistered), problems=said), members, NOW)
    assert [tour.node_id for tour in shown.tours] == ["n2", "n5", "n7", "n8", "n9"]
    assert shown.problems == said[1:]
    assert as_of_now(WHOLE, members, NOW) == WHOLE


def test_a_maintenance_that_is_over_is_absence() -> None:
    over = member("n4", down=True, admin_state=AdminState.MAINTENANCE, admin_until=NOW)
    assert judge(facts(*WELL, over)).state is State.DEGRADED


def test_an_old_report_replaces_nobody() -> None:
    old = RepairStatus(at=NOW - 2 * MINUTE, whole_at=NOW - 3 * MINUTE, repaired=("n4",))
    assert judge(facts(*WELL, member("n4", down=True), repair=old)).state is State.DEGRADED


def test_how_long_repair_takes() -> None:
    tour = Tour(TourKind.DRAIN, "n1", NOW, bytes_total=90_000_000, bytes_done=10_000_000, chunks_total=9, chunks_done=1)
    repair = replace(WHOLE, short=2, tours=(tour,))
    given = facts(member("n1", used_bytes=100_000_000, chunks=10), repair=repair)
    rate = given.rate
    assert given.average_chunk() == 10_000_000 and facts().average_chunk() > 0
    assert bytes_left(repair, given.average_chunk()) == 100_000_000
    assert seconds_left(given) == pytest.approx(100e6 / rate)
    measured = replace(given, repair=replace(repair, bytes_per_second=rate / 2))
    assert seconds_left(measured) == pytest.approx(200e6 / rate)
    assert tour_seconds_left(measured, tour) == pytest.approx(160e6 / rate)
    assert seconds_left(replace(given, repair=WHOLE)) is None, "there is nothing to do"
    gone = replace(given, repair=RepairStatus(at=0))
    assert seconds_left(gone) is tour_seconds_left(gone, tour) is None, "nobody does it"


def test_small_chunks_take_longer_than_their_bytes() -> None:
    tour = Tour(TourKind.DRAIN, "n1", NOW, bytes_total=2_000_000, bytes_done=1_000_000, chunks_total=3000, chunks_done=1000)
    repair = replace(WHOLE, tours=(tour,), bytes_per_second=1e12)
    given = facts(member("n1", used_bytes=1000, chunks=10), repair=repair)
    assert seconds_left(given) == tour_seconds_left(given, tour) == pytest.approx(2000 * LEAST_MOVED / given.rate)
    lost = replace(tour, kind=TourKind.LOST)
    assert tour_seconds_left(given, lost) == pytest.approx(2000 * LEAST_CHUNK / given.rate)

