"""dfs.node.standing: when a node takes chunks, and what it says of itself."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dfs.errors import NodeFull, StoreReadOnly
from dfs.model import AdminState, NodeStatus
from dfs.node.standing import Standing
from tests.unit.node.fakes import USAGE, FakeStore


def test_a_healthy_node_takes_chunks() -> None:
    standing = Standing(FakeStore())
    standing.check_takes_chunks()
    assert standing.status() is NodeStatus.ACTIVE


@pytest.mark.parametrize("state", [AdminState.DRAINING, AdminState.DRAINED, AdminState.DECOMMISSIONED])
def test_a_node_that_is_leaving_refuses_stores_itself(state: AdminState) -> None:
    standing = Standing(FakeStore())
    standing.admin_state = state
    with pytest.raises(StoreReadOnly, match=state):
        standing.check_takes_chunks()
    assert standing.status() is NodeStatus.ACTIVE, "only admin commands write the admin state"


def test_a_node_in_maintenance_takes_what_it_is_sent() -> None:
    standing = Standing(FakeStore())
    standing.admin_state = AdminState.MAINTENANCE
    standing.check_takes_chunks()


def test_a_full_node() -> None:
    standing = Standing(FakeStore(replace(USAGE, full=True)))
    with pytest.raises(NodeFull, match="no room"):
        standing.check_takes_chunks()
    assert standing.status() is NodeStatus.FULL


def test_a_node_whose_disk_failed_says_so_even_when_it_stops() -> None:
    standing = Standing(FakeStore(replace(USAGE, full=True, read_only_reason="fdatasync failed")))
    with pytest.raises(StoreReadOnly, match="fdatasync failed"):
        standing.check_takes_chunks()
    standing.stopping = True
    assert standing.status() is NodeStatus.READ_ONLY


def test_a_stopping_node() -> None:
    standing = Standing(FakeStore())
    standing.stopping = True
    with pytest.raises(StoreReadOnly, match="stopping"):
        standing.check_takes_chunks()
    assert standing.status() is NodeStatus.STOPPING


def test_a_node_that_lost_its_row_stores_nothing() -> None:
    standing = Standing(FakeStore())
    standing.lost = "superseded"
    with pytest.raises(StoreReadOnly, match="superseded"):
        standing.check_takes_chunks()
    assert standing.status() is NodeStatus.STOPPING
