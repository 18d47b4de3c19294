"""Small chunks on their way to the nodes, many in one call: group commit across requests.

Each node has one outbox and at most one call under way from it. What is put in while that call runs
goes together with the next one, so that the busier a server is, the fewer calls, system calls and
changes of thread a chunk costs it and the node; on an idle server nothing waits for company. A
call is made by the outbox's own thread, or, when none is under way, by the writer that found it so:
that spares a lone write the change of thread and its way back.

An outbox decides nothing. Whatever a chunk meets in its call is told to the chunk's transfer, which
goes on as if it had made the call alone (see `transfer`).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

from dfs import errors, logs
from dfs.chunkbatch import BATCH_BYTES, BATCH_ITEMS, BATCH_OVERHEAD, ITEM_OVERHEAD, NewChunk
from dfs.cluster.calls import NodeCalls, NodeFailed
from dfs.cluster.membership import Membership
from dfs.model import NodeInfo
from dfs.wire.deadline import Deadline

SMALL = 64 * 1024
"""Most bytes of a chunk that goes with others. A larger one fills a call of its own, and waiting for
it would cost the others more than the call."""

MOST_QUEUED = 1024
QUEUED_BYTES = 16 * 1024 * 1024
"""Most chunks, and bytes, that wait in one outbox."""

IDLE_SECONDS = 60.0
"""After that long without work an outbox's thread ends, until there is work again."""

class SendAlone(Exception):
    """The batch was refused as such, and says nothing about this chunk: to be sent in its own call."""


class Parcel:
    """One chunk for one node. `landed(parcel, error)` is called at most once, in some thread, and
    must neither block nor raise: error None means durable on the node."""

    __slots__ = ("chunk", "deadline", "landed", "node")

    def __init__(
        self,
        node: NodeInfo,
        chunk: NewChunk,
        deadline: Deadline,
        landed: Callable[[Parcel, Exception | None], None],
    ) -> None:
        self.node = node
        self.chunk = chunk
        self.deadline = deadline
        self.landed = landed


class Batches:
    """The outboxes of all nodes. Thread-safe. Threads begin with the first use, so make and use it
    in the process that is to send."""

    def __init__(self, calls: NodeCalls, membership: Membership) -> None:
        self._calls = calls
        self._membership = membership
        self._lock = threading.Lock()
        self._outboxes: dict[str, _Outbox] = {}
        self._closed = False

    def send(self, parcels: Sequence[Parcel], *, lead: bool) -> None:
        """Have all `parcels` sent; returns before they have landed. With `lead` the caller, who will
        wait for them anyway, may be made to carry out one of the calls."""
        idle = [outbox for parcel in parcels if (outbox := self._outbox(parcel.node.node_id)).put(parcel)]
        led = idle.pop(0) if lead and idle else None
        for outbox in idle:
            outbox.rouse()
        if led is not None:
            led.lead()

    def withdraw(self, parcel: Parcel) -> bool:
        """True when nothing of `parcel` was sent nor will be; it does not land then."""
        return self._outbox(parcel.node.node_id).withdraw(parcel)

    def close(self) -> None:
        """Send no more: what has not been sent yet fails. Calls under way are waited for a while."""
        with self._lock:
            self._closed = True
            outboxes = list(self._outboxes.values())
        for outbox in outboxes:
            outbox.close()
        for outbox in outboxes:
            outbox.join(5.0)

    def _outbox(self, node_id: str) -> _Outbox:
        outbox = self._outboxes.get(node_id)
        if outbox is None:
            with self._lock:
                outbox = self._outboxes.get(node_id)
                if outbox is None:
                    outbox = self._outboxes[node_id] = _Outbox(node_id, self._calls, self._membership)
                    if self._closed:
                        outbox.close()
        return outbox


