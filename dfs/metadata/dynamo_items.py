"""DynamoDB attribute values to and from model values, and DynamoDB's limits. Pure.

The limits are asserted here because emulators do not: an item of 400 KB, keys of 2,048 and 1,024
bytes, 25 items a batch, 100 actions and 4 MB a transaction.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any, TypeVar

from dfs.metadata import keys
from dfs.model import AdminState, ChunkReplica, Document, FileRecord, FileState, Head, NodeInfo, NodeStatus

Item = dict[str, dict[str, Any]]

FILE_KEY = "file"
OPERATION_KEY = "op"
CLUSTER_KEY = "cluster#info"
BUCKETS = "#buckets"

MAX_ITEM_BYTES = 400 * 1024
MAX_TRANSACTION_BYTES = 4 * 1024 * 1024
MAX_TRANSACTION_ACTIONS = 100
MAX_BATCH_ITEMS = 25

_NODE_ATTRIBUTES = {"address": "private_ip", "free_bytes": "available_space"}
"""Where the registry's attribute names, kept from the first release of the protocol, differ."""

R = TypeVar("R", FileRecord, ChunkReplica, Head, NodeInfo)


def encode(value: str | int) -> dict[str, Any]:
    """A text or whole number as an attribute value."""
    return {"N": str(value)} if isinstance(value, int) else {"S": str(value)}


def attributes(pairs: Mapping[str, str | int | None]) -> Item:
    """An item; None values are left out."""
    return {name: encode(value) for name, value in pairs.items() if value is not None}


def decode(item: Mapping[str, Mapping[str, Any]], name: str) -> Any:
    """An attribute's value, None when it is absent."""
    value = item.get(name)
    if value is None:
        return None
    return int(value["N"]) if "N" in value else value["S"]


def _pairs(record: Any) -> dict[str, Any]:
    return {field.name: getattr(record, field.name) for field in fields(record)}


def _build(kind: type[R], item: Mapping[str, Any], renamed: Mapping[str, str], **converted: Any) -> R:
    values = {
        field.name: value
        for field in fields(kind)
        if (value := decode(item, renamed.get(field.name, field.name))) is not None or field.default is MISSING
    }
    return kind(**values | converted)


def file_key(file_id: str) -> Item:
    """Key of a file record."""
    return attributes({"file_id": file_id, "chunk_replica_key": FILE_KEY})


def replica_key(file_id: str, chunk_index: int, node_id: str) -> Item:
    """Key of a replica row."""
    return attributes({"file_id": file_id, "chunk_replica_key": keys.replica_key(chunk_index, node_id)})


def short_key(file_id: str, chunk_index: int) -> Item:
    """Key of a `short` row."""
    return attributes({"file_id": file_id, "chunk_replica_key": keys.short_key(chunk_index)})


def operation_key(op_id: str) -> Item:
    """Key of an operation record."""
    return attributes({"file_id": f"op#{op_id}", "chunk_replica_key": OPERATION_KEY})


def path_key(bucket: str, path: str) -> Item:
    """Key of a head, or with BUCKETS of a bucket."""
    return attributes({"bucket": bucket, "path": path})


def node_key(node_id: str) -> Item:
    """Key of a registry row."""
    return attributes({"node_id": node_id})


def place_attributes(place: keys.GcPlace | None) -> Item:
    """The gc index attributes."""
    return attributes({"gc": place[0], "gc_key": place[1]}) if place else {}


def file_item(record: FileRecord) -> Item:
    """A file record's item."""
    place = keys.file_place(
        record.state,
        record.file_id,
        record.bucket,
        record.path,
        record.version,
        record.touched_at,
        record.retired,
        record.size,
    )
    return file_key(record.file_id) | attributes(_pairs(record)) | place_attributes(place)


def file_record(item: Item) -> FileRecord:
    """The file record of an item."""
    return _build(FileRecord, item, {}, state=FileState(item["state"]["S"]))


def head_item(head: Head) -> Item:
    """A head's item."""
    return attributes(_pairs(head))


def head(item: Item) -> Head:
    """The head of an item."""
    return _build(Head, item, {})


def replica_item(replica: ChunkReplica) -> Item:
    """A replica row's item."""
    return replica_key(replica.file_id, replica.chunk_index, replica.node_id) | attributes(_pairs(replica))


