"""Where the index's SQLite database is kept, and the schema it must have.

The second seam of the store: tests give it a database in memory that is stale, damaged, or fails.
"""

from __future__ import annotations

import os
import sqlite3
import zlib
from typing import Protocol

SCHEMA_VERSION = 1
APPLICATION_ID = 0x64667349
SEAL = ".seal"

SCHEMA = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE volumes (
    number INTEGER PRIMARY KEY, volume_id BLOB NOT NULL, upto INTEGER NOT NULL, sealed INTEGER NOT NULL,
    compacted INTEGER NOT NULL, live INTEGER NOT NULL, chunks INTEGER NOT NULL, crc INTEGER NOT NULL
);
CREATE TABLE chunks (
    file_id BLOB NOT NULL, chunk_index INTEGER NOT NULL, kind INTEGER NOT NULL, volume INTEGER NOT NULL,
    offset INTEGER NOT NULL, size INTEGER NOT NULL, sequence INTEGER NOT NULL, created INTEGER NOT NULL,
    length INTEGER NOT NULL, checksum BLOB NOT NULL, chunk_size INTEGER NOT NULL, file_size INTEGER,
    crc INTEGER NOT NULL, verified INTEGER, PRIMARY KEY (file_id, chunk_index)
) WITHOUT ROWID;
CREATE INDEX chunks_sequence ON chunks (sequence);
CREATE TABLE erased (
    file_id BLOB PRIMARY KEY, volume INTEGER NOT NULL, offset INTEGER NOT NULL, size INTEGER NOT NULL,
    sequence INTEGER NOT NULL, created INTEGER NOT NULL, crc INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE notes (
    sequence INTEGER PRIMARY KEY, file_id BLOB NOT NULL, checksum BLOB NOT NULL UNIQUE,
    volume INTEGER NOT NULL, offset INTEGER NOT NULL, size INTEGER NOT NULL, crc INTEGER NOT NULL
);
CREATE INDEX notes_file ON notes (file_id);
CREATE TABLE dead (
    file_id BLOB NOT NULL, chunk_index INTEGER NOT NULL, volume INTEGER NOT NULL, crc INTEGER NOT NULL,
    PRIMARY KEY (file_id, chunk_index, volume)
) WITHOUT ROWID;
CREATE INDEX dead_volume ON dead (volume);
"""


class IndexFile(Protocol):
    """A place for the database. Methods raise sqlite3.Error or OSError."""

    def connect(self) -> sqlite3.Connection:
        """A connection in autocommit mode, usable from any thread by one at a time."""

    def readers(self) -> int:
        """How many further connections may read while one writes; 0: reads share the one."""

    def discard(self) -> None:
        """Remove the database; no connection is open."""

    def seal(self) -> None:
        """After a clean stop: keep a checksum of the whole database. No connection is open."""

    def break_seal(self) -> bool:
        """Before the database is opened: whether it is byte for byte what was sealed. The seal is gone
        when this returns."""


class SqliteFile:
    """The database file beside the volumes: WAL, so that it is whole at some earlier commit after a
    power cut without a sync for every commit."""

    def __init__(self, path: str, readers: int = 4) -> None:
        self._path = path
        self._readers = readers

    def connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=30.0, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute("PRAGMA cache_size=-16384")
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def readers(self) -> int:
        return self._readers

    def seal(self) -> None:
        if os.path.exists(self._path + "-wal"):
            return  # something was not written back
        text = f"{SCHEMA_VERSION} {self._crc():08x}\n"
        with open(self._path + SEAL, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())

    def break_seal(self) -> bool:
        try:
            with open(self._path + SEAL, encoding="ascii", errors="replace") as file:
                text = file.read(64)
            os.unlink(self._path + SEAL)
        except FileNotFoundError:
            return False
        directory = os.open(os.path.dirname(self._path), os.O_RDONLY)
        try:
            os.fsync(directory)  # the seal must not come back after the database has changed
        finally:
            os.close(directory)
        return os.path.exists(self._path) and text == f"{SCHEMA_VERSION} {self._crc():08x}\n"

    def _crc(self) -> int:
        crc = 0
        with open(self._path, "rb", buffering=0) as file:
            while data := file.read(1 << 20):
                crc = zlib.crc32(data, crc)
        return crc

    def discard(self) -> None:
        for suffix in ("", "-wal", "-shm", "-journal", SEAL):
            try:
                os.unlink(self._path + suffix)
            except FileNotFoundError:
                pass
