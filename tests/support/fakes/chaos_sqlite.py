"""SQLite connections that fail on purpose: the seam is `SqliteFile(connect=...)`."""

from __future__ import annotations

import random
import sqlite3
import threading
from collections.abc import Callable, Iterable
from typing import Any


def sqlite_error(code: int, text: str) -> sqlite3.OperationalError:
    """An error as the sqlite3 module raises it."""
    error = sqlite3.OperationalError(text)
    error.sqlite_errorcode = code
    return error


class Faults:
    """Decides, for every statement of every connection, whether and how it fails.

    `decide(kind)` gets "begin", "commit", "write" or "read" and returns None or the name of a fault:
    "busy", "full", "io", "lost" (commit only: applied, then an error), "refused" (commit only: not
    applied).
    """

    def __init__(self, decide: Callable[[str], str | None]) -> None:
        self.decide = decide
        self.counts: dict[str, int] = {}
        self._guard = threading.Lock()

    def connect(self, *arguments: Any, **named: Any) -> sqlite3.Connection:
        """Stands for sqlite3.connect."""
        faults = self

        class Connection(sqlite3.Connection):
            def execute(self, sql: str, parameters: Iterable[Any] = (), /) -> sqlite3.Cursor:
                return faults.run(super().execute, sql, parameters)

        return sqlite3.connect(*arguments, factory=Connection, **named)

    def run(self, execute: Callable[..., sqlite3.Cursor], sql: str, parameters: Any) -> sqlite3.Cursor:
        """One statement."""
        word = sql.split(None, 1)[0].upper()
        kind = {"BEGIN": "begin", "COMMIT": "commit", "SELECT": "read"}.get(word, "write")
        if word in ("PRAGMA", "SAVEPOINT", "RELEASE", "ROLLBACK"):
            return execute(sql, parameters)
        with self._guard:
            fault = self.decide(kind)
            if fault:
                self.counts[fault] = self.counts.get(fault, 0) + 1
        if fault == "busy":
            raise sqlite_error(sqlite3.SQLITE_BUSY, "database is locked")
        if fault == "full":
            raise sqlite_error(sqlite3.SQLITE_FULL, "database or disk is full")
        if fault in ("io", "refused"):
            raise sqlite_error(sqlite3.SQLITE_IOERR, "disk I/O error")
        cursor = execute(sql, parameters)
        if fault == "lost":
            raise sqlite_error(sqlite3.SQLITE_IOERR, "disk I/O error")
        return cursor


def random_faults(rng: random.Random, rates: dict[tuple[str, str], float]) -> Faults:
    """Faults by chance: `rates[kind, fault]` is a probability per statement of the kind."""

    def decide(kind: str) -> str | None:
        for (where, fault), rate in rates.items():
            if where == kind and rng.random() < rate:
                return fault
        return None

    return Faults(decide)
