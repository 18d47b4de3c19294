"""Short ways to make records, for tests of metadata."""

from __future__ import annotations

from typing import Any

from dfs.metadata import operations
from dfs.metadata.contract import MetadataStore
from dfs.model import (
    AdminState,
    ChunkReplica,
    FileRecord,
    FileState,
    NodeInfo,
    NodeStatus,
    new_file_id,
)

SHA = "ab" * 32
NOW = 1_700_000_000_000


def a_record(path: str = "a/b.txt", **changes: Any) -> FileRecord:
    """An upload of one chunk."""
    fields: dict[str, Any] = {
        "file_id": new_file_id(),
        "state": FileState.UPLOADING,
        "bucket": "default",
        "path": path,
        "size": 1000,
        "chunk_size": 4096,
        "chunk_count": 1,
        "content_type": "text/plain",
        "sha256": SHA,
        "filename": path.rpartition("/")[2],
        "version": 0,
        "created_at": NOW,
        "touched_at": NOW,
    }
    return FileRecord(**fields | changes)


def a_replica(file_id: str, index: int = 0, node_id: str = "n1", **changes: Any) -> ChunkReplica:
    """A replica row."""
    fields: dict[str, Any] = {"checksum": SHA, "length": 1000, "replica_type": "primary", "created_at": NOW}
    return ChunkReplica(file_id=file_id, chunk_index=index, node_id=node_id, **fields | changes)


def replicas_of(record: FileRecord, nodes: tuple[str, ...] = ("n1", "n2")) -> list[ChunkReplica]:
    """Rows of the record's only chunk."""
    return [a_replica(record.file_id, 0, node) for node in nodes]


def a_node(node_id: str = "n1", **changes: Any) -> NodeInfo:
    """A registered node."""
    fields: dict[str, Any] = {
        "address": "10.0.0.1",
        "port": 8081,
        "zone": "zone-a",
        "instance_id": None,
        "disk_id": f"disk-{node_id}",
        "boot_id": "boot-1",
        "status": NodeStatus.ACTIVE,
        "admin_state": AdminState.ACTIVE,
        "heartbeat_seq": 1,
        "heartbeat_ts": NOW,
        "free_bytes": 10**12,
        "used_bytes": 5,
        "capacity_bytes": 10**12 + 5,
        "chunks": 1,
        "version": "0.1.0",
        "wire_version": 1,
        "disk_format": 1,
    }
    return NodeInfo(node_id=node_id, **fields | changes)


def put(
    store: MetadataStore,
    path: str,
    condition: operations.Precondition = operations.ALWAYS,
    now: int = NOW,
    **changes: Any,
) -> operations.Committed:
    """Commit a new single-chunk file."""
    record = a_record(path, **changes)
    return operations.commit_file(store, record, condition, now, replicas=replicas_of(record))
