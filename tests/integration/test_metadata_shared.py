"""What operators and background work share through metadata, on both stores: documents, states of
nodes granted one at a time, and the scan of everything."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import boto3
import pytest

from dfs.metadata import open_metadata
from dfs.metadata.contract import MOST_DOCUMENT_BYTES, MetadataStore
from dfs.metadata.dynamo_shared import FORGET_SECONDS
from dfs.metadata.steps import PutFile, PutReplica, PutShort
from dfs.model import AdminState, ChunkReplica, FileRecord, NodeInfo
from dfs.settings import CommonSettings, load
from tests.support.metadata_records import NOW, a_node, a_record, a_replica
from tests.support.moto_server import MotoServer

GUARD = "nodes"


def set_state(
    store: MetadataStore, seen: NodeInfo, state: AdminState, *, at: int = NOW, until: int = 0
) -> bool:
    guard = store.read_document(GUARD)
    return store.set_admin_state(seen, state, at=at, until=until, guard=guard, guard_name=GUARD)


def the_node(store: MetadataStore, node_id: str = "n1") -> NodeInfo:
    (found,) = [node for node in store.list_nodes() if node.node_id == node_id]
    return found


# --- documents ---------------------------------------------------------------------------------------


def test_a_document_is_replaced_only_as_it_was_seen(store: MetadataStore) -> None:
    assert store.read_document("audit") is None
    first = store.write_document("audit", {"files": 3, "names": ["é"]}, None)
    assert first is not None and first.version == 1
    assert store.read_document("audit") == first
    assert store.write_document("audit", {}, None) is None, "it exists by now"
    second = store.write_document("audit", {"files": 4}, first)
    assert second is not None and (second.version, second.value) == (2, {"files": 4})
    assert store.write_document("audit", {"files": 5}, first) is None, "seen too early"
    assert store.read_document("audit") == second
    assert store.read_document("other") is None
    assert store.list_nodes() == [], "a document is no node"


def test_of_writers_who_saw_the_same_document_one_wins(store: MetadataStore) -> None:
    seen = store.write_document("orders", {}, None)
    barrier = threading.Barrier(8)

    def write(number: int) -> bool:
        barrier.wait()
        return store.write_document("orders", {"by": number}, seen) is not None

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(write, range(8)))
    assert won.count(True) == 1
    stored = store.read_document("orders")
    assert stored is not None and stored.value == {"by": won.index(True)}


def test_a_document_that_is_too_long_is_refused_before_it_is_sent(store: MetadataStore) -> None:
    with pytest.raises(ValueError, match="at most"):
        store.write_document("audit", {"text": "x" * MOST_DOCUMENT_BYTES}, None)


# --- states of nodes -----------------------------------------------------------------------------------


def test_an_administrative_state_is_set_and_survives_the_node(store: MetadataStore) -> None:
    store.register_node(a_node())
    assert set_state(store, the_node(store), AdminState.MAINTENANCE, until=NOW + 900_000)
    node = the_node(store)
    assert (node.admin_state, node.admin_at, node.admin_until) == (AdminState.MAINTENANCE, NOW, NOW + 900_000)
    assert node.state_at(NOW + 899_999) is AdminState.MAINTENANCE
    assert node.state_at(NOW + 900_000) is AdminState.ACTIVE
    again = store.register_node(a_node(boot_id="boot-2"))
    assert (again.admin_state, again.admin_at, again.admin_until) == (AdminState.MAINTENANCE, NOW, NOW + 900_000)
    beat = store.heartbeat(replace(again, heartbeat_seq=9, bad_chunks=4, scrubbed_at=77, admin_state=AdminState.ACTIVE))
    assert (beat.admin_state, beat.bad_chunks, beat.scrubbed_at) == (AdminState.MAINTENANCE, 4, 77)
    assert set_state(store, the_node(store), AdminState.ACTIVE, at=NOW + 1)
    assert the_node(store).state_at(0) is AdminState.ACTIVE


def test_a_state_is_not_set_on_what_changed_since_it_was_seen(store: MetadataStore) -> None:
    store.register_node(a_node())
    seen = the_node(store)
    guard = store.read_document(GUARD)
    assert set_state(store, seen, AdminState.DRAINING)
    for name, changed in (("the node", seen), ("the guard", the_node(store))):
        assert not store.set_admin_state(
            changed, AdminState.ACTIVE, at=NOW, until=0, guard=guard, guard_name=GUARD
        ), name
    other_disk = replace(the_node(store), disk_id="another")
    assert not set_state(store, other_disk, AdminState.ACTIVE)
    assert not set_state(store, a_node("unknown"), AdminState.ACTIVE)
    assert the_node(store).admin_state is AdminState.DRAINING


def test_of_operators_who_saw_the_same_cluster_one_is_granted_maintenance(store: MetadataStore) -> None:
    for number in range(6):
        store.register_node(a_node(f"n{number}"))
    guard = store.read_document(GUARD)
    nodes = store.list_nodes()
    barrier = threading.Barrier(len(nodes))

    def ask(node: NodeInfo) -> bool:
        barrier.wait()
        return store.set_admin_state(
            node, AdminState.MAINTENANCE, at=NOW, until=NOW + 1, guard=guard, guard_name=GUARD
        )

    with ThreadPoolExecutor(len(nodes)) as pool:
        assert list(pool.map(ask, nodes)).count(True) == 1
    away = [node for node in store.list_nodes() if node.admin_state is AdminState.MAINTENANCE]
    assert len(away) == 1


def test_only_a_decommissioned_node_is_forgotten(store: MetadataStore) -> None:
    store.register_node(a_node())
    assert not store.forget_node(the_node(store))
    assert set_state(store, the_node(store), AdminState.DECOMMISSIONED)
    seen = the_node(store)
    store.register_node(a_node(boot_id="boot-2"))
    assert not store.forget_node(seen), "it was started again"
    assert store.forget_node(the_node(store))
    assert store.list_nodes() == []


# --- the scan --------------------------------------------------------------------------------------------


def test_a_scan_finds_every_record_and_row_and_nothing_else(store: MetadataStore) -> None:
    records = [a_record(f"p{number}") for number in range(30)]
    rows = [a_replica(record.file_id, index, node) for record in records for index in (0, 1) for node in ("n1", "n2")]
    for record in records:
        of_file = [PutReplica(row) for row in rows if row.file_id == record.file_id]
        store.transact([PutFile(record), PutShort(record.file_id, 1, NOW), *of_file])
    found = list(store.scan_rows())
    files = [item for item in found if isinstance(item, FileRecord)]
    replicas = [item for item in found if isinstance(item, ChunkReplica)]
    assert sorted(files, key=lambda file: file.path) == sorted(records, key=lambda file: file.path)
    order = sorted(rows, key=lambda row: (row.file_id, row.chunk_index, row.node_id))
    assert sorted(replicas, key=lambda row: (row.file_id, row.chunk_index, row.node_id)) == order
    assert len(files) + len(replicas) == len(found)


def test_the_row_of_a_decommissioned_node_expires_and_no_other(
    dynamodb: MotoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = load(CommonSettings, environ=dynamodb.environment())
    monkeypatch.setenv("AWS_ENDPOINT_URL", dynamodb.url)
    store = open_metadata(settings)
    store.create(protect=False)
    table = boto3.resource("dynamodb", region_name=settings.aws_region).Table(settings.node_registry_table)
    store.register_node(a_node())
    for state, expires in ((AdminState.DECOMMISSIONED, NOW // 1000 + FORGET_SECONDS), (AdminState.ACTIVE, None)):
        assert set_state(store, the_node(store), state)
        assert table.get_item(Key={"node_id": "n1"})["Item"].get("ttl") == expires
    store.close()
