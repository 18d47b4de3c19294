"""Notes to the nodes: what metadata says of a file, kept beside its bytes for a rebuild.

They go to the nodes that hold chunk 0, in the background, within a second when the nodes answer.
The queue is bounded: the oldest notes are dropped (and counted) first, and audit sends what is
missing later, so nothing here is ever in the way of a request.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, NamedTuple

from dfs import errors, logs
from dfs.cluster.calls import NodeCalls, NodeFailed
from dfs.cluster.membership import Membership
from dfs.metadata.contract import MetadataStore
from dfs.model import AdminState, FileState, Head
from dfs.wire.deadline import Deadline

GATHER = 0.2
"""Seconds for which notes gather before they are sent together."""

BATCH = 250
MOST_NOTES = 20_000
_CALL_SECONDS = 10.0
_FIRST_PAUSE = 2.0
_LONGEST_PAUSE = 30.0
_SENDERS = 4

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class Note(NamedTuple):
    """A note as it is sent: encoded once, however many nodes it goes to."""

    file_id: str
    encoded: bytes


def now_in_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def note_of(head: Head, *, op: str, op_id: str | None, state: FileState, at: int) -> dict[str, Any]:
    """A note as nodes keep it (docs/format.md, "Notes"). Of two with one version the later one (`at`)
    counts."""
    return {
        "op_id": op_id,
        "op": op,
        "bucket": head.bucket,
        "path": head.path,
        "file_id": head.file_id,
        "version": head.version,
        "size": head.size,
        "chunk_count": head.chunk_count,
        "chunk_size": head.chunk_size,
        "sha256": head.sha256,
        "content_type": head.content_type,
        "state": state.value,
        "at": at,
    }


class _Outbox:
    """Notes on their way to one node."""

    def __init__(self) -> None:
        self.notes: deque[Note] = deque()
        self.under_way = 0
        self.sending = False
        self.pause = 0.0
        self.not_before = float("-inf")


class NoteSender:
    """The queue and its thread. Its methods neither block nor raise; thread-safe."""

    def __init__(
        self,
        membership: Membership,
        calls: NodeCalls,
        store: MetadataStore,
        *,
        most: int = MOST_NOTES,
        now_ms: Callable[[], int] = now_in_ms,
        clock: Callable[[], float] = time.monotonic,
        senders: Executor | None = None,
    ) -> None:
        self._store = store
        self._membership = membership
        self._calls = calls
        self._most = most
        self._now_ms = now_ms
        self._clock = clock
        self._senders: Executor = senders or ThreadPoolExecutor(_SENDERS, thread_name_prefix="dfs-notes")
        self._changed = threading.Condition()
        self._unaddressed: deque[Note] = deque()
        self._outboxes: dict[str, _Outbox] = {}
        self._queued = 0
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self.dropped = 0

    # --- what handlers say ---

    def committed(self, head: Head, *, op_id: str | None, nodes: Sequence[str] | None = None) -> None:
        """A file was committed. `nodes` hold its chunk 0; looked up when not given."""
        self._send(head, "put", op_id, FileState.COMMITTED, nodes)

    def moved(self, head: Head, *, op_id: str | None, nodes: Sequence[str] | None = None) -> None:
        """A file has got the path of `head`."""
        self._send(head, "move", op_id, FileState.COMMITTED, nodes)

    def restored(self, head: Head, *, op_id: str | None, nodes: Sequence[str] | None = None) -> None:
        """A file has come back from the trash, to the path of `head`."""
        self._send(head, "restore", op_id, FileState.COMMITTED, nodes)

    def deleted(self, head: Head, *, op_id: str | None, purged: bool, nodes: Sequence[str] | None = None) -> None:
        """The file of `head` went to the trash, or for good."""
        state = FileState.DELETING if purged else FileState.TRASHED
        self._send(head, "purge" if purged else "trash", op_id, state, nodes)

    # --- life ---

    def start(self) -> None:
        """Send in the background from now on."""
        self._thread = threading.Thread(target=self._run, name="dfs-notes", daemon=True)
        self._thread.start()

    def stop(self, seconds: float = 2.0) -> None:
        """Send what can be sent within `seconds`, then end. Nodes that do not answer are not waited for."""
        with self._changed:
            self._changed.wait_for(lambda: self._queued == self._hopeless(), seconds)
        self._stopping.set()
        with self._changed:
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout=5)
        self._senders.shutdown(wait=False, cancel_futures=True)

    def flush(self, seconds: float) -> bool:
        """Wait until everything is sent; False when some is left after `seconds`."""
        with self._changed:
            return self._changed.wait_for(lambda: self._queued == 0, seconds)

    def _hopeless(self) -> int:
        """How many notes are for nodes that do not answer, or did not take the last ones."""
        view = self._membership.view()
        count = 0
        for node_id, box in self._outboxes.items():
            member = view.get(node_id)
            if box.pause or member is None or not member.healthy:
                count += len(box.notes) + box.under_way
        return count

    # --- the queue ---

    def _send(
        self, head: Head, op: str, op_id: str | None, state: FileState, nodes: Sequence[str] | None
    ) -> None:
        said = note_of(head, op=op, op_id=op_id, state=state, at=self._now_ms())
        note = Note(head.file_id, _encode(said).encode())
        with self._changed:
            idle = not self._queued
            if nodes is None:
                self._unaddressed.append(note)
                self._queued += 1
            else:
                self._address(note, nodes)
            self._make_room()
            if idle:
                self._changed.notify_all()

    def _address(self, note: Note, nodes: Sequence[str]) -> None:
        for node_id in nodes:
            box = self._outboxes.get(node_id)
            if box is None:
                box = self._outboxes[node_id] = _Outbox()
            box.notes.append(note)
            self._queued += 1

    def _make_room(self) -> None:
        while self._queued > self._most:
            longest = max((box.notes for box in self._outboxes.values()), key=len, default=self._unaddressed)
            if len(longest) < len(self._unaddressed):
                longest = self._unaddressed
            if not longest:
                return  # all of it is being sent
            longest.popleft()
            self._queued -= 1
            self.dropped += 1
            if self.dropped % 1000 == 1:
                logs.warning("notes.dropped", total=self.dropped)

    def _run(self) -> None:
        while not self._stopping.is_set():
            with self._changed:
                self._changed.wait_for(lambda: self._queued or self._stopping.is_set(), 60.0)
            self._stopping.wait(GATHER)
            try:
                self.round()
            except Exception as error:  # a bug must not end the thread
                logs.error("notes.round_failed", exc=error)

    def round(self) -> None:
        """Find out where notes belong and start to send what can be sent now."""
        self._resolve()
        now = self._clock()
        with self._changed:
            ready = []
            for node_id, box in self._outboxes.items():
                if box.notes and not box.sending and now >= box.not_before:
                    box.sending = True
                    ready.append(node_id)
        for node_id in ready:
            try:
                self._senders.submit(self._send_all, node_id)
            except RuntimeError:  # stopping
                self._outboxes[node_id].sending = False

    def _resolve(self) -> None:
        while True:
            with self._changed:
                if not self._unaddressed:
                    return
                note = self._unaddressed.popleft()
            try:
                nodes = [row.node_id for row in self._store.replicas(note.file_id, 0, 0)]
            except errors.DfsError as error:
                logs.warning("notes.wait", reason=error.message)
                with self._changed:
                    self._unaddressed.appendleft(note)
                return
            except BaseException:
                with self._changed:
                    self._queued -= 1
                raise
            with self._changed:
                self._queued -= 1
                self._address(note, nodes)
                self._make_room()
                self._changed.notify_all()

    def _send_all(self, node_id: str) -> None:
        box = self._outboxes[node_id]
        sent = True
        try:
            while sent and box.notes:
                sent = self._send_batch(node_id, box)
        except Exception as error:
            sent = False
            logs.error("notes.not_sent", exc=error, node_id=node_id)
        finally:
            with self._changed:
                box.sending = False
                box.pause = 0.0 if sent else min(max(2 * box.pause, _FIRST_PAUSE), _LONGEST_PAUSE)
                box.not_before = self._clock() + box.pause
                self._changed.notify_all()

    def _send_batch(self, node_id: str, box: _Outbox) -> bool:
        """False when the node did not take the batch, which then stays queued."""
        member = self._membership.view().get(node_id)
        with self._changed:
            if member is None or member.info.admin_state == AdminState.DECOMMISSIONED:
                self._queued -= len(box.notes)
                box.notes.clear()
                return True
            batch = [box.notes.popleft() for _ in range(min(BATCH, len(box.notes)))]
            box.under_way = len(batch)
        try:
            self._calls.notes(member.info, [note.encoded for note in batch], deadline=Deadline(_CALL_SECONDS))
        except errors.BadRequest as error:  # the same notes would be refused again and again
            logs.error("notes.refused", node_id=node_id, count=len(batch), reason=error.message)
        except errors.DfsError as error:
            if isinstance(error, (NodeFailed, errors.WrongNode)):
                self._membership.report_failure(node_id, error.message)
            with self._changed:
                box.under_way = 0
                box.notes.extendleft(reversed(batch))
                self._make_room()
            return False
        except BaseException:
            with self._changed:
                box.under_way = 0
                self._queued -= len(batch)
            raise
        with self._changed:
            box.under_way = 0
            self._queued -= len(batch)
            self._changed.notify_all()
        return True
