"""Who runs an audit, and where it can be seen: one API server at a time, in a thread, under a lease.

The document `audit` says every two seconds how far it is. When its server dies the document falls silent and
the lease runs out, and the next request begins anew; nothing is lost but time. Whoever finds in the document
another audit than his own has been taken for dead, and stops.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any, Protocol
from uuid import uuid4

from dfs import errors, logs
from dfs.cluster.calls import NodeCalls
from dfs.metadata.contract import MetadataStore
from dfs.model import Document
from dfs.repair.audit import Audit, Order
from dfs.repair.auditresult import (
    DOCUMENT,
    EXTRAS_DOCUMENT,
    LAST_DOCUMENT,
    SERVER_STOPPED,
    AuditResult,
    State,
)
from dfs.repair.eraser import Held
from dfs.repair.findings import Extra

LEASE = "audit"
LEASE_SECONDS = 8.0
MBPS = 200
"""Megabytes a second that each node is made to read, unless another rate is asked for."""

TICK = 2.0
CANCELLED = "cancelled"
_TAKEN_OVER = "another server took it for dead and began anew"
_TRIES = 10
_ENDING_SECONDS = 2.0


class Runnable(Protocol):
    """What is used of an `audit.Audit`."""

    def run(self) -> AuditResult:
        """See Audit.run."""

    def result(self) -> AuditResult:
        """See Audit.result."""

    def extras(self) -> list[Extra]:
        """See Audit.extras."""


class AuditRunner:
    """The audits of one process: begins them, ends them, writes them down. Thread-safe.

    `settle` (s): longer than any write can be under way.
    """

    def __init__(
        self,
        store: MetadataStore,
        calls: NodeCalls,
        lease: Held,
        *,
        factor: int,
        settle: float,
        by: str,
        make: Callable[[Order, threading.Event], Runnable] | None = None,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        tick: float = TICK,
    ) -> None:
        self._store = store
        self._lease = lease
        self._factor = factor
        self._settle = settle
        self._by = by
        self._make = make or (lambda order, stopping: Audit(order, store, calls, stopping=stopping))
        self._now_ms = now_ms
        self._tick = tick
        self._lock = threading.Lock()
        self._running: _Run | None = None
        self._stopped = False

    def begin(self, *, verify: bool, mbps: int = MBPS) -> tuple[str, bool]:
        """Begin an audit, or join the one that runs: its id, and whether it was begun now.

        Raises Refused when one runs that does not verify and this one is to, Busy when another server has just
        begun or ended one (ask again)."""
        with self._lock:
            if self._stopped:
                raise errors.Unavailable("the server is stopping")
            if self._running is not None and not self._running.ended(_ENDING_SECONDS):
                return self._join(self._running.audit.result(), verify)
            if self._lease.try_acquire() is None:
                document = self._store.read_document(DOCUMENT)
                if document is None or document.value.get("state") != State.RUNNING:
                    raise errors.Busy("another server is just beginning or ending an audit")
                return self._join(AuditResult.from_json(document.value), verify)
            try:
                self._running = self._begin(verify, mbps)
            except BaseException:
                self._lease.release()
                raise
            return self._running.id, True

    @staticmethod
    def _join(running: AuditResult, verify: bool) -> tuple[str, bool]:
        if verify and not running.verify:
            raise errors.Refused(
                "an audit is running that does not re-read the data",
                details={"reasons": ["wait for it, or cancel it (DELETE /admin/audit), and begin again"]},
            )
        return running.id, False

    def _begin(self, verify: bool, mbps: int) -> _Run:
        order = Order(str(uuid4()), self._by, self._factor, self._settle, verify, mbps)
        stopping = threading.Event()
        audit = self._make(order, stopping)
        seen = self._store.read_document(DOCUMENT)
        document = self._store.write_document(DOCUMENT, audit.result().to_json(), seen)
        if document is None:
            raise errors.Busy("another server has just begun an audit")
        run = _Run(order.id, audit, self._store, self._lease, stopping, document, self._now_ms, self._tick)
        run.start()
        return run

    def cancel(self) -> str:
        """End the audit that runs, on whichever server; its id. Raises NotFound when none does."""
        with self._lock:
            running = self._running
        if running is not None and running.alive():
            running.stop(CANCELLED)
            return running.id
        for _ in range(_TRIES):
            document = self._store.read_document(DOCUMENT)
            if document is None or document.value.get("state") != State.RUNNING:
                break
            # Its server finds the document changed under its hands, and why.
            asked = self._store.write_document(DOCUMENT, document.value | {"cancel": True}, document)
            if asked is not None:
                return str(document.value["id"])
        raise errors.NotFound("no audit is running")

    def stop(self, seconds: float = 5.0) -> None:
        """End what runs here, with the server; waits at most `seconds`."""
        with self._lock:
            self._stopped = True
            running = self._running
        if running is not None:
            running.stop(SERVER_STOPPED)
            running.join(seconds)


class _Run:
    """One audit under way in this process: a thread that works, and one that keeps document and lease."""

    def __init__(
        self,
        id: str,
        audit: Runnable,
        store: MetadataStore,
        lease: Held,
        stopping: threading.Event,
        document: Document,
        now_ms: Callable[[], int],
        tick: float,
    ) -> None:
        self.id = id
        self.audit = audit
        self._store = store
        self._lease = lease
        self._stopping = stopping
        self._seen: Document = document
        self._now_ms = now_ms
        self._tick = tick
        self._done = threading.Event()
        self._why = ""
        self._ours = True
        self._outcome: AuditResult | None = None
        self._worker = threading.Thread(target=self._work, name="dfs-audit", daemon=True)
        self._keeper = threading.Thread(target=self._keep, name="dfs-audit-keeper", daemon=True)

    def start(self) -> None:
        self._worker.start()
        self._keeper.start()

    def alive(self) -> bool:
        return self._keeper.is_alive()

    def ended(self, seconds: float) -> bool:
        """Whether it has ended. One whose end is just being written down is waited for; raises Busy when that
        takes longer than `seconds`."""
        if self._done.is_set():
            self._keeper.join(seconds)
            if self._keeper.is_alive():
                raise errors.Busy("the end of an audit is just being written down")
        return not self._keeper.is_alive()

    def join(self, seconds: float) -> None:
        self._keeper.join(seconds)

    def stop(self, why: str) -> None:
        """End it; `why` is told."""
        self._why = self._why or why
        self._stopping.set()

    def _work(self) -> None:
        try:
            self._outcome = self.audit.run()
        except InterruptedError as error:
            self._outcome = self._failed(self._why or str(error))
        except errors.DfsError as error:
            logs.warning("audit.failed", id=self.id, reason=error.message)
            self._outcome = self._failed(error.message)
        except Exception as error:
            logs.error("audit.failed", exc=error, id=self.id)
            self._outcome = self._failed("an internal error (see the server's log)")
        finally:
            self._done.set()

    def _failed(self, reason: str) -> AuditResult:
        return self.audit.result().ended(State.FAILED, self._now_ms(), reason=reason)

    def _keep(self) -> None:
        while not self._done.wait(self._tick):
            self._say(self.audit.result())
        outcome = self._outcome
        if outcome is not None and self._ours:
            self._conclude(outcome)
        try:
            self._lease.release()
        except errors.DfsError as error:  # it runs out by itself
            logs.warning("audit.lease_kept", reason=error.message)

    def _say(self, result: AuditResult) -> None:
        """Tell how far it is; stops the audit when it is not ours any more, or cancelled."""
        try:
            if not self._lease.renew():
                # Somebody may begin another: that one's document will tell.
                logs.warning("audit.lease_lost", id=self.id)
            self._write(result)
        except errors.DfsError as error:  # the audit itself meets the same trouble, and judges
            logs.warning("audit.not_told", id=self.id, reason=error.message)

    def _write(self, result: AuditResult) -> bool:
        """Put the document; False when it belongs to another audit by now."""
        written = self._store.write_document(DOCUMENT, result.to_json(), self._seen)
        if written is None:
            current = self._store.read_document(DOCUMENT)
            if current is None or current.value.get("id") != self.id:
                self._ours = False
                self.stop(_TAKEN_OVER)
                logs.warning("audit.taken_over", id=self.id)
                return False
            if current.value.get("cancel"):
                self.stop(CANCELLED)
            written = self._store.write_document(DOCUMENT, result.to_json(), current)
            self._seen = written or current
            return written is not None
        self._seen = written
        return True

    def _conclude(self, outcome: AuditResult) -> None:
        """Write the end down, patiently: hours of work may stand in it."""
        for attempt in range(_TRIES):
            try:
                if outcome.state is State.DONE:
                    self._put(EXTRAS_DOCUMENT, {"id": self.id, "extras": [asdict(each) for each in self.audit.extras()]})
                    self._put(LAST_DOCUMENT, outcome.to_json())
                if self._write(replace(outcome, at=self._now_ms())) or not self._ours:
                    return
            except errors.DfsError as error:
                logs.warning("audit.result_not_written", id=self.id, attempt=attempt, reason=error.message)
            time.sleep(self._tick)
        logs.error("audit.result_lost", id=self.id, verdict=outcome.verdict, reason=outcome.reason)

    def _put(self, name: str, value: dict[str, Any]) -> None:
        for _ in range(_TRIES):
            if self._store.write_document(name, value, self._store.read_document(name)) is not None:
                return
        raise errors.Busy(f"the document {name} changes all the time")
