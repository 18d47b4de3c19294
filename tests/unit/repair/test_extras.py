"""Records without a row, moved aside: only what an audit confirmed, and nothing that anybody needs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dfs.cluster.nodeanswers import NodeFailed
from dfs.cluster.records import mark_short
from dfs.metadata.steps import RemoveReplica
from dfs.model import AdminState, FileState, new_file_id
from dfs.repair.extras import Moved, confirmed_extras, set_aside
from dfs.repair.findings import Extra
from tests.unit.repair.audit_world import NOW, World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.store.close()


def move(world: World, *extras: Extra) -> list[str]:
    """Why each was left where it was."""
    calls: Any = world.nodes
    mark = mark_short(world.store, lambda: NOW)
    return [moved.left for moved in set_aside(world.store, calls, extras, factor=2, mark=mark)]


def test_records_of_no_file_and_surplus_copies_are_moved(world: World) -> None:
    stray, surplus = new_file_id(), world.file()
    world.hold(stray, 3, "c")
    world.hold(surplus, 0, "c")
    assert move(world, Extra(stray, 3, "c"), Extra(surplus, 0, "c")) == ["", ""]
    assert world.nodes.aside == [("c", stray, 3), ("c", surplus, 0)]
    assert move(world, Extra(stray, 3, "c")) == ["it is not there any more"]


def test_what_somebody_may_need_stays(world: World) -> None:
    row_by_now = world.file(on="abc")
    short = world.file(on="ac")
    world.transact(RemoveReplica(short, 0, "c"))
    uploading, deleting = world.file(FileState.UPLOADING), world.file(FileState.DELETING)
    orphan = new_file_id()
    world.row(orphan, 0, "a")
    extras = [Extra(name, 0, "c") for name in (row_by_now, short, uploading, deleting, orphan)]
    for extra in extras:
        world.hold(extra.file_id, 0, "c")
    assert move(world, *extras, Extra(row_by_now, 0, "stranger")) == [
        "it has a row by now",
        "its chunk has only 1 other good replicas: have it repaired first",
        "its file is uploading",
        "its file is deleting",
        "its file has rows but no record",
        "its node is not one of the cluster's",
    ]
    assert world.nodes.aside == []


def test_a_row_that_comes_at_that_very_moment_has_the_chunk_repaired(world: World) -> None:
    file_id = world.file()
    world.hold(file_id, 0, "c")

    def commit(call: str, node_id: str) -> None:
        if call == "set_aside":
            world.row(file_id, 0, "c")

    world.nodes.before = commit
    assert move(world, Extra(file_id, 0, "c")) == [""]
    assert world.marked() == {(file_id, 0)}


@pytest.mark.parametrize("trouble", ["gone", "corrupt", "other bytes", "down", "decommissioned", "unknown"])
def test_rows_that_promise_what_is_not_there_do_not_make_the_last_good_copy_a_surplus(
    world: World, trouble: str
) -> None:
    file_id = world.file(on="ab")
    world.hold(file_id, 0, "c")
    match trouble:
        case "gone":
            world.lose(file_id, 0, "b")
        case "corrupt":
            world.spoil(file_id, 0, "b")
        case "other bytes":
            world.change_bytes(file_id, 0, "b")
        case "down":
            world.nodes.nodes["b"].down = True
        case "decommissioned":
            (node,) = [each for each in world.store.list_nodes() if each.node_id == "b"]
            assert world.store.set_admin_state(
                node, AdminState.DECOMMISSIONED, at=1, until=0, guard=None, guard_name="nodes"
            )
        case _:
            world.transact(RemoveReplica(file_id, 0, "b"))
            world.row(file_id, 0, "stranger")
    assert move(world, Extra(file_id, 0, "c")) == ["its chunk has only 1 other good replicas: have it repaired first"]
    assert world.nodes.aside == []


def test_a_node_that_does_not_answer_is_asked_for_one_copy_only(world: World) -> None:
    surplus = [world.file() for _ in range(3)]
    for file_id in surplus:
        world.hold(file_id, 0, "c")
    world.nodes.nodes["a"].down = True
    assert all(move(world, *[Extra(file_id, 0, "c") for file_id in surplus]))
    assert world.nodes.asked.count(("verify_many", "a")) == 1 and world.nodes.aside == []


def test_trouble_with_one_stops_no_other(world: World) -> None:
    first, second = new_file_id(), new_file_id()
    world.hold(first, 0, "a")
    world.hold(second, 0, "c")
    world.nodes.nodes["a"].down = True
    reason = NodeFailed("a", "refused", sent=False).message
    assert move(world, Extra(first, 0, "a"), Extra(second, 0, "c")) == [reason, ""]


def test_the_list_is_that_of_the_last_audit(world: World) -> None:
    assert confirmed_extras(world.store) == []
    listed = [{"file_id": "f", "chunk_index": 1, "node_id": "a"}]
    world.store.write_document("audit-extras", {"id": "x", "extras": listed}, None)
    assert confirmed_extras(world.store) == [Extra("f", 1, "a")]
    assert Moved(Extra("f", 1, "a"), "why").to_json() == listed[0] | {"left": "why"}
