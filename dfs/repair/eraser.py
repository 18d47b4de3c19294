"""The eraser: takes deleted files off the nodes, and abandoned uploads with them.

It works from state alone, so it can be stopped at any moment and goes on where it was:

1. an upload that nobody touched for `upload_ttl` becomes `deleting`;
2. a file that has been `deleting` for `grace` is erased at the nodes (durably; a node remembers it
   and refuses later stores of that file), the rows of the nodes that confirmed it are removed, and
   when no row is left, the record;
3. records of operations that nobody can repeat any more are forgotten;
4. what has been in the trash long enough, or must go for want of space, becomes `deleting` (`trash`).

The gc index only says where to look: everything is decided by consistent reads and conditional
writes, so two erasers at once do no harm; the lease merely saves them the work.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from dfs import errors, logs
from dfs.cluster.calls import NodeCalls, NodeFailed
from dfs.cluster.membership import Membership
from dfs.metadata.contract import GcEntry, GcKind, MetadataStore, StepsRefused
from dfs.metadata.steps import ChangeFile, RemoveFile
from dfs.model import AdminState, FileRecord, FileState, Lease, NodeInfo
from dfs.repair.rowremoval import remove_rows
from dfs.repair.trash import Trash
from dfs.wire.deadline import Deadline

BATCH = 500
"""Files erased with one call to each node."""

OPERATIONS_KEPT = 86_400.0
"""Seconds for which the result of an operation is kept for a client that repeats it."""

_CALL_SECONDS = 30.0
_MOST_WAITING = 10_000
_RENEW_EVERY = 3.0


class Held(Protocol):
    """What is used of `metadata.lease.LeaseHolder`."""

    def try_acquire(self) -> Lease | None:
        """The lease, if it is or becomes ours."""

    def renew(self) -> bool:
        """Keep it; False when it is lost."""

    def release(self) -> None:
        """Give it up."""


@dataclass(slots=True)
class EraseReport:
    """What one run did. `waiting` files have replicas on nodes that do not answer; `errors` files are
    left for the next run. `finished` is False when it was interrupted or somebody else has the lease."""

    files: int = 0
    rows: int = 0
    abandoned: int = 0
    operations: int = 0
    waiting: int = 0
    errors: int = 0
    finished: bool = False


@dataclass(frozen=True, slots=True)
class _Nodes:
    """The registered nodes that are not decommissioned. Rows that name any other go without asking:
    there is nobody left to ask."""

    reachable: dict[str, NodeInfo]
    unreachable: frozenset[str]


class _Interrupted(Exception):
    """Stopping, or the lease is lost."""


class Eraser:
    """See the module's text. `grace`, `upload_ttl`, `interval`: seconds; `pace`: seconds of rest after
    each batch of rows."""

    def __init__(
        self,
        store: MetadataStore,
        membership: Membership,
        calls: NodeCalls,
        lease: Held,
        *,
        grace: float,
        upload_ttl: float,
        interval: float,
        pace: float = 0.005,
        trash: Trash | None = None,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._membership = membership
        self._calls = calls
        self._lease = lease
        self._grace_ms = round(grace * 1000)
        self._ttl_ms = round(upload_ttl * 1000)
        self._interval = interval
        self._pace = pace
        self._trash = trash
        self._now_ms = now_ms
        self._clock = clock
        self._renewed = 0.0
        self._waiting: dict[str, frozenset[str]] = {}
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    # --- life ---

    def start(self) -> None:
        """Run every `interval` seconds in the background."""
        self._thread = threading.Thread(target=self._run, name="dfs-eraser", daemon=True)
        self._thread.start()

    def stop(self, seconds: float = 5.0) -> None:
        """End after the step under way; waits at most `seconds`."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(timeout=seconds)

    def _run(self) -> None:
        while not self._stopping.wait(self._interval):
            try:
                self.run_once(self._now_ms())
            except Exception as error:  # a bug must not end the thread
                logs.error("eraser.failed", exc=error)
        try:
            self._lease.release()
        except errors.DfsError as error:  # it runs out by itself
            logs.warning("eraser.lease_kept", reason=error.message)

    # --- one run ---

    def run_once(self, now_ms: int) -> EraseReport:
        """Everything that is due at `now_ms`. Never raises for what goes wrong with a file, a node or
        the metadata: that is counted, logged and left for the next run."""
        report = EraseReport()
        try:
            if self._lease.try_acquire() is None:
                return report
            self._renewed = self._clock()
            self._give_up_abandoned(now_ms, report)
            self._erase_deleted(now_ms, report)
            self._forget_operations(now_ms, report)
            if self._trash is not None:
                self._trash.run(now_ms, self._go_on)
            report.finished = True
        except _Interrupted:
            pass
        except errors.DfsError as error:
            report.errors += 1
            logs.warning("eraser.interrupted", reason=str(error))
        if report.files or report.abandoned or report.operations or report.errors:
            logs.event(
                "eraser.ran",
                files=report.files,
                rows=report.rows,
                abandoned=report.abandoned,
                operations=report.operations,
                waiting=report.waiting,
                errors=report.errors,
                finished=report.finished,
            )
        return report

    def _go_on(self) -> None:
        """Between two steps: rest, keep the lease; raises _Interrupted."""
        if self._stopping.wait(self._pace):
            raise _Interrupted
        if self._clock() - self._renewed > _RENEW_EVERY:
            if not self._lease.renew():
                raise _Interrupted
            self._renewed = self._clock()

    def _due(self, kind: GcKind, before: int) -> Iterator[list[GcEntry]]:
        """Pages of index entries older than `before`."""
        for partition in self._store.gc_partitions(kind):
            after: str | None = None
            while page := self._store.gc_entries(partition, after=after, before=before, limit=BATCH):
                after = page[-1].key
                yield page
                self._go_on()

    def _give_up_abandoned(self, now_ms: int, report: EraseReport) -> None:
        for page in self._due(GcKind.UPLOADING, now_ms - self._ttl_ms + 1):
            for entry in page:
                try:
                    record = self._store.get_file(entry.id)
                    if record is None or record.state != FileState.UPLOADING:
                        continue
                    if record.touched_at <= now_ms - self._ttl_ms:
                        self._give_up(record, now_ms)
                        report.abandoned += 1
                except StepsRefused:
                    continue  # touched, finished or aborted meanwhile
                except Exception as error:
                    self._count(report, "upload.not_given_up", entry.id, error)

    def _give_up(self, record: FileRecord, now_ms: int) -> None:
        changes = {"state": FileState.DELETING, "touched_at": now_ms}
        step = ChangeFile(
            record.file_id, frozenset({FileState.UPLOADING}), changes, touched_at=record.touched_at
        )
        self._store.transact([step])
        logs.event("upload.abandoned", file_id=record.file_id, bucket=record.bucket)

    def _erase_deleted(self, now_ms: int, report: EraseReport) -> None:
        due = now_ms - self._grace_ms
        for page in self._due(GcKind.DELETING, due + 1):
            nodes = self._nodes()
            records = []
            for entry in page:
                try:
                    known = self._waiting.get(entry.id)
                    if known is not None and known <= nodes.unreachable:
                        report.waiting += 1
                        continue
                    record = self._store.get_file(entry.id)
                    if record is None or record.state != FileState.DELETING or record.touched_at > due:
                        continue
                    if self._must_wait(record, nodes):
                        report.waiting += 1
                    else:
                        records.append(record)
                except Exception as error:
                    self._count(report, "file.not_erased", entry.id, error)
            if records:
                self._erase(records, nodes, report)

    def _nodes(self) -> _Nodes:
        view = self._membership.view()
        reachable: dict[str, NodeInfo] = {}
        unreachable: set[str] = set()
        for node in self._store.list_nodes():
            if node.admin_state == AdminState.DECOMMISSIONED:
                continue
            member = view.get(node.node_id)
            if member is not None and member.healthy:
                reachable[node.node_id] = member.info
            else:
                unreachable.add(node.node_id)
        return _Nodes(reachable, frozenset(unreachable))

    def _must_wait(self, record: FileRecord, nodes: _Nodes) -> bool:
        """Whether all rows left name nodes that do not answer: then nothing can be done, and the other
        nodes, which were told before, need not be told again in every run."""
        holders = set()
        for row in self._store.replicas(record.file_id):
            if row.node_id not in nodes.unreachable:
                self._waiting.pop(record.file_id, None)
                return False
            holders.add(row.node_id)
        if holders:
            self._remember_waiting(record.file_id, frozenset(holders))
        return bool(holders)

    def _remember_waiting(self, file_id: str, holders: frozenset[str]) -> None:
        while len(self._waiting) >= _MOST_WAITING:
            del self._waiting[next(iter(self._waiting))]
        self._waiting[file_id] = holders

    def _erase(self, records: Sequence[FileRecord], nodes: _Nodes, report: EraseReport) -> None:
        """Bytes first, at every node that answers; then rows; then records."""
        file_ids = [record.file_id for record in records]
        silent = nodes.unreachable | {
            node_id for node_id, node in nodes.reachable.items() if not self._tell(node, file_ids)
        }
        for record in records:
            self._go_on()
            try:
                removal = remove_rows(self._store, record.file_id, silent, self._go_on)
                report.rows += removal.rows
                if removal.left:
                    self._remember_waiting(record.file_id, removal.left)
                    report.waiting += 1
                    continue
                self._store.transact([RemoveFile(record.file_id, frozenset({FileState.DELETING}))])
                self._waiting.pop(record.file_id, None)
                report.files += 1
                logs.event("file.erased", file_id=record.file_id, bucket=record.bucket, rows=removal.rows)
            except _Interrupted:
                raise
            except StepsRefused:
                continue  # another eraser has done it
            except Exception as error:
                self._count(report, "file.not_erased", record.file_id, error)

    def _tell(self, node: NodeInfo, file_ids: Sequence[str]) -> bool:
        """Whether the node has durably erased the files."""
        self._go_on()
        try:
            self._calls.erase(node, file_ids, deadline=Deadline(_CALL_SECONDS))
        except errors.DfsError as error:
            if isinstance(error, (NodeFailed, errors.WrongNode)):
                self._membership.report_failure(node.node_id, error.message)
            logs.warning("erase.not_confirmed", node_id=node.node_id, files=len(file_ids), reason=error.message)
            return False
        self._membership.report_success(node.node_id)
        return True

    def _forget_operations(self, now_ms: int, report: EraseReport) -> None:
        for page in self._due(GcKind.OPERATION, now_ms - round(OPERATIONS_KEPT * 1000)):
            self._store.forget_operations([entry.id for entry in page])
            report.operations += len(page)

    def _count(self, report: EraseReport, failure: str, file_id: str, error: Exception) -> None:
        report.errors += 1
        expected = isinstance(error, errors.DfsError)
        logs.warning(failure, file_id=file_id, reason=str(error), exc=None if expected else error)
