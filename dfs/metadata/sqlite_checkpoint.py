"""Moving the write-ahead log into the database beside the commits, not inside one of them.

SQLite does it in the COMMIT that finds the log long, so every few hundred commits one waits for
thousands of pages. Here a thread does most of it while commits go on (PASSIVE), then, in a writer's
turn, the little that came meanwhile (RESTART), so that the log begins again at its start: what
bounds its length. The thread lives for one checkpoint.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable

from dfs.logs import warning
from dfs.metadata.turns import a_turn

ROWS_BETWEEN = 2048
"""Rows that one process writes between two checkpoints. A row takes at most about one page of log."""

FALLBACK_PAGES = 65_536
"""Pages of log at which SQLite checkpoints inside a commit after all."""

_READERS_MS = 100
"""How long writers may wait for readers of the old log to finish; else it goes on growing until the next time."""


class Checkpointer:
    """See the module's text. `connect` opens a connection to the file `path`, whose writers queue at
    the file `turns`."""

    def __init__(
        self, path: str, turns: str, connect: Callable[[], sqlite3.Connection], rows: int = ROWS_BETWEEN
    ) -> None:
        self._path = path
        self._turns = turns
        self._connect = connect
        self._rows = rows
        self._since = 0
        self._thread: threading.Thread | None = None

    def wrote(self, rows: int) -> None:
        """A transaction that changed `rows` rows was committed. Called by one thread at a time."""
        self._since += rows
        if self._since < self._rows or (self._thread is not None and self._thread.is_alive()):
            return
        self._since = 0
        self._thread = threading.Thread(target=self._run, name="metadata-checkpoint", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:  # no more threads: SQLite's own checkpoints remain
            self._thread = None
            warning("metadata.not_checkpointed", path=self._path, error=error)

    def finish(self, seconds: float) -> None:
        """Wait for a checkpoint that runs, so long."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(seconds)

    def _run(self) -> None:
        try:
            connection = self._connect()
            try:
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
                connection.execute(f"PRAGMA busy_timeout = {_READERS_MS}")
                with a_turn(self._turns):
                    connection.execute("PRAGMA wal_checkpoint(RESTART)")
            finally:
                connection.close()
        except (sqlite3.Error, OSError) as error:
            # A full disk or a locked file: the log stays as it is, and the next time comes.
            warning("metadata.not_checkpointed", path=self._path, error=error)
