"""Filling a stopped cluster with a million small files in a minute or two, past the API.

What is there afterwards is what a million PUTs would have left: a record on two nodes, written by the
store itself, and the rows of the metadata. File n of prefix p is `payload.content(n, size)` at path `p/n`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import multiprocessing
import operator
import os
import sqlite3
import uuid
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from dfs.chunkbatch import NewChunk
from dfs.errors import DfsError
from dfs.model import DEFAULT_BUCKET, ChunkReplica, FileRecord, FileState, Head
from dfs.store.identity import load_identity
from dfs.store.store import ChunkStore
from tests.bench import payload

COPIES = 2
CHUNK_SIZE = 4 << 20
CONTENT_TYPE = "application/octet-stream"
VERSION = 1_700_000_000_000
_GROUP = 256
_ROWS = 20_000


def file_id(number: int) -> str:
    """The id of file `number`: looks like any other, and is the same in every process."""
    return str(uuid.UUID(bytes=hashlib.md5(b"%d" % number).digest(), version=4))


def holders(number: int, nodes: Sequence[str]) -> list[str]:
    """The nodes that hold file `number`."""
    return [nodes[(number + copy) % len(nodes)] for copy in range(COPIES)]


def fill(cluster: Path, nodes: Sequence[str], prefix: str, count: int, size: int) -> None:
    """Put `count` files of `size` bytes into the stopped cluster in the directory `cluster`: chunks and rows."""
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=_fill_node, args=(cluster / "nodes" / node, place, tuple(nodes), count, size), daemon=True)
        for place, node in enumerate(nodes)
    ]
    for worker in workers:
        worker.start()
    fill_metadata(cluster, nodes, prefix, count, size)
    for worker in workers:
        worker.join()
        if worker.exitcode:
            raise OSError(f"filling a node failed with exit code {worker.exitcode}")


def _fill_node(directory: Path, place: int, nodes: tuple[str, ...], count: int, size: int) -> None:
    identity = load_identity(directory)
    if identity is None:
        raise SystemExit(f"{directory} is not the disk of a node")
    store = ChunkStore.open(directory, identity)
    try:
        mine = (number for number in range(count) if nodes[place] in holders(number, nodes))
        group: list[NewChunk] = []
        for number in mine:
            data = payload.content(number, size)
            group.append(NewChunk(file_id(number), 0, data, hashlib.sha256(data).hexdigest(), zlib.crc32(data), CHUNK_SIZE, size))
            if len(group) == _GROUP:
                _store(store, group)
                group = []
        _store(store, group)
    finally:
        store.close()


def _store(store: ChunkStore, group: list[NewChunk]) -> None:
    for stored in store.put_many(group) if group else ():
        if isinstance(stored, DfsError):
            raise stored


def fill_metadata(cluster: Path, nodes: Sequence[str], prefix: str, count: int, size: int) -> None:
    """The rows of those files alone: enough for listings."""
    path = cluster / "metadata.sqlite"
    by_id = sorted((file_id(number), number) for number in range(count))
    by_path = sorted((f"{prefix}/{number}", number) for number in range(count))
    sums = [hashlib.sha256(payload.content(number, size)).hexdigest() for number in range(count)]
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        # Durable as a whole by the sync at the end: until then nobody reads it.
        database.execute("PRAGMA synchronous = OFF")
        database.execute("PRAGMA cache_size = -262144")
        _insert(database, "files", FileRecord, (_file(name, f"{prefix}/{n}", n, size, sums[n]) for name, n in by_id))
        _insert(database, "heads", Head, (_head(file_id(n), name, size, sums[n]) for name, n in by_path))
        _insert(database, "replicas", ChunkReplica,
                (row for name, n in by_id for row in _replicas(name, n, size, sums[n], nodes)))  # fmt: skip
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    os.sync()


def _insert(database: sqlite3.Connection, table: str, kind: type[Any], records: Iterator[object]) -> None:
    """Columns are called as the records' fields are; those that no record has stay NULL."""
    names = [field.name for field in dataclasses.fields(kind)]
    row_of = operator.attrgetter(*names)
    statement = f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"
    group: list[tuple[Any, ...]] = []
    for record in records:
        group.append(row_of(record))
        if len(group) == _ROWS:
            _commit(database, statement, group)
            group = []
    _commit(database, statement, group)


def _commit(database: sqlite3.Connection, statement: str, group: list[tuple[Any, ...]]) -> None:
    database.execute("BEGIN IMMEDIATE")
    database.executemany(statement, group)
    database.execute("COMMIT")


def _file(name: str, path: str, number: int, size: int, checksum: str) -> FileRecord:
    return FileRecord(
        file_id=name, state=FileState.COMMITTED, bucket=DEFAULT_BUCKET, path=path, size=size, chunk_size=CHUNK_SIZE,
        chunk_count=1, content_type=CONTENT_TYPE, sha256=checksum, filename=str(number), version=VERSION,
        created_at=VERSION, touched_at=VERSION, origin=f"{DEFAULT_BUCKET}/{path}", modified=VERSION,
    )  # fmt: skip


def _head(name: str, path: str, size: int, checksum: str) -> Head:
    return Head(
        bucket=DEFAULT_BUCKET, path=path, file_id=name, version=VERSION, size=size, sha256=checksum,
        content_type=CONTENT_TYPE, chunk_size=CHUNK_SIZE, chunk_count=1, modified=VERSION,
    )  # fmt: skip


def _replicas(name: str, number: int, size: int, checksum: str, nodes: Sequence[str]) -> list[ChunkReplica]:
    kinds = ("primary", *["secondary"] * (COPIES - 1))
    return [
        ChunkReplica(name, 0, node, checksum, size, kind, VERSION)
        for node, kind in zip(holders(number, nodes), kinds, strict=True)
    ]
