"""The operators' endpoints: parameters, and what they are answered with."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dfs.api import admin, health, status
from dfs.api.service import Service
from dfs.cluster.view import MemberState, View
from dfs.errors import BadRequest, NotFound, Refused
from dfs.model import AdminState
from dfs.repair import progress
from dfs.repair.noderules import Action
from dfs.repair.progress import RepairStatus, Tour, TourKind, load_orders
from dfs.wire.message import Request
from dfs.wire.target import Query
from tests.unit.api.test_metrics import NOW, audit
from tests.unit.cluster.fakes import GIB, info
from tests.unit.repair.test_ordering import Documents


class Life:
    """A NodeLife that notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def decide(self, action: Action, node_id: str, *, for_ms: int, force: bool, plan: bool) -> Life:
        self.asked.append((action, node_id, for_ms, force, plan))
        return self

    def repair_now(self, node_id: str, *, force: bool, plan: bool) -> Life:
        self.asked.append((node_id, force, plan))
        return self

    def to_json(self) -> dict[str, Any]:
        return {"ok": True}


def service(*members: MemberState, documents: Documents | None = None) -> Service:
    made = SimpleNamespace(
        nodelife=Life(),
        membership=SimpleNamespace(view=lambda: View(1, members), read_age=lambda: float("inf")),
        store=documents or Documents(),
        settings=SimpleNamespace(
            repair_mbps=50, replication_factor=2, repair_delay=600.0, replication_strategy="sync"
        ),
        cluster=SimpleNamespace(cluster_id="c1", generation=1),
        now=lambda: NOW,
    )
    return cast(Service, made)


def request(query: str = "", **params: str) -> Request:
    return cast(Request, SimpleNamespace(params=params, query=Query(query)))


def life(made: Service) -> list[tuple[Any, ...]]:
    return cast(Life, made.nodelife).asked


def answered(found: Any) -> dict[str, Any]:
    value = json.loads(found.body)
    assert found.status == 200 and isinstance(value, dict)
    return value


def test_changes_of_nodes() -> None:
    made = service()
    assert answered(admin.change_node(made, request("for=15m&force=1", node_id="n1", action="maintenance")))["ok"]
    admin.change_node(made, request("plan=1&for=1h", node_id="n2", action="drain"))
    admin.change_node(made, request("", node_id="n2", action="ok-to-stop"))
    admin.repair_now(made, request("now=n3&plan=1"))
    assert life(made) == [
        (Action.MAINTENANCE, "n1", 900_000, True, False),
        (Action.DRAIN, "n2", 0, False, True),
        (Action.OK_TO_STOP, "n2", 0, False, False),
        ("n3", False, True),
    ]


@pytest.mark.parametrize(
    ("query", "node_id", "action", "error", "said"),
    [
        ("", "n1", "explode", NotFound, "a node can be ok-to-stop, maintenance, drain, activate, decommission"),
        ("", "n1", "repair", NotFound, "there is no 'repair'"),
        ("", "n 1", "drain", BadRequest, "cannot name a node"),
        ("", "n1", "maintenance", BadRequest, "the query parameter for is missing"),
        ("for=soon", "n1", "maintenance", BadRequest, "must be a time such as 30"),
        ("force=yes", "n1", "drain", BadRequest, "force must be 1 or 0"),
    ],
)
def test_wrong_parameters(query: str, node_id: str, action: str, error: type[Exception], said: str) -> None:
    made = service()
    with pytest.raises(error, match=said):
        admin.change_node(made, request(query, node_id=node_id, action=action))
    assert life(made) == []


