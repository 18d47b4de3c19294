"""One SQLite file shared by threads and processes: connections, group commit, translated errors.

Durable when `write` returns: WAL with synchronous=FULL syncs the log at every COMMIT. A connection
is never used across a fork: the child finds another process id and opens its own.
"""

from __future__ import annotations

import os
import random
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from dfs.errors import StartError, Unavailable
from dfs.logs import warning
from dfs.metadata.batch import Batcher, Job
from dfs.metadata.contract import OutcomeUnknown

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], Any]

MAX_BATCH = 128
"""Most callers of one transaction: keeps the log and the longest wait small."""

_IDLE_READERS = 8
_PAGE_CACHE_KIB = 1024
_WAL_KEPT_BYTES = 64 << 20
_OWN_FAULTS = (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.InterfaceError, sqlite3.DataError)
"""Errors that are the statement's own fault; any other may have ended the whole transaction."""


_UNFIT = {
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_READONLY,
}


class Unfit(Unavailable):
    """The file is missing, replaced, damaged or not to be opened: waiting does not mend it."""


class _Process:
    """The connections of one process, all to the file `identity` (device, inode)."""

    def __init__(self, run: Callable[[list[Job[Work]]], None]) -> None:
        self.pid = os.getpid()
        self.batcher: Batcher[Work] = Batcher(run, MAX_BATCH)
        self.writer: sqlite3.Connection | None = None
        self.readers: deque[sqlite3.Connection] = deque()
        self.guard = threading.Lock()
        self.identity: tuple[int, int] | None = None


