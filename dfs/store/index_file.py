"""Where the index's SQLite database is kept, and the schema it must have.

The second seam of the store: tests give it a database in memory that is stale, damaged, or fails.
"""

from __future__ import annotations

import os
import sqlite3
from array import array
from typing import Protocol

from dfs import logs
from dfs.store.index_seal import Seal, read_wal

SCHEMA_VERSION = 1
APPLICATION_ID = 0x64667349
SEAL = ".seal"
WAL_BYTES = 16 << 20
"""Size of the WAL from which its pages are copied to the database file, where the disk is not small."""

_CACHE_KIB = 2048
"""Memory of each connection for pages; the page cache of the system has the rest."""


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

BAD = """
CREATE TABLE IF NOT EXISTS bad (
    file_id BLOB NOT NULL, chunk_index INTEGER NOT NULL, sequence INTEGER NOT NULL, found INTEGER NOT NULL,
    why TEXT NOT NULL, crc INTEGER NOT NULL, PRIMARY KEY (file_id, chunk_index)
) WITHOUT ROWID
"""
"""Made in older indexes too: a release that does not know it leaves it alone."""


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class IndexFile(Protocol):
    """A place for the database. Methods raise sqlite3.Error or OSError."""

    def connect(self) -> sqlite3.Connection:
        """A connection in autocommit mode, usable from any thread by one at a time."""

    def readers(self) -> int:
        """How many further connections may read while one writes; 0: reads share the one."""

    def discard(self) -> None:
        """Remove the database; no connection is open."""

    def is_proved(self) -> bool:
        """Before the database is opened: whether it is known to hold what was committed, and nothing
        else, so that it need not be looked through. Raises nothing: what fails proves nothing."""

    def checkpoint(self, writer: sqlite3.Connection, *, closing: bool = False) -> None:
        """After a commit, `writer` being in no transaction: a good moment for housekeeping. With
        `closing` nothing is committed any more."""


class SqliteFile:
    """The database file beside the volumes: WAL, so that it is whole at some earlier commit after a
    power cut without a sync for every commit."""

    def __init__(self, path: str, readers: int = 4, wal_bytes: int = WAL_BYTES) -> None:
        self._path = path
        self._readers = readers
        self._wal_bytes = wal_bytes
        self._seal: Seal | None = None
        """Of the database file as the last checkpoint left it."""

    def connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=30.0, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute("PRAGMA wal_autocheckpoint=0")  # checkpoints are made below, sealed
            connection.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def readers(self) -> int:
        return self._readers

    def is_proved(self) -> bool:
        self._seal = None
        try:
            return self._proves()
        except (sqlite3.Error, OSError) as error:  # a full disk, say, which must not stop the start
            logs.warning("store.index_not_proved", error=error)
            return False

    def _proves(self) -> bool:
        old = Seal.load(self._path + SEAL)
        if old is None or not os.path.exists(self._path):
            return False
        new = self._fold(old)
        if Seal.of(self._path) != new:
            return False
        self._seal = new
        return True

    def _fold(self, old: Seal) -> Seal:
        """Copy to the database what SQLite believes of the WAL; `old`, brought up to that."""
        connection = self.connect()
        try:
            frames = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[1]
            new = old.after(read_wal(self._path + "-wal", frames))
            if new != old:
                new.save(self._path + SEAL)
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            connection.close()
        return new

    def checkpoint(self, writer: sqlite3.Connection, *, closing: bool = False) -> None:
        try:
            size = os.path.getsize(self._path + "-wal")
        except FileNotFoundError:
            size = 0
        if not size or (size < self._wal_bytes and not closing):
            return
        if self._seal is None:  # after a rebuild or a look at everything: what is in it now is believed
            self._seal = Seal.of(self._path)
        _sync(self._path + "-wal")  # a seal must not know more than the disk
        wal = read_wal(self._path + "-wal")
        self._seal = (self._seal or Seal(wal.page_size, array("I"))).after(wal)
        self._seal.save(self._path + SEAL)
        writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def discard(self) -> None:
        self._seal = None
        for suffix in ("", "-wal", "-shm", "-journal", SEAL, SEAL + ".tmp"):
            try:
                os.unlink(self._path + suffix)
            except FileNotFoundError:
                pass
