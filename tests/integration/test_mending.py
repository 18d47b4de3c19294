"""The mender over real calls: SQLite, the HTTP calls of background work, and nodes that answer them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dfs.cluster.calls import NodeCalls
from dfs.cluster.placement import Placement
from dfs.cluster.upkeep import Fence, UpkeepCalls
from dfs.model import AdminState
from dfs.repair.mend import Mended, Mender, Outcome
from dfs.repair.pace import Pace
from dfs.wire.client import HttpClient
from dfs.wire.deadline import Deadline
from tests.support.memory_node import LocalApi

DATA = bytes(range(256)) * 400  # two chunks of 64 KiB and less


@pytest.fixture
def api(tmp_path: Path) -> Iterator[LocalApi]:
    with LocalApi(tmp_path, nodes=4) as api:
        yield api


@pytest.fixture
def mender(api: LocalApi) -> Iterator[Mender]:
    http = HttpClient()
    calls = UpkeepCalls(NodeCalls(http, api.service.cluster.cluster_id, 5.0))
    yield Mender(
        api.store,
        api.service.membership,
        Placement(),
        calls,
        factor=2,
        pace=Pace(1e9, lambda: 0.0, lambda seconds: False),
        fence=lambda: Fence("test", 1, 1),
        away=lambda node: False,
        now_ms=api.service.now,
    )
    http.close()


def put(api: LocalApi) -> str:
    return str(api.caller().call("PUT", "/files/f", DATA).json["file_id"])


def rows(api: LocalApi, file_id: str, index: int) -> set[str]:
    return {row.node_id for row in api.store.replicas(file_id, index, index)}


def test_lost_rotten_surplus_and_draining_copies_are_put_right(api: LocalApi, mender: Mender) -> None:
    file_id = put(api)
    assert mender.mend(file_id, 1, verify=True) == Mended(Outcome.WHOLE)
    length = len(DATA) - 65536

    one, two = api.holders(file_id, 1)
    del one.chunks[file_id, 1]
    assert mender.mend(file_id, 1, verify=True) == Mended(Outcome.MENDED, 1, length)
    assert one.chunks[file_id, 1] == two.chunks[file_id, 1] == DATA[65536:]

    two.chunks[file_id, 1] = b"x" * length
    assert mender.mend(file_id, 1, verify=True) == Mended(Outcome.MENDED, 1, length)
    assert two.chunks[file_id, 1] == DATA[65536:]

    two.kill()
    api.service.membership.report_failure(two.node_id, "killed")
    api.service.membership.refresh()
    assert mender.mend(file_id, 1) == Mended(Outcome.MENDED, 1, length)
    assert len(rows(api, file_id, 1)) == 3

    two.revive()
    api.service.membership.refresh()
    assert mender.mend(file_id, 1) == Mended(Outcome.MENDED, dropped=1)
    assert rows(api, file_id, 1) == {node.node_id for node in api.holders(file_id, 1)}

    leaving = api.holders(file_id, 1)[0]
    seen = next(node for node in api.store.list_nodes() if node.node_id == leaving.node_id)
    assert api.store.set_admin_state(seen, AdminState.DRAINING, at=1, until=0, guard=None, guard_name="nodes")
    api.service.membership.refresh()
    assert mender.mend(file_id, 1) == Mended(Outcome.MENDED, 1, length, 1)
    assert leaving.node_id not in rows(api, file_id, 1) and (file_id, 1) not in leaving.chunks
    assert api.caller().call("GET", "/files/f").body == DATA


def test_a_stale_mender_is_refused_by_the_nodes(api: LocalApi, mender: Mender) -> None:
    file_id = put(api)
    holder, other = api.holders(file_id, 0)
    target = next(node for node in api.nodes if node not in (holder, other))
    row = api.store.replica(file_id, 0, holder.node_id)
    assert row is not None
    target.chunks[file_id, 0] = holder.chunks[file_id, 0]
    target.sums[file_id, 0] = holder.sums[file_id, 0]
    api.store.add_replicas(file_id, [replace(row, node_id=target.node_id)])
    newer = Fence("test", 2, 1)
    for node in api.nodes:
        mender.calls.drop(node.info(), file_id, 9, fence=newer, deadline=Deadline(10.0))
    mended = mender.mend(file_id, 0)
    assert mended.outcome is Outcome.WAITING and "newer holder" in mended.reason
    assert len(api.holders(file_id, 0)) == 3