class SqliteFile:
    """See the module's text. `lock_timeout` (s) bounds the wait for another process's transaction;
    `connect` is the seam for tests that inject faults."""

    def __init__(
        self,
        path: str,
        *,
        lock_timeout: float = 10.0,
        connect: Callable[..., sqlite3.Connection] = sqlite3.connect,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = path
        self._lock_timeout = lock_timeout
        self._connect = connect
        self._clock = clock
        self._inherited: list[_Process] = []
        self._process = _Process(self._run)

    def read(self, query: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """All rows of a query, as of a moment after the call began. Raises Unavailable."""
        process = self._here()
        self._check_identity(process)
        connection = None
        try:
            try:
                connection = process.readers.pop()
            except IndexError:
                connection = self._open(create=False)
            rows = connection.execute(query, parameters).fetchall()
        except sqlite3.Error as error:
            if connection is not None:
                connection.close()
            raise self._unavailable(error) from error
        if len(process.readers) < _IDLE_READERS:
            process.readers.append(connection)
        else:
            connection.close()
        return rows

    def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` in a transaction it may share with other callers, alone in a savepoint.

        Durable when it returns. What `work` raises undoes its own changes only, and is raised here
        after the commit of the others it may have looked at. Raises Unavailable when nothing was
        done, OutcomeUnknown when the COMMIT failed.
        """

        def boxed(connection: sqlite3.Connection) -> tuple[T]:
            return (work(connection),)

        result: tuple[T] = self._here().batcher.submit(boxed)  # type: ignore[assignment]
        return result[0]

    def create(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Make the file where it is missing and run `work` in a transaction of its own."""
        try:
            connection = self._open(create=True)
        except sqlite3.Error as error:
            raise StartError(f"DFS_METADATA_URL: {self.path} cannot be made or opened: {error}") from error
        try:
            self._begin(connection)
            result = work(connection)
            connection.execute("COMMIT")
            return result
        except sqlite3.Error as error:
            raise StartError(f"DFS_METADATA_URL: {self.path} cannot be written: {error}") from error
        finally:
            connection.close()

    def close(self) -> None:
        """Close the connections of this process."""
        process = self._here()
        with process.guard:
            if process.writer is not None:
                process.writer.close()
                process.writer = None
        while process.readers:
            process.readers.pop().close()

    def _here(self) -> _Process:
        process = self._process
        if process.pid != os.getpid():
            # Closing an inherited connection could disturb the parent's locks and log: keep it.
            self._inherited.append(process)
            process = self._process = _Process(self._run)
        return process

    def _check_identity(self, process: _Process) -> None:
        """Raise Unfit unless the path still leads to the file that this process has begun with.

        Connections to a file that was deleted go on working, so commits would be acknowledged into
        nothing; and sqlite3.connect would make an empty file, which looks like lost metadata.
        """
        try:
            status = os.stat(self.path)
        except OSError as error:
            raise Unfit(
                f"metadata file {self.path} cannot be found ({error.strerror}): put it back, or make a new one with "
                "python -m dfs.admin create-tables"
            ) from error
        found = (status.st_dev, status.st_ino)
        if process.identity is None:
            process.identity = found
        elif process.identity != found:
            raise Unfit(f"metadata file {self.path} was replaced while in use: restart the servers that use it")

    def _open(self, *, create: bool) -> sqlite3.Connection:
        connection = self._connect(
            self.path, timeout=self._lock_timeout, isolation_level=None, check_same_thread=False
        )
        try:
            if create:
                # SQLite's busy handler is not asked when several processes switch to WAL at once.
                self._patiently(connection, "PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA fullfsync = ON")  # macOS: fsync alone stops at the drive's cache
            connection.execute("PRAGMA checkpoint_fullfsync = ON")
            connection.execute(f"PRAGMA cache_size = -{_PAGE_CACHE_KIB}")
            connection.execute(f"PRAGMA journal_size_limit = {_WAL_KEPT_BYTES}")
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def _begin(self, connection: sqlite3.Connection) -> None:
        """BEGIN IMMEDIATE, trying again in short random steps: SQLite's own busy handler sleeps ever
        longer, so the process that waits longest would wait longest again."""
        connection.execute("PRAGMA busy_timeout = 0")
        self._patiently(connection, "BEGIN IMMEDIATE")

    def _patiently(self, connection: sqlite3.Connection, statement: str) -> None:
        """Execute `statement`, again and again while another connection is in its way."""
        deadline = self._clock() + self._lock_timeout
        while True:
            try:
                connection.execute(statement)
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or self._clock() >= deadline:
                    raise
            time.sleep(random.uniform(0.0002, 0.002))

    def _run(self, jobs: list[Job[Work]]) -> None:
        process = self._here()
        with process.guard:
            connection = process.writer
            try:
                self._check_identity(process)
                if connection is None:
                    connection = process.writer = self._open(create=False)
                self._begin(connection)
                outcomes = [self._attempt(connection, job.work) for job in jobs]
            except BaseException as error:
                self._abandon(process)
                if isinstance(error, sqlite3.Error):
                    raise self._unavailable(error) from error
                raise
            try:
                connection.execute("COMMIT")
            except BaseException as error:
                self._abandon(process)
                warning("metadata_commit_failed", path=self.path, error=error, callers=len(jobs))
                raise OutcomeUnknown(f"the commit to {self.path} failed: {error}") from error
        for job, (result, refusal) in zip(jobs, outcomes, strict=True):
            job.result, job.error = result, refusal

    @staticmethod
    def _attempt(connection: sqlite3.Connection, work: Work) -> tuple[Any, Exception | None]:
        """(result, None), or (None, error) with the work's changes undone."""
        connection.execute("SAVEPOINT caller")
        try:
            result = work(connection)
        except Exception as error:
            if isinstance(error, sqlite3.Error) and not isinstance(error, _OWN_FAULTS):
                raise
            connection.execute("ROLLBACK TO caller")
            connection.execute("RELEASE caller")
            return None, error
        connection.execute("RELEASE caller")
        return result, None

    def _abandon(self, process: _Process) -> None:
        """Drop the writer: closing rolls back, and a new connection has no doubtful state."""
        if process.writer is not None:
            process.writer.close()
            process.writer = None

    def _unavailable(self, error: sqlite3.Error) -> Unavailable:
        unfit = getattr(error, "sqlite_errorcode", 0) & 0xFF in _UNFIT
        return (Unfit if unfit else Unavailable)(f"metadata in {self.path} cannot be used: {error}")