class _Outbox:
    """What is on its way to one node. While `_busy`, exactly one thread sends, or is called to."""

    def __init__(self, node_id: str, calls: NodeCalls, membership: Membership) -> None:
        self._node_id = node_id
        self._calls = calls
        self._membership = membership
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._queue: deque[Parcel] = deque()
        self._bytes = 0
        self._busy = False
        self._called = False
        self._closed = False
        self._older: str | None = None
        self._thread: threading.Thread | None = None

    # --- what writers do ---

    def put(self, parcel: Parcel) -> bool:
        """Queue `parcel`. True when nobody sends: the caller must `lead` or `rouse` next. Where it
        cannot be queued it lands at once."""
        size = len(parcel.chunk.data)
        with self._lock:
            room = len(self._queue) < MOST_QUEUED and self._bytes + size <= QUEUED_BYTES
            if room and not self._closed and parcel.node.boot_id != self._older:
                self._queue.append(parcel)
                self._bytes += size
                idle, self._busy = not self._busy, True
                return idle
        parcel.landed(parcel, SendAlone())  # it has to wait for a place among the node's calls
        return False

    def lead(self) -> None:
        """Send one batch in this thread, and have the outbox's own send what has come since."""
        try:
            self._send_batch()
        finally:
            if not self._rest():
                self.rouse()

    def rouse(self) -> None:
        """Have the outbox's own thread send what is queued."""
        with self._lock:
            if self._thread is not None:
                self._called = True
                self._changed.notify()
                return
            thread = self._thread = threading.Thread(
                target=self._run, name=f"dfs-send-{self._node_id}", daemon=True
            )
        try:
            thread.start()
        except RuntimeError as error:  # no more threads to be had: slower, and done all the same
            logs.error("batches.no_thread", exc=error, node_id=self._node_id)
            self._thread = None
            self._send_all()

    def withdraw(self, parcel: Parcel) -> bool:
        """See `Batches.withdraw`."""
        with self._lock:
            try:
                self._queue.remove(parcel)
            except ValueError:
                return False
            self._bytes -= len(parcel.chunk.data)
            return True

    def close(self) -> None:
        """Take nothing more; what is queued fails, unsent."""
        with self._lock:
            self._closed = True
            self._changed.notify()
        self._fail_queued("the server is stopping")

    def join(self, seconds: float) -> None:
        """Wait for the thread to end, `seconds` at most."""
        thread = self._thread
        if thread is not None and thread.is_alive():  # else it is only about to begin, or has ended
            thread.join(seconds)

    # --- sending ---

    def _run(self) -> None:
        while True:
            self._send_all()
            with self._lock:
                self._changed.wait_for(lambda: self._called or self._closed, IDLE_SECONDS)
                if not self._called:
                    self._thread = None
                    return
                self._called = False

    def _send_all(self) -> None:
        while True:
            try:
                self._send_batch()
            except Exception as error:  # a bug must not end the thread that all writes to the node rely on
                logs.error("batches.failed", exc=error, node_id=self._node_id)
            if self._rest():
                return

    def _rest(self) -> bool:
        """Whether nothing is left to send: then nobody is busy any more."""
        with self._lock:
            self._busy = bool(self._queue)
            return not self._busy

    def _send_batch(self) -> None:
        batch = self._take()
        if not batch:
            return  # withdrawn
        node, deadline = batch[-1].node, batch[-1].deadline  # the last may wait longest
        outcomes: Sequence[Exception | None]
        try:
            outcomes = self._calls.store_many(node, [parcel.chunk for parcel in batch], deadline=deadline)
        except NodeFailed as error:
            outcomes = [error] * len(batch)
            # Those behind waited in vain; to wait as long again would help nobody.
            self._fail_queued("the calls before this one failed")
        except Exception as error:
            if isinstance(error, errors.DfsError) and (error.status >= 500 or isinstance(error, errors.WrongNode)):
                outcomes = [error] * len(batch)  # said of the node
            else:  # said of the batch as such: an older release, or one chunk that spoils it, or a bug
                logs.warning("batches.refused", node_id=self._node_id, count=len(batch), reason=repr(error))
                if isinstance(error, (errors.NotFound, errors.MethodNotAllowed)):
                    self._older = node.boot_id  # it does not know the call: not asked again till it restarts
                outcomes = [SendAlone()] * len(batch)
        else:
            self._membership.report_success(self._node_id)
        for parcel, outcome in zip(batch, outcomes, strict=True):
            parcel.landed(parcel, outcome)

    def _take(self) -> list[Parcel]:
        """What goes with the next call: all that is queued, within the bounds of a batch."""
        batch: list[Parcel] = []
        room = BATCH_BYTES - BATCH_OVERHEAD
        with self._lock:
            while self._queue and len(batch) < BATCH_ITEMS:
                size = len(self._queue[0].chunk.data)
                if size + ITEM_OVERHEAD > room:
                    break
                room -= size + ITEM_OVERHEAD
                self._bytes -= size
                batch.append(self._queue.popleft())
        return batch

    def _fail_queued(self, reason: str) -> None:
        with self._lock:
            left = list(self._queue)
            self._queue.clear()
            self._bytes = 0
        for parcel in left:
            parcel.landed(parcel, NodeFailed(self._node_id, reason, sent=False))
