"""`MetadataStore` in one SQLite file, for clusters on one machine (any number of processes)."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from dfs.errors import StartError
from dfs.metadata import keys, sqlite_schema, sqlite_shared
from dfs.metadata.contract import GcEntry, GcKind, MetadataStore, NodeConflict
from dfs.metadata.sqlite_batch import Rows, Transaction
from dfs.metadata.sqlite_file import SqliteFile, Unfit
from dfs.metadata.sqlite_rows import (
    FILE_COLUMNS,
    HEAD_COLUMNS,
    NODE_COLUMNS,
    REPLICA_COLUMNS,
    columns,
    file_of,
    marks,
    node_of,
    node_row,
)
from dfs.metadata.steps import CheckFile, PutReplica, PutShort, Step, check_steps
from dfs.model import (
    AdminState,
    Bucket,
    ChunkReplica,
    ClusterInfo,
    Document,
    FileRecord,
    FileState,
    Head,
    Lease,
    NodeInfo,
)

_HEARTBEAT_COLUMNS = (
    "status", "heartbeat_seq", "heartbeat_ts", "free_bytes", "used_bytes", "capacity_bytes", "chunks",
    "bad_chunks", "scrubbed_at"
)  # fmt: skip
_TAKES_REPLICAS = frozenset({FileState.UPLOADING, FileState.COMMITTED, FileState.TRASHED})
_REPLICA_PAGE = 1000
_GET_FILE = f"SELECT {columns(FILE_COLUMNS)} FROM files WHERE file_id = ?"
_GET_HEAD = f"SELECT {columns(HEAD_COLUMNS)} FROM heads WHERE bucket = ? AND path = ?"
_REPLICAS = f"SELECT {columns(REPLICA_COLUMNS)} FROM replicas WHERE file_id = ?"
_OF_CHUNK = f"{_REPLICAS} AND chunk_index = ? ORDER BY node_id"
_ONE_REPLICA = f"{_REPLICAS} AND chunk_index = ? AND node_id = ?"
_REPLICA_RANGE = (
    f"{_REPLICAS} AND (chunk_index, node_id) > (?, ?) AND chunk_index <= ? ORDER BY chunk_index, node_id LIMIT ?"
)
_FILE_PAGE = f"SELECT {columns(FILE_COLUMNS)} FROM files WHERE file_id > ? ORDER BY file_id LIMIT ?"
_ROW_PAGE = (
    f"SELECT {columns(REPLICA_COLUMNS)} FROM replicas WHERE (file_id, chunk_index, node_id) > (?, ?, ?) "
    "ORDER BY file_id, chunk_index, node_id LIMIT ?"
)
_SCAN_PAGE = 5000
_SCAN_HEADS = {
    (inclusive, bounded): f"SELECT {columns(HEAD_COLUMNS)} FROM heads WHERE bucket = ? "
    f"AND path {'>=' if inclusive else '>'} ?{' AND path < ?' if bounded else ''} ORDER BY path LIMIT ?"
    for inclusive in (False, True)
    for bounded in (False, True)
}
_NODES = f"SELECT {columns(NODE_COLUMNS)} FROM nodes"
_PUT_NODE = f"INSERT OR REPLACE INTO nodes ({columns(NODE_COLUMNS)}) VALUES ({marks(len(NODE_COLUMNS))})"
_BEAT = (
    f"UPDATE nodes SET ({columns(_HEARTBEAT_COLUMNS)}) = ({marks(len(_HEARTBEAT_COLUMNS))}) WHERE node_id = ?"
)
_GC_TABLES = {
    GcKind.UPLOADING: "files",
    GcKind.DELETING: "files",
    GcKind.TRASHED: "files",
    GcKind.SHORT: "shorts",
    GcKind.OPERATION: "operations",
}


def _wall_clock_ms() -> int:
    return time.time_ns() // 1_000_000


def _as_operators_left_it(node: NodeInfo, current: NodeInfo) -> NodeInfo:
    return replace(
        node, admin_state=current.admin_state, admin_at=current.admin_at, admin_until=current.admin_until
    )


class SqliteStore(MetadataStore):
    """See the contract. `path` is the database file; its directory must exist."""

    def __init__(
        self, path: str, *, file: SqliteFile | None = None, now_ms: Callable[[], int] = _wall_clock_ms
    ) -> None:
        self._file = file or SqliteFile(path)
        self._now_ms = now_ms

    # --- cluster ---

    def create(self, *, protect: bool = True) -> ClusterInfo:
        def work(db: sqlite3.Connection) -> ClusterInfo | None:
            sqlite_schema.create_tables(db, self._file.path, self._now_ms())
            return sqlite_schema.read_cluster(db)

        return self._known(self._file.create(work))

    def cluster_info(self) -> ClusterInfo:
        try:
            version = self._file.read("PRAGMA user_version")[0][0]
            application = self._file.read("PRAGMA application_id")[0][0]
            objects = self._file.read("SELECT count(*) FROM sqlite_schema")[0][0]
            found = sqlite_schema.judge(self._file.path, version, application, objects)
            if found:
                sqlite_schema.check_finished(self._file.path, self._file.read(sqlite_schema.UNFINISHED)[0][0])
            rows = self._file.read("SELECT cluster_id, generation, format FROM cluster") if found else []
        except Unfit as error:
            raise StartError(f"DFS_METADATA_URL: {error.message}") from error
        return self._known(ClusterInfo(*rows[0]) if rows else None)

    def _known(self, found: ClusterInfo | None) -> ClusterInfo:
        if found is None:
            raise StartError(
                f"DFS_METADATA_URL: {self._file.path} holds no cluster: make it with python -m dfs.admin create-tables"
            )
        return found

    def ping(self) -> None:
        self._file.read("SELECT 1 FROM cluster")

    def close(self) -> None:
        self._file.close()

    # --- registry ---

    def register_node(self, node: NodeInfo) -> NodeInfo:
        def work(db: sqlite3.Connection) -> NodeInfo:
            current = self._node_row(db, node.node_id)
            if current is not None and current.disk_id != node.disk_id:
                raise NodeConflict(f"node {node.node_id} is registered with another disk", current)
            stored = node if current is None else _as_operators_left_it(node, current)
            db.execute(_PUT_NODE, node_row(stored))
            return stored

        return self._file.write(work)

    def heartbeat(self, node: NodeInfo) -> NodeInfo:
        def work(db: sqlite3.Connection) -> NodeInfo:
            current = self._node_row(db, node.node_id)
            if current is None or (current.disk_id, current.boot_id) != (node.disk_id, node.boot_id):
                raise NodeConflict(f"node {node.node_id} is no longer registered as this process", current)
            changes = {name: getattr(node, name) for name in _HEARTBEAT_COLUMNS}
            db.execute(_BEAT, (*changes.values(), node.node_id))
            return replace(current, **changes)

        return self._file.write(work)

    @staticmethod
    def _node_row(db: sqlite3.Connection, node_id: str) -> NodeInfo | None:
        rows = db.execute(f"{_NODES} WHERE node_id = ?", (node_id,)).fetchall()
        return node_of(rows[0]) if rows else None

    def list_nodes(self) -> list[NodeInfo]:
        return [node_of(row) for row in self._file.read(f"{_NODES} ORDER BY node_id")]

    def set_admin_state(
        self, seen: NodeInfo, state: AdminState, *, at: int, until: int, guard: Document | None, guard_name: str
    ) -> bool:
        return self._file.write(
            lambda db: sqlite_shared.set_admin_state(db, seen, state, at, until, guard, guard_name)
        )

    def forget_node(self, seen: NodeInfo) -> bool:
        return self._file.write(lambda db: sqlite_shared.forget_node(db, seen))

    def read_document(self, name: str) -> Document | None:
        rows = self._file.read("SELECT version, value FROM documents WHERE name = ?", (name,))
        return Document(name, rows[0][0], json.loads(rows[0][1])) if rows else None

    def write_document(self, name: str, value: dict[str, Any], seen: Document | None) -> Document | None:
        return self._file.write(lambda db: sqlite_shared.put_document(db, name, value, seen))

    def read_lease(self, name: str) -> Lease | None:
        rows = self._file.read("SELECT name, owner, fence, beat FROM leases WHERE name = ?", (name,))
        return Lease(*rows[0]) if rows else None

    def write_lease(self, new: Lease, seen: Lease | None) -> bool:
        def work(db: sqlite3.Connection) -> bool:
            if seen is None:
                cursor = db.execute(
                    "INSERT INTO leases (name, owner, fence, beat) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                    (new.name, new.owner, new.fence, new.beat),
                )
            else:
                cursor = db.execute(
                    "UPDATE leases SET owner = ?, fence = ?, beat = ? "
                    "WHERE name = ? AND owner = ? AND fence = ? AND beat = ?",
                    (new.owner, new.fence, new.beat, new.name, seen.owner, seen.fence, seen.beat),
                )
            return cursor.rowcount == 1

        return self._file.write(work)

    # --- buckets ---

    def put_bucket(self, bucket: Bucket) -> bool:
        def work(db: sqlite3.Connection) -> bool:
            cursor = db.execute(
                "INSERT INTO buckets VALUES (?, ?) ON CONFLICT DO NOTHING", (bucket.name, bucket.created_at)
            )
            return cursor.rowcount == 1

        return self._file.write(work)

    def list_buckets(self) -> list[Bucket]:
        return [Bucket(*row) for row in self._file.read("SELECT name, created_at FROM buckets ORDER BY name")]

    def has_bucket(self, name: str) -> bool:
        return bool(self._file.read("SELECT 1 FROM buckets WHERE name = ?", (name,)))

    # --- files ---

    def transact(self, steps: Sequence[Step]) -> None:
        check_steps(steps)
        self._file.write(Transaction(Rows(steps)))

    def transact_on(
        self, bucket: str, path: str, build: Callable[[Head | None], Sequence[Step]]
    ) -> None:
        self._file.write(Transaction(None, (bucket, path), build))

    def add_replicas(
        self, file_id: str, replicas: Sequence[ChunkReplica], short: Sequence[PutShort] = ()
    ) -> None:
        steps: list[Step] = [CheckFile(file_id, _TAKES_REPLICAS), *map(PutReplica, replicas), *short]
        self._file.write(Transaction(Rows(steps)))

    def get_file(self, file_id: str) -> FileRecord | None:
        rows = self._file.read(_GET_FILE, (file_id,))
        return file_of(rows[0]) if rows else None

    def get_head(self, bucket: str, path: str) -> Head | None:
        rows = self._file.read(_GET_HEAD, (bucket, path))
        return Head(*rows[0]) if rows else None

    def scan_heads(
        self, bucket: str, *, start: str, inclusive: bool, end: str | None, limit: int
    ) -> list[Head]:
        bounds = (bucket, start) if end is None else (bucket, start, end)
        rows = self._file.read(_SCAN_HEADS[inclusive, end is not None], (*bounds, limit))
        return [Head(*row) for row in rows]

    def replicas(self, file_id: str, first: int = 0, last: int | None = None) -> Iterator[ChunkReplica]:
        if first == last:
            yield from (ChunkReplica(*row) for row in self._file.read(_OF_CHUNK, (file_id, first)))
            return
        after = (first, "")
        while True:
            rows = self._file.read(
                _REPLICA_RANGE,
                (file_id, *after, keys.MAX_CHUNK_INDEX if last is None else last, _REPLICA_PAGE),
            )
            for row in rows:
                yield ChunkReplica(*row)
            if len(rows) < _REPLICA_PAGE:
                return
            after = (rows[-1][1], rows[-1][2])

    def replica(self, file_id: str, chunk_index: int, node_id: str) -> ChunkReplica | None:
        rows = self._file.read(_ONE_REPLICA, (file_id, chunk_index, node_id))
        return ChunkReplica(*rows[0]) if rows else None

    def operation(self, op_id: str) -> dict[str, Any] | None:
        rows = self._file.read("SELECT result FROM operations WHERE op_id = ?", (op_id,))
        if not rows:
            return None
        result: dict[str, Any] = json.loads(rows[0][0])
        return result

    def forget_operations(self, op_ids: Iterable[str]) -> None:
        parameters = [(op_id,) for op_id in op_ids]
        self._file.write(
            lambda db: db.executemany("DELETE FROM operations WHERE op_id = ?", parameters).close()
        )

    def gc_partitions(self, kind: GcKind) -> list[str]:
        buckets = [bucket.name for bucket in self.list_buckets()] if kind is GcKind.TRASHED else []
        return keys.gc_partitions(kind, buckets)

    def gc_entries(
        self, partition: str, *, after: str | None = None, before: int | None = None, limit: int = 1000
    ) -> list[GcEntry]:
        kind = GcKind(partition.partition("#")[0])
        query = f"SELECT gc_key FROM {_GC_TABLES[kind]} WHERE gc = ? AND gc_key > ?"
        parameters: list[Any] = [partition, after or ""]
        if before is not None and kind is not GcKind.TRASHED:
            query += " AND gc_key < ?"
            parameters.append(keys.time_bound(before))
        rows = self._file.read(f"{query} ORDER BY gc_key LIMIT ?", [*parameters, limit])
        return [keys.gc_entry(partition, row[0]) for row in rows]

    def scan_rows(self) -> Iterator[FileRecord | ChunkReplica]:
        last = ""
        while rows := self._file.read(_FILE_PAGE, (last, _SCAN_PAGE)):
            yield from map(file_of, rows)
            last = rows[-1][0]
        at: tuple[Any, ...] = ("", -1, "")
        while rows := self._file.read(_ROW_PAGE, (*at, _SCAN_PAGE)):
            yield from (ChunkReplica(*row) for row in rows)
            at = tuple(rows[-1][:3])

    def node_chunks(
        self, node_id: str, *, after: tuple[str, int] | None = None, limit: int = 1000
    ) -> list[tuple[str, int]]:
        return [
            (row[0], row[1])
            for row in self._file.read(
                "SELECT file_id, chunk_index FROM replicas WHERE +node_id = ? AND (file_id, chunk_index) > (?, ?) "
                "ORDER BY file_id, chunk_index LIMIT ?",
                (node_id, *(after or ("", -1)), limit),
            )
        ]