def replica(item: Item) -> ChunkReplica:
    """The replica row of an item."""
    return _build(ChunkReplica, item, {})


def operation_item(op_id: str, result: Mapping[str, Any], at: int) -> Item:
    """An operation record's item; the result is JSON text."""
    text = attributes({"result": json.dumps(result), "created_at": at})
    return operation_key(op_id) | text | place_attributes(keys.operation_place(op_id, at))


def short_item(file_id: str, chunk_index: int, at: int) -> Item:
    """A `short` row's item."""
    more = attributes({"chunk_index": chunk_index, "created_at": at})
    return (
        short_key(file_id, chunk_index) | more | place_attributes(keys.short_place(file_id, chunk_index, at))
    )


def document_key(name: str) -> Item:
    """Key of a shared document, a registry row that is no node."""
    return node_key(f"doc#{name}")


def document(name: str, item: Item) -> Document:
    """The document of a registry row (a guard that was never written as a document is empty)."""
    return Document(name, decode(item, "version"), json.loads(decode(item, "value") or "{}"))


def node_attributes(node: NodeInfo, names: Iterable[str] | None = None) -> Item:
    """A node's attributes (only of the fields `names`, if given)."""
    pairs = _pairs(node)
    return attributes({_NODE_ATTRIBUTES.get(name, name): pairs[name] for name in names or pairs})


def node(item: Item) -> NodeInfo:
    """The node of a registry row."""
    status, admin_state = NodeStatus(item["status"]["S"]), AdminState(item["admin_state"]["S"])
    return _build(NodeInfo, item, _NODE_ATTRIBUTES, status=status, admin_state=admin_state)


def item_bytes(item: Mapping[str, Mapping[str, Any]]) -> int:
    """Size of an item as DynamoDB counts it (numbers counted as their digits: never too little)."""
    return sum(
        len(name.encode()) + len(str(next(iter(value.values()))).encode()) + 1 for name, value in item.items()
    )


def check_keys(item: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises ValueError when a key attribute is empty or longer than DynamoDB takes."""
    for name, most in _KEY_BYTES.items():
        if name in item:
            size = len(str(item[name].get("S", "")).encode())
            if not 1 <= size <= most:
                raise ValueError(f"key attribute {name} has 1 to {most} bytes, not {size}")


_KEY_BYTES = {
    "file_id": keys.MAX_PARTITION_KEY_BYTES,
    "chunk_replica_key": keys.MAX_SORT_KEY_BYTES,
    "node_id": keys.MAX_PARTITION_KEY_BYTES,
    "gc": keys.MAX_PARTITION_KEY_BYTES,
    "gc_key": keys.MAX_SORT_KEY_BYTES,
    "bucket": keys.MAX_PARTITION_KEY_BYTES,
    "path": keys.MAX_SORT_KEY_BYTES,
}


def check_item(item: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises ValueError when DynamoDB would refuse the item for its size or keys."""
    check_keys(item)
    size = item_bytes(item)
    if size > MAX_ITEM_BYTES:
        raise ValueError(f"an item of {size} bytes is over DynamoDB's {MAX_ITEM_BYTES}")


def check_transaction(actions: Sequence[Mapping[str, Mapping[str, Any]]]) -> None:
    """Raises ValueError when DynamoDB would refuse the transaction for its size."""
    if not 1 <= len(actions) <= MAX_TRANSACTION_ACTIONS:
        raise ValueError(f"a transaction has 1 to {MAX_TRANSACTION_ACTIONS} actions, not {len(actions)}")
    total = 0
    for action in actions:
        (request,) = action.values()
        item = request.get("Item") or request["Key"]
        check_item(item)
        total += item_bytes(item) + item_bytes(request.get("ExpressionAttributeValues", {}))
    if total > MAX_TRANSACTION_BYTES:
        raise ValueError(f"a transaction of {total} bytes is over DynamoDB's {MAX_TRANSACTION_BYTES}")


def check_batch(requests: Sequence[object]) -> None:
    """Raises ValueError when a batch write has more requests than DynamoDB takes."""
    if not 1 <= len(requests) <= MAX_BATCH_ITEMS:
        raise ValueError(f"a batch has 1 to {MAX_BATCH_ITEMS} items, not {len(requests)}")
