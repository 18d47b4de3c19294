"""The audit while nodes come, go, are restarted and change their disks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dfs import errors
from dfs.cluster.nodeanswers import InventoryPage
from dfs.metadata.steps import RemoveReplica
from dfs.model import AdminState, FileState, NodeInfo
from dfs.repair import holdings
from dfs.repair.auditresult import Verdict
from tests.unit.cluster.fakes import info
from tests.unit.repair.audit_world import HeldNode, World, found, once


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(holdings, "_PAUSE", 0.0)
    made = World(tmp_path)
    yield made
    made.store.close()


def restart(world: World, name: str, **changes: Any) -> None:
    """The node is away, and its row in the registry is another by now."""
    (before,) = [node for node in world.store.list_nodes() if node.node_id == name]
    decommission(world, name)
    assert world.store.forget_node(next(node for node in world.store.list_nodes() if node.node_id == name))
    world.store.register_node(replace(before, **changes))


def decommission(world: World, name: str) -> None:
    (node,) = [node for node in world.store.list_nodes() if node.node_id == name]
    document = world.store.read_document("nodes")
    assert world.store.set_admin_state(
        node, AdminState.DECOMMISSIONED, at=1, until=0, guard=document, guard_name="nodes"
    )


@pytest.mark.parametrize("moment", ["inventory", "verify_many"])
def test_a_node_that_is_restarted_meanwhile_is_waited_for(world: World, moment: str) -> None:
    for _ in range(8):
        world.file(on="ab")
    world.file(FileState.COMMITTED, on="abc")  # one copy too many: nodes are asked to verify
    world.spoil(world.file(on="ab"), 0, "a", known=True)
    asked = [0]

    def be_away(call: str, node_id: str) -> None:
        if (call, node_id) == (moment, "a"):
            asked[0] += 1
            if 2 <= asked[0] + (moment == "verify_many") <= 8:
                raise errors.Unavailable("refused")

    world.nodes.before = be_away
    result = world.audit()
    assert (found(result), result.unreachable) == ({"corrupt": 1, "under": 1, "over": 1}, ())


def test_a_node_is_asked_where_it_is_since_its_restart(world: World) -> None:
    world.file(on="ab")
    ports: list[int] = []
    real = world.nodes.inventory

    def inventory(node: NodeInfo, after: int, limit: int, *, deadline: object) -> InventoryPage:
        if node.node_id == "b":
            ports.append(node.port)
            if node.port != 9999:
                restart(world, "b", port=9999)
                raise errors.Unavailable("refused")
        return real(node, after, limit, deadline=deadline)

    world.nodes.inventory = inventory  # type: ignore[method-assign]
    assert world.audit().verdict is Verdict.WHOLE
    assert ports[-1] == 9999 and len(ports) == 2


@pytest.mark.parametrize("moment", ["inventory", "bad_chunks"])
def test_what_a_node_told_of_another_disk_does_not_count(world: World, moment: str) -> None:
    for _ in range(8):
        world.file(on="ab")

    def exchange() -> None:
        restart(world, "b", disk_id="another")
        world.nodes.nodes["b"].held.clear()

    pages = [0]

    def before(call: str, node_id: str) -> None:
        if (call, node_id) == (moment, "b"):
            pages[0] += 1
            if pages[0] == (3 if moment == "inventory" else 1):
                exchange()

    world.nodes.before = before
    result = world.audit()
    assert (result.verdict, found(result)) == (Verdict.DEGRADED, {"under": 8, "unreachable_nodes": 1})


def test_copies_on_a_node_that_joined_meanwhile_count(world: World) -> None:
    file_id = world.file(on="ab")

    def move_to_new_node() -> None:
        world.nodes.nodes["d"] = HeldNode()
        world.store.register_node(info("d"))
        world.hold(file_id, 0, "d")
        world.row(file_id, 0, "d")
        world.transact(RemoveReplica(file_id, 0, "a"))
        world.lose(file_id, 0, "a")

    once(world, "inventory", move_to_new_node)
    assert (found(world.audit()), world.marked()) == ({}, set())


def test_a_node_that_is_decommissioned_meanwhile_has_not_to_answer_for_what_was_moved(world: World) -> None:
    file_id = world.file(on="ab")

    def drain() -> None:
        world.hold(file_id, 0, "c")
        world.row(file_id, 0, "c")
        world.transact(RemoveReplica(file_id, 0, "b"))
        decommission(world, "b")

    once(world, "bad_chunks", drain)
    result = world.audit()
    assert (result.verdict, found(result)) == (Verdict.WHOLE, {"unreachable_nodes": 1})


def test_a_registry_that_cannot_be_read_again_leaves_the_nodes_as_they_were(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.file()
    real = world.store.list_nodes
    reads = [0]

    def list_nodes() -> list[NodeInfo]:
        reads[0] += 1
        if reads[0] > 1:
            raise errors.Unavailable("locked")
        return real()

    monkeypatch.setattr(world.store, "list_nodes", list_nodes)
    assert world.audit().verdict is Verdict.WHOLE and reads[0] == 2


def test_a_node_that_is_slow_to_fail_is_not_asked_for_ever(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holdings, "_PATIENCE", -1.0)
    for _ in range(8):
        world.file(on="ab")
    asked = [0]

    def fail(call: str, node_id: str) -> None:
        if (call, node_id) == ("inventory", "b"):
            asked[0] += 1
            if asked[0] > 1:
                raise errors.Unavailable("no progress")

    world.nodes.before = fail
    assert world.audit().unreachable == ("b",) and asked[0] == 4