@pytest.mark.parametrize(("query", "said"), [("", "parameter now is missing"), ("now=%20", "cannot name a node")])
def test_wrong_parameters_of_repair(query: str, said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        admin.repair_now(service(), request(query))


def two() -> list[MemberState]:
    full, empty = info("n1", capacity=64 * GIB, used_bytes=20 * GIB), info("n2", capacity=64 * GIB)
    return [MemberState(node, alive=True, suspect=False) for node in (full, empty)]


def test_rebalancing() -> None:
    made = service(*two())
    plan = answered(admin.rebalance(made, request("plan=1")))
    assert plan == {
        "planned": True, "changed": False, "ordered": False, "refused": [], "bytes": 10 * GIB,
        "seconds": pytest.approx(10 * GIB / 50e6),
        "nodes": [
            {"node_id": "n1", "used_bytes": 20 * GIB, "share_bytes": 10 * GIB},
            {"node_id": "n2", "used_bytes": 0, "share_bytes": 10 * GIB},
        ],
    }  # fmt: skip
    assert load_orders(made.store).rebalance_at == 0
    first = answered(admin.rebalance(made, request()))
    assert first["changed"] and first["ordered"] and load_orders(made.store).rebalance_at == NOW
    assert not answered(admin.rebalance(made, request()))["changed"]
    stopped = answered(admin.rebalance(made, request("stop=1")))
    assert stopped["changed"] and not stopped["ordered"] and load_orders(made.store).stop_rebalance_at == NOW
    assert not answered(admin.rebalance(made, request("stop=1")))["changed"]


def test_a_rebalance_under_way_is_stopped() -> None:
    documents = Documents()
    repair = RepairStatus(at=NOW, tours=(Tour(TourKind.REBALANCE, "n1", NOW),))
    made = service(*two(), documents=documents)
    made.store.write_document(progress.DOCUMENT, repair.to_json(), None)
    assert answered(admin.rebalance(made, request("plan=1")))["ordered"]
    assert not answered(admin.rebalance(made, request()))["changed"]
    assert answered(admin.rebalance(made, request("stop=1")))["changed"]
    # Ordered again before the end of the old one has begun, it goes on.
    assert answered(admin.rebalance(made, request()))["changed"]
    assert load_orders(made.store).stop_rebalance_at == 0 and load_orders(made.store).rebalance_at == NOW


def test_rebalancing_needs_two_nodes() -> None:
    made = service(two()[0])
    assert len(answered(admin.rebalance(made, request("plan=1")))["refused"]) == 1
    with pytest.raises(Refused) as caught:
        admin.rebalance(made, request())
    assert "fewer than two nodes" in caught.value.details["reasons"][0]
    assert answered(admin.rebalance(made, request("stop=1")))["refused"] == []


def test_the_status_with_all_there_is() -> None:
    documents = Documents()
    made = service(*two(), documents=documents)
    over = Tour(TourKind.DRAIN, "n2", NOW, bytes_total=7)  # it is active again
    tour = Tour(TourKind.REBALANCE, "n1", NOW, bytes_total=100_000_000)
    made.store.write_document(progress.DOCUMENT, RepairStatus(at=NOW, tours=(over, tour), absent={"n2": 3.0}).to_json(), None)
    made.store.write_document("audit", audit().to_json(), None)
    made.store.write_document("audit-last", audit().to_json(), None)
    made.store.write_document("trash", {"at": 5, "files": 2, "bytes": 10}, None)
    found = answered(status.status(made, request()))
    assert found["cluster"] == {
        "cluster_id": "c1", "generation": 1, "factor": 2, "strategy": "sync", "repair_delay": 600.0,
    }  # fmt: skip
    assert found["repair"]["leading"] and found["repair"]["seconds_left"] == 2.0
    assert found["repair"]["tours"][0]["seconds_left"] == 2.0 and found["repair"]["bytes_left"] == 100_000_000
    assert found["audit"]["verdict"] == "degraded" and found["audit"]["counts"]["missing"] == 3
    assert found["trash"]["files"] == 2 and found["trash"]["oldest_at"] == 0
    assert found["audit_running"] is None and found["nodes"][1]["absent_seconds"] == 3.0
    assert found["totals"]["used_bytes"] == 20 * GIB and found["nodes"][0]["fill"] == pytest.approx(20 / 84, abs=1e-4)
    assert {warning["code"] for warning in found["warnings"]} >= {"registry_unreadable"}


def test_the_status_of_a_cluster_that_has_just_begun() -> None:
    found = answered(status.status(service(), request()))
    assert found["repair"] is None and found["audit"] is None and found["health"]["state"] == "degraded"
    assert found["totals"]["nodes"] == 0


def test_a_maintenance_that_is_over_is_not_listed() -> None:
    at = [info(f"n{n}", admin_state=AdminState.MAINTENANCE, admin_until=NOW + n) for n in range(2)]
    made = service(*(MemberState(row, alive=True, suspect=False) for row in at))
    assert [node["state"] for node in answered(health.list_nodes(made, request()))["nodes"]] == ["active", "maintenance"]
