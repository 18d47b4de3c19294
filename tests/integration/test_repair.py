"""Repair with real processes: a node dies for good, returns, is emptied, and a new one comes."""

from __future__ import annotations

import os
import random
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from dfs.cluster.calls import NodeCalls
from dfs.cluster.nodeanswers import InventoryEntry, Verified
from dfs.cluster.upkeep import UpkeepCalls
from dfs.metadata import open_metadata
from dfs.metadata.contract import MetadataStore
from dfs.model import AdminState, ChunkReplica, NodeInfo
from dfs.repair.progress import ORDERS, Orders, RepairStatus, load
from dfs.settings import CommonSettings
from dfs.settings import load as load_settings
from dfs.wire.client import HttpClient
from dfs.wire.deadline import Deadline
from tests.integration.conftest import FreshMetadata
from tests.support.cluster import Cluster, eventually

QUICK = {
    "DFS_REPAIR_DELAY": "1",
    "DFS_REPAIR_INTERVAL": "0.2",
    "DFS_REPAIR_MBPS": "1000",
    "DFS_NODE_TIMEOUT": "1",
    "REPLICATION_TIMEOUT": "3",
}
FILES = {"sqlite": 60, "dynamodb": 15}
"""moto takes its time."""


class Prover:
    """Looks at rows, and at what nodes really hold."""

    def __init__(self, store: MetadataStore) -> None:
        self.store = store
        self._http = HttpClient()
        self.calls = UpkeepCalls(NodeCalls(self._http, store.cluster_info().cluster_id, 5.0))

    def close(self) -> None:
        self._http.close()

    def nodes(self) -> dict[str, NodeInfo]:
        return {node.node_id: node for node in self.store.list_nodes()}

    def status(self) -> RepairStatus:
        return load(self.store) or RepairStatus()

    def rows(self) -> dict[tuple[str, int], list[ChunkReplica]]:
        found = defaultdict(list)
        for row in self.store.scan_rows():
            if isinstance(row, ChunkReplica):
                found[row.file_id, row.chunk_index].append(row)
        return found

    def inventory(self, node_id: str) -> dict[tuple[str, int], InventoryEntry]:
        found: dict[tuple[str, int], InventoryEntry] = {}
        after: int | None = 0
        while after is not None:
            page = self.calls.inventory(self.nodes()[node_id], after, 1000, deadline=Deadline(10))
            found |= {(entry.file_id, entry.chunk_index): entry for entry in page.chunks}
            after = page.next
        return found

    def prove(self, *living: str, exactly: bool) -> None:
        """Every chunk has two good copies on the `living`, each re-read there; if `exactly`, no node holds
        anything else, and no row names another node."""
        held = {node_id: self.inventory(node_id) for node_id in living}
        by_node = defaultdict(list)
        for key, rows in self.rows().items():
            good = [row for row in rows if row.node_id in living]
            assert len(good) >= 2, f"{key} has {[row.node_id for row in rows]}"
            assert all(held[row.node_id][key].checksum == row.checksum for row in good)
            for row in good:
                by_node[row.node_id].append(row)
            if exactly:
                assert len(rows) == 2, f"{key} has {[row.node_id for row in rows]}"
        for node_id, rows in by_node.items():
            for start in range(0, len(rows), 256):
                part = rows[start : start + 256]
                keys = [(row.file_id, row.chunk_index) for row in part]
                found = self.calls.verify_many(self.nodes()[node_id], keys, deadline=Deadline(30))
                assert found == [Verified(row.checksum, row.length) for row in part]
        if exactly:
            assert {n: len(h) for n, h in held.items()} == {n: len(by_node[n]) for n in living}

    def wait_whole(self) -> None:
        """Wait until a complete round of repair that began after now has found nothing to do."""
        now = time.time_ns() // 1_000_000
        eventually(lambda: self.status().whole_at > now, "repair says that all is well")

    def wait_state(self, node_id: str, state: AdminState) -> None:
        eventually(lambda: self.nodes()[node_id].admin_state is state, f"{node_id} is {state}")

    def set_state(self, node_id: str, state: AdminState) -> None:
        guard = self.store.read_document("nodes")
        now = time.time_ns() // 1_000_000
        seen = self.nodes()[node_id]
        assert self.store.set_admin_state(seen, state, at=now, until=0, guard=guard, guard_name="nodes")


@pytest.fixture
def cluster(tmp_path: Path, metadata: FreshMetadata) -> Iterator[Cluster]:
    with Cluster(tmp_path / "cluster", environ=metadata() | QUICK) as running:
        yield running


@pytest.fixture
def prover(cluster: Cluster) -> Iterator[Prover]:
    with mock.patch.dict(os.environ, cluster.environ):
        store = open_metadata(load_settings(CommonSettings, environ=cluster.environ))
        made = Prover(store)
        yield made
        made.close()
        store.close()


def test_a_node_lost_for_good_then_back_then_drained_and_a_new_one(
    cluster: Cluster, prover: Prover, rng: random.Random, request: pytest.FixtureRequest
) -> None:
    caller = cluster.caller()
    sizes = [rng.choice((0, 1, 5000, 64 << 10, 300_000)) for _ in range(FILES[request.node.callspec.params["metadata"]])]
    content = {f"file/{number}": rng.randbytes(size) for number, size in enumerate(sizes)}
    for path, data in content.items():
        assert caller.file("PUT", path, data, X_Chunk_Size=str(64 << 10)).status == 201

    cluster.node("node1").kill()
    eventually(lambda: prover.status().repaired == ("node1",), "what node1 held is copied elsewhere")
    prover.prove("node2", "node3", exactly=False)

    cluster.node("node1").start()
    eventually(lambda: not prover.status().repaired and not prover.status().tours, "the surplus is trimmed")
    prover.wait_whole()
    prover.prove("node1", "node2", "node3", exactly=True)

    prover.set_state("node2", AdminState.DRAINING)
    prover.wait_state("node2", AdminState.DRAINED)
    assert prover.inventory("node2") == {}
    prover.prove("node1", "node3", exactly=True)

    cluster.add_node()
    cluster.wait_alive({"node1", "node2", "node3", "node4"})
    began = time.time_ns() // 1_000_000
    assert prover.store.write_document(ORDERS, Orders(began).to_json(), prover.store.read_document(ORDERS))
    eventually(lambda: prover.status().rebalanced_at >= began and not prover.status().tours, "all is rebalanced")
    prover.wait_whole()
    prover.prove("node1", "node3", "node4", exactly=True)
    share = len(prover.inventory("node4")) / sum(len(prover.inventory(name)) for name in ("node1", "node3", "node4"))
    assert 0.1 < share < 0.6, "a third, give or take"
    assert all(caller.file("GET", path).body == data for path, data in content.items())
    caller.close()
