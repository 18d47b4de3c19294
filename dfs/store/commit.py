"""Group commit: many writers, one write and one fdatasync.

The first writer leads: it writes and syncs what is queued; whoever comes meanwhile queues up, so the
running fdatasync is the batching window. Then the first of the queue leads. A batch never spans
volumes. A failed sync is never repeated: the volume is sealed and every writer of the batch fails.
"""

from __future__ import annotations

import errno
import threading
from collections import deque
from collections.abc import Callable, Sequence

from dfs import logs
from dfs.errors import DfsError, NodeFull, StoreReadOnly
from dfs.store.appender import Append, Appender
from dfs.store.record import Kind

_BATCH_RECORDS = 512
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class _Ticket:
    __slots__ = ("appends", "error", "gate", "lead", "size")

    def __init__(self, appends: Sequence[Append]) -> None:
        self.appends = appends
        self.size = sum(append.size for append in appends)
        self.gate: threading.Lock | None = None
        self.lead = False
        self.error: Callable[[], DfsError] | None = None

    @property
    def stores(self) -> bool:
        return any(append.kind == Kind.DATA for append in self.appends)

    def release(self) -> None:
        if self.gate is not None:
            self.gate.release()


class Committer:
    """Makes records durable for any number of threads at once.

    After `failures_until_stop` failures in a row the store stops taking writes; `on_fatal` is told
    the reason, once.
    """

    def __init__(
        self,
        appender: Appender,
        *,
        batch_bytes: int,
        failures_until_stop: int,
        on_fatal: Callable[[str], None],
    ) -> None:
        self._appender = appender
        self._batch_bytes = batch_bytes
        self._failures_until_stop = failures_until_stop
        self._on_fatal = on_fatal
        self._lock = threading.Lock()
        self._queue: deque[_Ticket] = deque()
        self._leading = False
        self._failures = 0
        self._closing = False
        self.stopped: str | None = None
        """Why no more writes are taken."""

    @property
    def refusal(self) -> str | None:
        """Why nothing is written any more; None while the store takes writes."""
        return self.stopped or ("the store is closing" if self._closing else None)

    def submit(self, appends: Sequence[Append], *, last: bool = False) -> None:
        """Return when all `appends` are durable and entered in the catalog.

        They go to one volume, in this order, with nothing between them. Without any, returns when a
        failure that went before has been settled (see appender). `last`: nothing is taken after it.
        Raises NodeFull or StoreReadOnly; then it is not known whether a power cut would bring them back,
        and from the next success on it is certain that they are not stored.
        """
        ticket = _Ticket(appends)
        with self._lock:
            if self.refusal is not None:
                raise StoreReadOnly(self.refusal)
            self._closing = last
            self._queue.append(ticket)
            if self._leading:
                ticket.gate = threading.Lock()
                ticket.gate.acquire()
            else:
                self._leading = ticket.lead = True
        if ticket.gate is not None:
            ticket.gate.acquire()
        if ticket.lead:
            self._lead()
        if ticket.error is not None:
            raise ticket.error()

    def settle(self) -> None:
        """Return when nothing that failed before can come back. Raises like `submit`.

        To be called before anything is acknowledged that needs no writing."""
        if self._appender.unsettled:
            self.submit(())
        elif self.stopped:
            raise StoreReadOnly(self.stopped)

    def mark(self, now: int) -> None:
        """Append a MARK if records came after the last one: all of them are durable, and say so then."""
        if self._appender.unmarked:
            self.submit([Append(Kind.MARK, created=now)])

    def close(self, now: int) -> None:
        """Finish what is queued, MARK, and take nothing more."""
        try:
            self.submit([Append(Kind.MARK, created=now)] if self._appender.unmarked else (), last=True)
        except DfsError as error:
            logs.warning("store.not_marked", error=error)
        self._appender.close()

    def _lead(self) -> None:
        """Commit one batch, the leader's own ticket at its head, and hand over."""
        batch = self._take()
        try:
            self._commit(batch)
        except (
            BaseException
        ) as error:  # a bug, or an interrupt: whoever waits must learn of it, or waits for ever
            logs.error("store.commit_failed", exc=error)
            self._fail(batch, lambda: StoreReadOnly("the store failed; its log says why"))
            if not isinstance(error, Exception):
                raise
        finally:
            self._hand_over(batch)

    def _hand_over(self, batch: Sequence[_Ticket]) -> None:
        with self._lock:
            if self._queue:
                self._queue[0].lead = True
                self._queue[0].release()
            else:
                self._leading = False
        for ticket in batch[1:]:
            ticket.release()

    def _take(self) -> list[_Ticket]:
        with self._lock:
            batch = [self._queue.popleft()]
            size, records = batch[0].size, len(batch[0].appends)
            room = self._appender.room()
            limit = min(self._batch_bytes, room if size <= room else self._appender.fresh_room)
            while self._queue and records < _BATCH_RECORDS and size + self._queue[0].size <= limit:
                ticket = self._queue.popleft()
                size, records = size + ticket.size, records + len(ticket.appends)
                batch.append(ticket)
        return batch

    def _commit(self, batch: list[_Ticket]) -> None:
        if self.stopped:
            reason = self.stopped
            self._fail(batch, lambda: StoreReadOnly(reason))
            return
        try:
            self._write(batch)
        except OSError as error:
            self._failed(batch, error)
        else:
            self._failures = 0

    def _write(self, batch: list[_Ticket]) -> None:
        appends = [append for ticket in batch for append in ticket.appends]
        if appends or self._appender.unsettled:
            self._appender.make_room(sum(ticket.size for ticket in batch))
        if appends:
            self._appender.append(appends)

    def _failed(self, batch: list[_Ticket], error: OSError) -> None:
        if error.errno in NO_SPACE:
            self._fail([ticket for ticket in batch if ticket.stores], lambda: NodeFull("the disk is full"))
            small = [ticket for ticket in batch if not ticket.stores]
            if not small:
                return
            try:
                self._appender.make_space()
                self._write(small)
            except OSError as second:
                error, batch = second, small
            else:
                return
            if error.errno in NO_SPACE:
                self._fail(batch, lambda: NodeFull("the disk is full to the last byte"))
                return
        self._count_failure(error)
        text = f"the disk failed: {error.strerror or error}"
        self._fail(batch, lambda: StoreReadOnly(text))

    def _count_failure(self, error: OSError) -> None:
        self._failures += 1
        logs.error("store.disk_failed", error=error, failures=self._failures)
        if self._failures >= self._failures_until_stop:
            self.stopped = f"the disk failed {self._failures} times in a row, last: {error.strerror or error}"
            self._on_fatal(self.stopped)

    @staticmethod
    def _fail(tickets: Sequence[_Ticket], error: Callable[[], DfsError]) -> None:
        for ticket in tickets:
            ticket.error = error
