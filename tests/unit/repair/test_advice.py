"""Warnings: when each is given, and with which command."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dfs.model import AdminState, NodeStatus
from dfs.repair.advice import AUDIT_OLD_MS, SCRUB_OLD_MS, Warning, warnings
from dfs.repair.auditresult import Verdict
from dfs.repair.health import Facts
from dfs.repair.progress import RepairStatus, Tour, TourKind
from tests.unit.cluster.fakes import GIB
from tests.unit.repair.test_health import MINUTE, NOW, WELL, WHOLE, audited, facts, member

AUDIT = audited(Verdict.WHOLE, NOW - 1000)
ADMIN = "python -m dfs.admin"


def given(found: Facts) -> dict[str, Warning]:
    listed = warnings(replace(found, audit=AUDIT) if found.audit is None else found)
    assert len({warning.code for warning in listed}) == len(listed)
    return {warning.code: warning for warning in listed}


def test_nothing_to_warn_of() -> None:
    assert given(facts()) == {}


def test_a_node_that_does_not_answer() -> None:
    down = member("n4", down=True)
    waiting = given(facts(*WELL, down, repair=replace(WHOLE, absent={"n4": 180.0})))["node_absent"]
    assert waiting.text == "n4 does not answer for 3 min; repair copies its chunks elsewhere in 7 min" and waiting.hands
    assert waiting.command == f"start it again, or: {ADMIN} repair --now n4"
    due = given(facts(*WELL, down, repair=replace(WHOLE, absent={"n4": 700.0})))["node_absent"]
    assert due.text.endswith("; repair is about to copy its chunks elsewhere")
    tours = (Tour(TourKind.LOST, "n4", NOW),)
    copied = given(facts(*WELL, down, repair=replace(WHOLE, absent={"n4": 700.0}, tours=tours)))["node_absent"]
    assert copied.text.endswith("; its chunks are being copied elsewhere")
    done = given(facts(*WELL, down, repair=replace(WHOLE, absent={"n4": 700.0}, repaired=("n4",))))["node_replaced"]
    assert done.command == f"start it again, or: {ADMIN} decommission n4"
    alone = given(facts(*WELL, down, repair=None))
    assert "nothing is copied while no server leads repair" in alone["node_absent"].text
    assert alone["no_repair_leader"].text == "no API server has led repair: nothing is healed"


def test_a_leader_that_has_been_silent() -> None:
    found = given(facts(repair=RepairStatus(at=NOW - 3 * MINUTE, whole_at=NOW)))
    assert found["no_repair_leader"].text == "no API server has led repair for 3 min: nothing is healed"


def test_maintenance() -> None:
    soon = {"admin_state": AdminState.MAINTENANCE, "admin_until": NOW + 2 * MINUTE}
    found = given(facts(*WELL, member("n4", down=True, **soon)))["maintenance_ends"]
    assert found.text == "the maintenance of n4 ends in 2 min, then it counts as absent" and found.hands
    assert found.command == f"{ADMIN} maintenance n4 --for 15m"
    later = soon | {"admin_until": NOW + 9 * MINUTE}
    assert given(facts(*WELL, member("n4", down=True, **later))) == {}
    back = given(facts(*WELL, member("n4", **later)))["maintenance_over"]
    assert back.command == f"{ADMIN} activate n4" and not back.hands


def test_drained_and_read_only_nodes() -> None:
    drained = given(facts(*WELL, member("n4", admin_state=AdminState.DRAINED)))["drained"]
    assert drained.command == f"{ADMIN} decommission n4" and not drained.hands
    failed = given(facts(*WELL, member("n4", status=NodeStatus.READ_ONLY)))["read_only"]
    assert failed.command == f"{ADMIN} drain n4 --wait" and failed.hands
    assert given(facts(*WELL, member("n4", down=True, admin_state=AdminState.DECOMMISSIONED))) == {}


def test_space() -> None:
    half = {"used_bytes": 50 * GIB, "free_bytes": 50 * GIB}
    full = [member(f"n{number}", used_bytes=95 * GIB, free_bytes=5 * GIB) for number in range(1, 8)]
    assert given(facts(*full))["full"].text == "n1, n2, n3, n4, n5 and 2 more are almost full"
    one = given(facts(member("n1", status=NodeStatus.FULL, **half), member("n2", **half), member("n3", **half)))
    assert one["full"].text == "n1 is almost full" and one["full"].command.endswith(f"{ADMIN} rebalance")
    uneven = given(facts(*WELL[:2], member("n3", used_bytes=40 * GIB, free_bytes=60 * GIB)))["uneven"]
    assert uneven.text == "n3 is 40% full, n2 0%" and uneven.command == f"{ADMIN} rebalance --plan" and not uneven.hands


def test_too_few_nodes_and_a_registry_that_cannot_be_read() -> None:
    found = given(replace(facts(WELL[0]), registry_age=11.0))
    assert "1 node takes chunks and REPLICATION_FACTOR is 2" in found["too_few_nodes"].text
    assert "registry.unreadable" in found["registry_unreadable"].command


def test_audits_that_are_old_or_never_were() -> None:
    old = facts(audit=replace(AUDIT, ended_at=NOW - AUDIT_OLD_MS - MINUTE))
    assert given(old)["audit_old"].text == "the last audit ended 7 d ago"
    assert not warnings(facts())  # an empty cluster needs none
    (never,) = warnings(facts(*WELL[:2], member("n3", chunks=1)))
    assert never.code == "never_audited" and never.command == f"{ADMIN} audit"


def test_scrubs_that_are_old_and_bad_chunks() -> None:
    slow = {"chunks": 5, "scrubbed_at": NOW - SCRUB_OLD_MS - MINUTE}
    found = given(facts(*WELL, member("n4", **slow), member("n5", **slow)))["scrub_old"]
    assert found.text == "the last complete scrub of n4 (and 1 more) began 28 d ago" and "DFS_SCRUB_MBPS" in found.command
    assert given(facts(*WELL, member("n4", bad_chunks=1)))["bad_chunks"].text.startswith("n4 found 1 bad chunk on")
    assert "1,200 bad chunks" in given(facts(*WELL, member("n4", bad_chunks=1200)))["bad_chunks"].text


def test_mixed_releases() -> None:
    found = given(facts(*WELL, member("n4", version="9")))["mixed_versions"]
    assert found.text == "nodes run different releases: 0 (3), 9 (1)" and found.command.endswith(": n4")


@pytest.mark.parametrize(
    ("problem", "command", "hands"),
    [
        ("80 of 90 records of node n1 have no row: too many to be removed", f"{ADMIN} audit", True),
        ("drain of node n2: no node takes its chunks", f"{ADMIN} repair", False),
    ],
)
def test_problems_of_repair(problem: str, command: str, hands: bool) -> None:
    found = given(facts(repair=replace(WHOLE, problems=(problem,))))["repair_problem"]
    assert (found.text, found.command, found.hands) == (problem, command, hands)


def test_what_needs_hands_comes_first() -> None:
    listed = warnings(facts(*WELL, member("n4", admin_state=AdminState.DRAINED), member("n5", down=True), audit=AUDIT))
    assert [warning.code for warning in listed] == ["node_absent", "drained"]
