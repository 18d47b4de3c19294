"""The SQLite tables, their version, and who may open them.

`PRAGMA user_version` is the metadata format. Text columns compare byte by byte (BINARY), which is
DynamoDB's order. `gc` and `gc_key` are the same index as in DynamoDB: partial, so that a committed
file costs nothing there. The rows of a node are found by reading all rows in order: an index would
cost every commit two more pages, and a machine has few nodes.
"""

from __future__ import annotations

import sqlite3
import uuid

from dfs import METADATA_FORMAT
from dfs.errors import StartError
from dfs.model import DEFAULT_BUCKET, UPLOADS_BUCKET, ClusterInfo

APPLICATION_ID = 0x64667331
"""`PRAGMA application_id` of our files ("dfs1"), so that no other database is taken for one."""

_TABLES = """
CREATE TABLE cluster (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    cluster_id TEXT NOT NULL, generation INTEGER NOT NULL, format INTEGER NOT NULL
);
CREATE TABLE files (
    file_id TEXT NOT NULL PRIMARY KEY, state TEXT NOT NULL, bucket TEXT NOT NULL, path TEXT NOT NULL,
    size INTEGER NOT NULL, chunk_size INTEGER NOT NULL, chunk_count INTEGER NOT NULL,
    content_type TEXT NOT NULL, sha256 TEXT, filename TEXT NOT NULL, version INTEGER NOT NULL,
    created_at INTEGER NOT NULL, touched_at INTEGER NOT NULL, origin TEXT NOT NULL,
    modified INTEGER NOT NULL, retired TEXT NOT NULL, gc TEXT, gc_key TEXT
) WITHOUT ROWID;
CREATE INDEX files_gc ON files (gc, gc_key) WHERE gc IS NOT NULL;
CREATE TABLE heads (
    bucket TEXT NOT NULL, path TEXT NOT NULL, file_id TEXT NOT NULL, version INTEGER NOT NULL,
    size INTEGER NOT NULL, sha256 TEXT, content_type TEXT NOT NULL, chunk_size INTEGER NOT NULL,
    chunk_count INTEGER NOT NULL, modified INTEGER NOT NULL, PRIMARY KEY (bucket, path)
) WITHOUT ROWID;
CREATE TABLE replicas (
    file_id TEXT NOT NULL, chunk_index INTEGER NOT NULL, node_id TEXT NOT NULL, checksum TEXT NOT NULL,
    length INTEGER NOT NULL, replica_type TEXT NOT NULL, created_at INTEGER NOT NULL,
    PRIMARY KEY (file_id, chunk_index, node_id)
) WITHOUT ROWID;
CREATE TABLE shorts (
    file_id TEXT NOT NULL, chunk_index INTEGER NOT NULL, gc TEXT NOT NULL, gc_key TEXT NOT NULL,
    PRIMARY KEY (file_id, chunk_index)
) WITHOUT ROWID;
CREATE INDEX shorts_gc ON shorts (gc, gc_key);
CREATE TABLE operations (
    op_id TEXT NOT NULL PRIMARY KEY, result TEXT NOT NULL, gc TEXT NOT NULL, gc_key TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX operations_gc ON operations (gc, gc_key);
CREATE TABLE buckets (name TEXT NOT NULL PRIMARY KEY, created_at INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE nodes (
    node_id TEXT NOT NULL PRIMARY KEY, address TEXT NOT NULL, port INTEGER NOT NULL, zone TEXT,
    instance_id TEXT, disk_id TEXT NOT NULL, boot_id TEXT NOT NULL, status TEXT NOT NULL,
    admin_state TEXT NOT NULL, heartbeat_seq INTEGER NOT NULL, heartbeat_ts INTEGER NOT NULL,
    free_bytes INTEGER NOT NULL, used_bytes INTEGER NOT NULL, capacity_bytes INTEGER NOT NULL,
    chunks INTEGER NOT NULL, version TEXT NOT NULL, wire_version INTEGER NOT NULL,
    disk_format INTEGER NOT NULL, admin_at INTEGER NOT NULL, admin_until INTEGER NOT NULL,
    bad_chunks INTEGER NOT NULL, scrubbed_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE documents (
    name TEXT NOT NULL PRIMARY KEY, version INTEGER NOT NULL, value TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE leases (
    name TEXT NOT NULL PRIMARY KEY, owner TEXT NOT NULL, fence INTEGER NOT NULL, beat INTEGER NOT NULL
) WITHOUT ROWID;
"""


def judge(path: str, version: int, application: int, objects: int) -> bool:
    """Whether the tables are there, from the file's pragmas and number of schema objects.

    Raises StartError when the file is another program's, or of a newer release.
    """
    if objects == 0:
        return False
    if application != APPLICATION_ID:
        raise StartError(f"DFS_METADATA_URL: {path} is a database of another program")
    if version > METADATA_FORMAT:
        raise StartError(
            f"DFS_METADATA_URL: {path} has metadata format {version}; this release reads up to "
            f"{METADATA_FORMAT}: run the newer release of dfs that wrote it"
        )
    return True


UNFINISHED = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'documents'"
"""0 where the tables are those of the time before the first release, which had the same format number."""


def check_finished(path: str, found: int) -> None:
    """Raise StartError when UNFINISHED gave 0."""
    if not found:
        raise StartError(
            f"DFS_METADATA_URL: {path} was made by a version of dfs before its first release, which this one cannot read: "
            "copy the files out with that version, and begin with new metadata and new data directories"
        )


def create_tables(connection: sqlite3.Connection, path: str, now_ms: int) -> None:
    """Make what is missing, inside the caller's transaction. Raises StartError as `judge` does."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    objects = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    if judge(path, version, application, objects):
        check_finished(path, connection.execute(UNFINISHED).fetchone()[0])
        connection.execute("DROP INDEX IF EXISTS replicas_by_node")  # of files made before it was given up
        return
    for statement in _TABLES.split(";\n"):
        if statement.strip():
            connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {METADATA_FORMAT}")
    connection.execute("INSERT INTO cluster VALUES (1, ?, 1, ?)", (str(uuid.uuid4()), METADATA_FORMAT))
    for name in (DEFAULT_BUCKET, UPLOADS_BUCKET):
        connection.execute("INSERT INTO buckets VALUES (?, ?)", (name, now_ms))


def read_cluster(connection: sqlite3.Connection) -> ClusterInfo | None:
    """The identity row."""
    rows = connection.execute("SELECT cluster_id, generation, format FROM cluster").fetchall()
    return ClusterInfo(*rows[0]) if rows else None
