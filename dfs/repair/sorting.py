"""Many small facts about chunks, brought into the order of their keys with little memory.

They go into a temporary SQLite database as they come, appended and never looked at, and are read back once,
sorted: SQLite's own merge sort spills to disk what its cache does not hold. So an audit of millions of chunks
needs disk for a while (about ROOM_PER_FACT bytes a fact) and no more memory than one of a thousand. The
file has lost its name before anything is written: nothing is left of it whatever happens to the process.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum
from typing import NamedTuple, TypeVar

from dfs.errors import Unavailable

CACHE_KIB = 16 * 1024
ROOM_PER_FACT = 256
"""Bytes of disk that are asked for beforehand: a fact takes about 90, and as much again while it is sorted."""

_PAGE = 2000
_STEPS_BETWEEN_LOOKS = 50_000

T = TypeVar("T")


class FactKind(IntEnum):
    """In the order in which the facts of one chunk are read back."""

    FILE = 0
    """A file record: `chunk` is -1, `node` the number of chunks, `checksum` its note, `length` its size, `one`
    its state's place among all states, `two` the chunk size."""
    ROW = 1
    """A replica row: `one` and `two` are not used."""
    HELD = 2
    """A record on a node's disk: `one` is when it was stored, `two` when last verified (ms; 0: never)."""
    BAD = 3
    """A chunk that a node knows, or has just found, to be bad: `checksum` is why, as text."""


class Fact(NamedTuple):
    """One fact; `node` is the caller's number of the node (-1: none)."""

    file: bytes
    chunk: int
    kind: int
    node: int
    checksum: bytes
    length: int
    one: int
    two: int


class Sorting:
    """The facts. `add` may be called from several threads. Close it, or use `contextlib.closing`.

    Raises Unavailable with what to do about it when the disk for temporary files is full or fails, and
    InterruptedError soon after `interrupted()` begins to hold.
    """

    def __init__(self, *, expected: int = 0, interrupted: Callable[[], bool] = lambda: False) -> None:
        """`expected` facts must have room now."""
        self._directory = tempfile.gettempdir()
        need = expected * ROOM_PER_FACT
        free = shutil.disk_usage(self._directory).free
        if free < need:
            raise Unavailable(
                f"{self._directory} has {free >> 20} MiB free and sorting {expected:,} entries may take {need >> 20}: "
                "make room there, or set TMPDIR of the API server to a directory that has it"
            )
        self._interrupted = interrupted
        self._lock = threading.Lock()
        self._database = self._guarded(self._open)

    def _open(self) -> sqlite3.Connection:
        handle, path = tempfile.mkstemp(prefix="dfs-audit-", dir=self._directory)
        os.close(handle)
        try:
            database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            database.execute("PRAGMA journal_mode = OFF")
            database.execute("PRAGMA synchronous = OFF")
            database.execute("PRAGMA locking_mode = EXCLUSIVE")
            database.execute("PRAGMA temp_store = FILE")
            database.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
            database.execute(
                "CREATE TABLE facts (file BLOB, chunk INTEGER, kind INTEGER, node INTEGER, checksum BLOB, "
                "length INTEGER, one INTEGER, two INTEGER)"
            )
        finally:
            os.unlink(path)
        database.set_progress_handler(lambda: 1 if self._interrupted() else 0, _STEPS_BETWEEN_LOOKS)
        return database

    def add(self, facts: Sequence[Fact]) -> None:
        """Keep `facts` (a page of them: they are written together)."""
        if not facts:
            return
        with self._lock:
            self._guarded(lambda: self._write(facts))

    def _write(self, facts: Sequence[Fact]) -> None:
        self._database.execute("BEGIN")
        self._database.executemany("INSERT INTO facts VALUES (?, ?, ?, ?, ?, ?, ?, ?)", facts)
        self._database.execute("COMMIT")

    def sorted(self) -> Iterator[Fact]:
        """All facts by file, chunk, kind and node. Nothing is added meanwhile."""
        query = "SELECT file, chunk, kind, node, checksum, length, one, two FROM facts ORDER BY 1, 2, 3, 4"
        with self._lock:
            cursor = self._guarded(lambda: self._database.execute(query))
            while page := self._guarded(lambda: cursor.fetchmany(_PAGE)):
                yield from map(Fact._make, page)

    def close(self) -> None:
        """Give the disk space back. Harmless to repeat."""
        self._database.close()

    def _guarded(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except sqlite3.Error as error:
            if self._interrupted():
                raise InterruptedError("interrupted while sorting") from error
            raise self._failed(error) from error
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> Unavailable:
        return Unavailable(
            f"the temporary files that sorting needs cannot be written in {self._directory} ({error}): make room "
            "there, or set TMPDIR of the API server to a directory that has it"
        )


def file_key(file_id: str) -> bytes:
    """A file id in 16 bytes; raises ValueError when it is none."""
    key = bytes.fromhex(file_id.replace("-", ""))
    if len(key) != 16:
        raise ValueError(f"{file_id[:80]!r} is no file id")
    return key


def file_id_of(key: bytes) -> str:
    """The file id that `file_key` was given."""
    text = key.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
