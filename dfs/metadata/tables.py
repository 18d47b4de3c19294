"""The DynamoDB tables as data: keys, indexes, what each is asked to be. Pure.

`create-tables` makes them from this, and checks existing ones against it; the Terraform stack is
tested against it as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dfs.settings import CommonSettings

NODE_INDEX = "node-id-index"
GC_INDEX = "gc-index"
TTL_ATTRIBUTE = "ttl"


@dataclass(frozen=True, slots=True)
class Index:
    """A global secondary index that projects keys only. All key attributes are strings."""

    name: str
    partition: str
    sort: str | None


@dataclass(frozen=True, slots=True)
class Table:
    """A table on demand. `setting` is the environment variable that names it."""

    name: str
    setting: str
    partition: str
    sort: str | None
    indexes: tuple[Index, ...] = ()
    ttl: str | None = None


@dataclass(frozen=True, slots=True)
class Tables:
    """The three tables of a cluster."""

    chunks: Table
    registry: Table
    paths: Table

    def all(self) -> tuple[Table, ...]:
        """All of them, the registry last: its `cluster#info` says that all is made."""
        return self.chunks, self.paths, self.registry


def tables_of(settings: CommonSettings) -> Tables:
    """The tables that the settings name."""
    return Tables(
        chunks=Table(
            settings.chunk_metadata_table,
            "CHUNK_METADATA_TABLE",
            "file_id",
            "chunk_replica_key",
            (Index(NODE_INDEX, "node_id", None), Index(GC_INDEX, "gc", "gc_key")),
        ),
        registry=Table(
            settings.node_registry_table, "NODE_REGISTRY_TABLE", "node_id", None, ttl=TTL_ATTRIBUTE
        ),
        paths=Table(settings.paths_table, "DFS_PATHS_TABLE", "bucket", "path"),
    )


def _schema(partition: str, sort: str | None) -> list[dict[str, str]]:
    keys = [{"AttributeName": partition, "KeyType": "HASH"}]
    if sort is not None:
        keys.append({"AttributeName": sort, "KeyType": "RANGE"})
    return keys


def creation(table: Table, *, protect: bool) -> dict[str, Any]:
    """Parameters of CreateTable."""
    pairs = [(table.partition, table.sort)] + [(index.partition, index.sort) for index in table.indexes]
    names = {name for pair in pairs for name in pair if name}
    request: dict[str, Any] = {
        "TableName": table.name,
        "BillingMode": "PAY_PER_REQUEST",
        "AttributeDefinitions": [{"AttributeName": name, "AttributeType": "S"} for name in sorted(names)],
        "KeySchema": _schema(table.partition, table.sort),
        "SSESpecification": {"Enabled": True, "SSEType": "KMS"},
        "DeletionProtectionEnabled": protect,
    }
    if table.indexes:
        request["GlobalSecondaryIndexes"] = [
            {
                "IndexName": index.name,
                "KeySchema": _schema(index.partition, index.sort),
                "Projection": {"ProjectionType": "KEYS_ONLY"},
            }
            for index in table.indexes
        ]
    return request


def mismatch(table: Table, description: dict[str, Any]) -> str | None:
    """Why an existing table (DescribeTable's `Table`) cannot be used, None when it can."""
    types = {entry["AttributeName"]: entry["AttributeType"] for entry in description["AttributeDefinitions"]}

    def keys(schema: list[dict[str, str]]) -> str:
        ordered = sorted(schema, key=lambda entry: entry["KeyType"])
        return ", ".join(
            f"{e['AttributeName']} ({e['KeyType']}, {types.get(e['AttributeName'], '?')})" for e in ordered
        )

    def wanted(partition: str, sort: str | None) -> str:
        return f"{partition} (HASH, S)" + (f", {sort} (RANGE, S)" if sort else "")

    what = f"table {table.name} ({table.setting})"
    found = keys(description["KeySchema"])
    if found != wanted(table.partition, table.sort):
        return f"{what} has the keys {found} where {wanted(table.partition, table.sort)} are needed"
    indexes = {entry["IndexName"]: entry for entry in description.get("GlobalSecondaryIndexes", [])}
    for index in table.indexes:
        if index.name not in indexes:
            return f"{what} exists without the index {index.name}"
        found = keys(indexes[index.name]["KeySchema"])
        if found != wanted(index.partition, index.sort):
            return f"{what} has index {index.name} on {found} where {wanted(index.partition, index.sort)} is needed"
    return None


def is_active(description: dict[str, Any]) -> bool:
    """Whether the table and all its indexes can be used."""
    parts = [description["TableStatus"]]
    parts += [entry.get("IndexStatus", "ACTIVE") for entry in description.get("GlobalSecondaryIndexes", [])]
    return all(status == "ACTIVE" for status in parts)
