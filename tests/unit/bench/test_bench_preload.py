"""A filled cluster holds what PUTs would have left: records in the stores, rows in the metadata."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from dfs.metadata.sqlite import SqliteStore
from dfs.model import FileState
from dfs.store.identity import create_identity, load_identity
from dfs.store.store import ChunkStore
from tests.bench import payload, preload

NODES = ["node1", "node2", "node3"]
COUNT = 20
SIZE = 300


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    metadata = SqliteStore(str(tmp_path / "metadata.sqlite"))
    metadata.create()
    metadata.close()
    for node in NODES:
        (tmp_path / "nodes" / node).mkdir(parents=True)
        create_identity(tmp_path / "nodes" / node, node, "a-cluster")
    return tmp_path


def test_files_are_whole_on_two_nodes_and_in_the_metadata(cluster: Path) -> None:
    preload.fill(cluster, NODES, "old", COUNT, SIZE)
    metadata = SqliteStore(str(cluster / "metadata.sqlite"))
    held: dict[str, set[str]] = {node: set() for node in NODES}
    for number in range(COUNT):
        head = metadata.get_head("default", f"old/{number}")
        assert head is not None
        record = metadata.get_file(head.file_id)
        assert record is not None and record.state is FileState.COMMITTED
        assert head.sha256 == record.sha256 == hashlib.sha256(payload.content(number, SIZE)).hexdigest()
        rows = list(metadata.replicas(head.file_id))
        assert sorted(row.node_id for row in rows) == sorted(preload.holders(number, NODES))
        for row in rows:
            held[row.node_id].add(row.file_id)
    metadata.close()
    for node in NODES:
        directory = cluster / "nodes" / node
        identity = load_identity(directory)
        assert identity is not None
        store = ChunkStore.open(directory, identity)
        try:
            assert {chunk.file_id for chunk in store.inventory(0, 1000)} == held[node]
            for file_id in held[node]:
                assert store.verify(file_id, 0).length == SIZE
        finally:
            store.close()


def test_a_node_that_cannot_be_filled_is_an_error(cluster: Path) -> None:
    (cluster / "nodes" / "node2" / "node.json").unlink()
    with pytest.raises(OSError, match="filling a node failed"):
        preload.fill(cluster, NODES, "old", 4, SIZE)


def test_ids_are_those_of_version_four() -> None:
    assert preload.file_id(7) == preload.file_id(7) != preload.file_id(8)
    assert preload.file_id(7)[14] == "4"
