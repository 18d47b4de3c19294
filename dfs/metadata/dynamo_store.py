"""`MetadataStore` on DynamoDB, for clusters on many machines. Knows no boto3 (see `dynamo`)."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from dfs.errors import Unavailable
from dfs.metadata import dynamo_items as items
from dfs.metadata import dynamo_shared, dynamo_tables, keys
from dfs.metadata.contract import GcEntry, GcKind, MetadataStore, NodeConflict
from dfs.metadata.dynamo_calls import Calls, Missing, Refused
from dfs.metadata.dynamo_replicas import ReplicaAdder
from dfs.metadata.dynamo_steps import Expression, action, seen_condition
from dfs.metadata.steps import PutReplica, PutShort, Step, check_steps
from dfs.metadata.tables import GC_INDEX, NODE_INDEX, Tables
from dfs.model import (
    AdminState,
    Bucket,
    ChunkReplica,
    ClusterInfo,
    Document,
    FileRecord,
    Head,
    Lease,
    NodeInfo,
)

_HEARTBEAT = (
    "status", "heartbeat_seq", "heartbeat_ts", "free_bytes", "used_bytes", "capacity_bytes", "chunks",
    "bad_chunks", "scrubbed_at"
)  # fmt: skip
_KEPT_BY_REGISTER = ("admin_state", "admin_at", "admin_until")


class DynamoStore(MetadataStore):
    """See the contract."""

    index_lag = 1.0

    def __init__(self, tables: Tables, calls: Calls) -> None:
        self._tables = tables
        self._calls = calls
        self._adder = ReplicaAdder(self.transact)

    # --- cluster ---

    def create(self, *, protect: bool = True) -> ClusterInfo:
        now_ms = time.time_ns() // 1_000_000
        return dynamo_tables.create(self._calls, self._tables, now_ms, protect=protect)

    def cluster_info(self) -> ClusterInfo:
        return dynamo_tables.read_cluster(self._calls, self._tables)

    def ping(self) -> None:
        self._get(self._tables.registry.name, items.node_key(items.CLUSTER_KEY))

    def close(self) -> None:
        self._calls.close()

    # --- registry ---

    def register_node(self, node: NodeInfo) -> NodeInfo:
        expression = Expression()
        absent = seen_condition(expression, "disk_id", None)
        condition = f"{absent} OR {expression.equal({'disk_id': node.disk_id})}"
        message = f"node {node.node_id} is registered with another disk"
        return self._update_node(node, None, expression, condition, message)

    def heartbeat(self, node: NodeInfo) -> NodeInfo:
        expression = Expression()
        condition = expression.equal({"disk_id": node.disk_id, "boot_id": node.boot_id})
        message = f"node {node.node_id} is no longer registered as this process"
        return self._update_node(node, _HEARTBEAT, expression, condition, message)

    def _update_node(
        self,
        node: NodeInfo,
        names: Sequence[str] | None,
        expression: Expression,
        condition: str,
        message: str,
    ) -> NodeInfo:
        stored = items.node_attributes(node, names)
        stored.pop("node_id", None)
        sets = []
        for name, value in stored.items():
            alias = expression.name(name)
            placeholder = f":{name}"
            expression.values[placeholder] = value
            kept = name in _KEPT_BY_REGISTER
            sets.append(f"{alias} = " + (f"if_not_exists({alias}, {placeholder})" if kept else placeholder))
        update = f"SET {', '.join(sets)}"
        absent = [] if names else [name for name in ("zone", "instance_id") if name not in stored]
        if absent:
            update += f" REMOVE {', '.join(map(expression.name, absent))}"
        try:
            answer = self._calls(
                "update_item",
                **expression.request(
                    TableName=self._tables.registry.name,
                    Key=items.node_key(node.node_id),
                    UpdateExpression=update,
                    ConditionExpression=condition,
                    ReturnValues="ALL_NEW",
                    ReturnValuesOnConditionCheckFailure="ALL_OLD",
                ),
            )
        except Refused as refused:
            raise NodeConflict(message, items.node(refused.item) if refused.item else None) from refused
        except Missing as error:
            raise self._missing(error) from error
        return items.node(answer["Attributes"])

    def list_nodes(self) -> list[NodeInfo]:
        rows = self._items("scan", TableName=self._tables.registry.name, ConsistentRead=True)
        nodes = [items.node(row) for row in rows if "#" not in row["node_id"]["S"] and "disk_id" in row]
        return sorted(nodes, key=lambda node: node.node_id)

    def set_admin_state(
        self, seen: NodeInfo, state: AdminState, *, at: int, until: int, guard: Document | None, guard_name: str
    ) -> bool:
        table = self._tables.registry.name
        try:
            return dynamo_shared.set_admin_state(
                self._calls, table, seen, state, at, until, guard, guard_name
            )
        except Missing as error:
            raise self._missing(error) from error

    def forget_node(self, seen: NodeInfo) -> bool:
        try:
            return dynamo_shared.forget_node(self._calls, self._tables.registry.name, seen)
        except Missing as error:
            raise self._missing(error) from error

    def read_document(self, name: str) -> Document | None:
        row = self._get(self._tables.registry.name, items.document_key(name))
        return items.document(name, row) if row else None

    def write_document(self, name: str, value: dict[str, Any], seen: Document | None) -> Document | None:
        new = Document(name, 1 if seen is None else seen.version + 1, value)
        row = dynamo_shared.document_item(name, new.version, value)
        wanted: dict[str, str | int] | None = None if seen is None else {"version": seen.version}
        return new if self._put_if(self._tables.registry.name, row, "node_id", wanted) else None

    def read_lease(self, name: str) -> Lease | None:
        row = self._get(self._tables.registry.name, items.node_key(f"lease#{name}"))
        return (
            Lease(name, *(items.decode(row, field) for field in ("owner", "fence", "beat"))) if row else None
        )

    def write_lease(self, new: Lease, seen: Lease | None) -> bool:
        key = items.node_key(f"lease#{new.name}")
        row = key | items.attributes({"owner": new.owner, "fence": new.fence, "beat": new.beat})
        wanted: dict[str, str | int] | None = None
        if seen is not None:
            wanted = {"owner": seen.owner, "fence": seen.fence, "beat": seen.beat}
        return self._put_if(self._tables.registry.name, row, "node_id", wanted)

    # --- buckets ---

    def put_bucket(self, bucket: Bucket) -> bool:
        row = items.path_key(items.BUCKETS, bucket.name) | items.attributes({"created_at": bucket.created_at})
        return self._put_if(self._tables.paths.name, row, "path", None)

    def list_buckets(self) -> list[Bucket]:
        expression = Expression()
        condition = expression.equal({"bucket": items.BUCKETS})
        rows = self._query(self._tables.paths.name, expression, condition)
        return [Bucket(items.decode(row, "path"), items.decode(row, "created_at")) for row in rows]

    def has_bucket(self, name: str) -> bool:
        return self._get(self._tables.paths.name, items.path_key(items.BUCKETS, name)) is not None

    # --- files ---

    def transact(self, steps: Sequence[Step]) -> None:
        check_steps(steps)
        actions = [action(self._tables, step) for step in steps]
        items.check_transaction(actions)
        try:
            self._calls("transact_write_items", TransactItems=actions)
        except Missing as error:
            raise self._missing(error) from error

    def add_replicas(
        self, file_id: str, replicas: Sequence[ChunkReplica], short: Sequence[PutShort] = ()
    ) -> None:
        self._adder.add(file_id, [*map(PutReplica, replicas), *short])

    def get_file(self, file_id: str) -> FileRecord | None:
        row = self._get(self._tables.chunks.name, items.file_key(file_id))
        return items.file_record(row) if row else None

    def get_head(self, bucket: str, path: str) -> Head | None:
        row = self._get(self._tables.paths.name, items.path_key(bucket, path))
        return items.head(row) if row else None

    def scan_heads(
        self, bucket: str, *, start: str, inclusive: bool, end: str | None, limit: int
    ) -> list[Head]:
        if end is not None and start >= end:
            return []
        expression = Expression()
        condition = expression.equal({"bucket": bucket})
        # A bound longer than a key may be cannot be sent: a shorter lower one, or no upper one, is
        # sent instead, and what lies outside is dropped here.
        low = start.encode()[: keys.MAX_SORT_KEY_BYTES].decode(errors="ignore")
        high = end if end is None or len(end.encode()) <= keys.MAX_SORT_KEY_BYTES else None
        name = expression.name("path") if low or high else ""
        if low and high:
            condition += f" AND {name} BETWEEN {expression.value(low)} AND {expression.value(high)}"
        elif low:
            condition += f" AND {name} >= {expression.value(low)}"
        elif high:
            condition += f" AND {name} < {expression.value(high)}"
        rows = self._query(self._tables.paths.name, expression, condition, Limit=limit + 2)
        heads: list[Head] = []
        for row in rows:
            path = row["path"]["S"]
            if end is not None and path >= end:
                break
            if path > start or (inclusive and path == start):
                heads.append(items.head(row))
                if len(heads) == limit:
                    break
        return heads

    def replicas(self, file_id: str, first: int = 0, last: int | None = None) -> Iterator[ChunkReplica]:
        low, high = keys.replica_range(first, last)
        if low > high:
            return
        expression = Expression()
        condition = expression.equal({"file_id": file_id})
        condition += f" AND {expression.name('chunk_replica_key')} BETWEEN {expression.value(low)} AND {expression.value(high)}"
        for row in self._query(self._tables.chunks.name, expression, condition):
            yield items.replica(row)

    def replica(self, file_id: str, chunk_index: int, node_id: str) -> ChunkReplica | None:
        row = self._get(self._tables.chunks.name, items.replica_key(file_id, chunk_index, node_id))
        return items.replica(row) if row else None

    def operation(self, op_id: str) -> dict[str, Any] | None:
        row = self._get(self._tables.chunks.name, items.operation_key(op_id))
        if row is None:
            return None
        result: dict[str, Any] = json.loads(row["result"]["S"])
        return result

    def forget_operations(self, op_ids: Iterable[str]) -> None:
        remaining = iter(op_ids)
        while batch := list(islice(remaining, items.MAX_BATCH_ITEMS)):
            self._write_batch(
                [{"DeleteRequest": {"Key": items.operation_key(op_id)}} for op_id in dict.fromkeys(batch)]
            )

    def _write_batch(self, requests: list[dict[str, Any]]) -> None:
        items.check_batch(requests)
        table = self._tables.chunks.name
        self._calls.until_processed("batch_write_item", "UnprocessedItems", {table: requests})

    # --- background work ---

    def gc_partitions(self, kind: GcKind) -> list[str]:
        buckets = [bucket.name for bucket in self.list_buckets()] if kind is GcKind.TRASHED else []
        return keys.gc_partitions(kind, buckets)

    def gc_entries(
        self, partition: str, *, after: str | None = None, before: int | None = None, limit: int = 1000
    ) -> list[GcEntry]:
        timed = GcKind(partition.partition("#")[0]) is not GcKind.TRASHED
        bound = keys.time_bound(before) if before is not None and timed else None
        if after and bound and after >= bound:
            return []
        expression = Expression()
        condition = expression.equal({"gc": partition})
        name = expression.name("gc_key") if after or bound else ""
        if after and bound:
            condition += f" AND {name} BETWEEN {expression.value(after)} AND {expression.value(bound)}"
        elif after:
            condition += f" AND {name} > {expression.value(after)}"
        elif bound:
            condition += f" AND {name} < {expression.value(bound)}"
        rows = self._query(
            self._tables.chunks.name,
            expression,
            condition,
            IndexName=GC_INDEX,
            ConsistentRead=False,
            Limit=limit + 1,
        )
        found = (row["gc_key"]["S"] for row in rows)
        wanted = (key for key in found if (not after or key > after) and (not bound or key < bound))
        return [keys.gc_entry(partition, key) for key in islice(wanted, limit)]

    def scan_rows(self) -> Iterator[FileRecord | ChunkReplica]:
        for row in self._items("scan", TableName=self._tables.chunks.name, ConsistentRead=True):
            sort_key = row["chunk_replica_key"]["S"]
            if sort_key == items.FILE_KEY:
                yield items.file_record(row)
            elif "node_id" in row:
                yield items.replica(row)

    def node_chunks(
        self, node_id: str, *, after: tuple[str, int] | None = None, limit: int = 1000
    ) -> list[tuple[str, int]]:
        expression = Expression()
        condition = expression.equal({"node_id": node_id})
        more: dict[str, Any] = {"IndexName": NODE_INDEX, "ConsistentRead": False, "Limit": limit}
        if after is not None:
            more["ExclusiveStartKey"] = items.replica_key(*after, node_id) | items.node_key(node_id)
        rows = self._query(self._tables.chunks.name, expression, condition, **more)
        return [
            (row["file_id"]["S"], keys.parse_replica_key(row["chunk_replica_key"]["S"])[0])
            for row in islice(rows, limit)
        ]

    # --- calls ---

    def _missing(self, error: Missing) -> Unavailable:
        return Unavailable(
            f"a DynamoDB table does not exist (python -m dfs.admin create-tables makes it): {error}"
        )

    def _get(self, table: str, key: items.Item) -> items.Item | None:
        items.check_keys(key)
        try:
            row: items.Item | None = self._calls(
                "get_item", TableName=table, Key=key, ConsistentRead=True
            ).get("Item")
        except Missing as error:
            raise self._missing(error) from error
        return row or None

    def _items(self, operation: str, **parameters: Any) -> Iterator[items.Item]:
        try:
            yield from self._calls.items(operation, **parameters)
        except Missing as error:
            raise self._missing(error) from error

    def _query(self, table: str, expression: Expression, condition: str, **more: Any) -> Iterator[items.Item]:
        parameters = {"ConsistentRead": True} | more
        return self._items(
            "query", **expression.request(TableName=table, KeyConditionExpression=condition, **parameters)
        )

    def _put_if(self, table: str, row: items.Item, key: str, seen: dict[str, str | int] | None) -> bool:
        items.check_item(row)
        expression = Expression()
        condition = seen_condition(expression, key, seen)
        try:
            self._calls(
                "put_item", **expression.request(TableName=table, Item=row, ConditionExpression=condition)
            )
        except Refused:
            return False
        except Missing as error:
            raise self._missing(error) from error
        return True
