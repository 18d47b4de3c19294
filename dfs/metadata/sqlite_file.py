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
from functools import partial
from typing import Any, TypeVar
from urllib.parse import quote

from dfs.errors import StartError, Unavailable
from dfs.logs import warning
from dfs.metadata.batch import Batcher, Job
from dfs.metadata.contract import OutcomeUnknown
from dfs.metadata.sqlite_batch import Outcome, Transaction, Work, run_batch
from dfs.metadata.sqlite_checkpoint import FALLBACK_PAGES, ROWS_BETWEEN, Checkpointer
from dfs.metadata.turns import Turns

T = TypeVar("T")

MAX_BATCH = 128
"""Most callers of one transaction: keeps the log and the longest wait small."""

TURNS_SUFFIX = "-turns"
"""Beside the database: the file at which the processes that write queue. Empty, and safe to remove
when nothing runs."""

HELD_SECONDS = 1.0
"""How long is waited for a lock that has just been waited for in vain: whoever comes next need not lose
as much time before being told."""

_IDLE_READERS = 8
_PAGE_CACHE_KIB = 1024
_WRITER_CACHE_KIB = 8192
_WAL_KEPT_BYTES = 64 << 20
_STATEMENTS = 512
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

    def __init__(self, run: Callable[[list[Job[Work]]], None], checkpointer: Checkpointer) -> None:
        self.pid = os.getpid()
        self.batcher: Batcher[Work] = Batcher(run, MAX_BATCH)
        self.checkpointer = checkpointer
        self.turns: Turns | None = None
        self.writer: sqlite3.Connection | None = None
        self.readers: deque[sqlite3.Connection] = deque()
        self.guard = threading.Lock()
        self.handover = threading.Lock()
        """Of the threads of a child that find this inherited one makes the child's own. Never held by
        the process itself, so it is free in the child."""
        self.identity: tuple[int, int] | None = None


class SqliteFile:
    """See the module's text. `lock_timeout` (s) bounds the wait for another process's transaction,
    and HELD_SECONDS while that has last been in vain; `connect` is the seam for tests that inject faults."""

    def __init__(
        self,
        path: str,
        *,
        lock_timeout: float = 10.0,
        connect: Callable[..., sqlite3.Connection] = sqlite3.connect,
        clock: Callable[[], float] = time.monotonic,
        checkpoint_rows: int = ROWS_BETWEEN,
    ) -> None:
        self.path = path
        self._lock_timeout = lock_timeout
        self._connect = connect
        self._clock = clock
        self._turns_path = path + TURNS_SUFFIX
        self._checkpoint_rows = checkpoint_rows
        self._held = False
        self._inherited: list[_Process] = []
        self._process = self._new_process()

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

    def write(self, work: Callable[[sqlite3.Connection], T] | Transaction) -> T:
        """Do `work` in a transaction it may share with other callers.

        Durable when it returns. What `work` raises undoes its own changes only, and is raised here
        after the commit of the others it may have looked at. Raises Unavailable when nothing was
        done, OutcomeUnknown when the COMMIT failed.
        """
        result: tuple[T] = self._here().batcher.submit(work)  # type: ignore[assignment]
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
            process.checkpointer.finish(self._lock_timeout)
            self._abandon(process)
            if process.turns is not None:
                process.turns.close()
                process.turns = None
        while process.readers:
            process.readers.pop().close()

    def _here(self) -> _Process:
        process = self._process
        if process.pid != os.getpid():
            with process.handover:
                if self._process is process:
                    # Closing an inherited connection could disturb the parent's locks and log: keep it.
                    self._inherited.append(process)
                    if process.turns is not None:
                        process.turns.forget()
                    self._process = self._new_process()
                process = self._process
        return process

    def _new_process(self) -> _Process:
        connect = partial(self._open, create=False)
        return _Process(
            self._run, Checkpointer(self.path, self._turns_path, connect, self._checkpoint_rows)
        )

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
        # Without `create` a file that has just been moved away must not be made anew, empty.
        connection = self._connect(
            self.path if create else f"file:{quote(self.path)}?mode=rw",
            uri=not create,
            timeout=self._lock_timeout,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=_STATEMENTS,
        )
        try:
            if create:
                # SQLite's busy handler is not asked when several processes switch to WAL at once.
                self._patiently(connection, "PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA fullfsync = ON")  # macOS: fsync alone stops at the drive's cache
            connection.execute("PRAGMA checkpoint_fullfsync = ON")
            # Else the undo log of a statement of many rows goes to a file.
            connection.execute("PRAGMA temp_store = MEMORY")
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
        deadline = self._clock() + self._patience()
        while True:
            try:
                connection.execute(statement)
                self._held = False
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                    raise
                if self._clock() >= deadline:
                    self._held = True
                    raise
            time.sleep(random.uniform(0.0002, 0.002))

    def _patience(self) -> float:
        """Seconds for which another process's transaction is waited for now."""
        return min(self._lock_timeout, HELD_SECONDS) if self._held else self._lock_timeout

    def _run(self, jobs: list[Job[Work]]) -> None:
        process = self._here()
        with process.guard:
            turns = self._turn(process)
            try:
                outcomes = self._commit(process, [job.work for job in jobs])
            finally:
                if turns is not None:
                    turns.give()
        for job, (result, refusal) in zip(jobs, outcomes, strict=True):
            job.result, job.error = (result,), refusal

    def _turn(self, process: _Process) -> Turns | None:
        """Wait for this process's turn; None when it goes on without, by SQLite's lock alone."""
        if process.turns is None:
            try:
                self._check_identity(process)
                process.turns = Turns(self._turns_path)
            except OSError:
                return None
        return process.turns if process.turns.take(self._patience() / 2) else None

    def _commit(self, process: _Process, works: list[Work]) -> list[Outcome]:
        """All works in one transaction, durable when this returns."""
        connection = process.writer
        try:
            self._check_identity(process)
            if connection is None:
                connection = process.writer = self._open(create=False)
                connection.execute(f"PRAGMA cache_size = -{_WRITER_CACHE_KIB}")
                connection.execute(f"PRAGMA wal_autocheckpoint = {FALLBACK_PAGES}")
            before = connection.total_changes
            outcomes = run_batch(connection, works, self._begin)
        except BaseException as error:
            self._abandon(process)
            if isinstance(error, sqlite3.Error):
                raise self._unavailable(error) from error
            raise
        try:
            connection.execute("COMMIT")
        except BaseException as error:
            self._abandon(process)
            warning("metadata_commit_failed", path=self.path, error=error, callers=len(works))
            raise OutcomeUnknown(f"the commit to {self.path} failed: {error}") from error
        process.checkpointer.wrote(connection.total_changes - before)
        return outcomes

    def _abandon(self, process: _Process) -> None:
        """Drop the writer: closing rolls back, and a new connection has no doubtful state."""
        if process.writer is not None:
            process.writer.close()
            process.writer = None

    def _unavailable(self, error: sqlite3.Error) -> Unavailable:
        unfit = getattr(error, "sqlite_errorcode", 0) & 0xFF in _UNFIT
        return (Unfit if unfit else Unavailable)(f"metadata in {self.path} cannot be used: {error}")
