"""The node's row in the registry: put at start, kept fresh by heartbeats, marked at a stop.

Readers take a node for alive while `heartbeat_seq` changes, so every attempt carries a new number.
The schedule is kept on the monotonic clock; a change of status (full, read-only) or of the number of bad
chunks goes out at once.
Metadata that cannot be reached stops nothing: the node goes on serving, says so once, and catches up.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace

from dfs import logs
from dfs.errors import StartError, Unavailable
from dfs.metadata.contract import MetadataStore, NodeConflict, OutcomeUnknown
from dfs.model import AdminState, NodeInfo, NodeStatus
from dfs.node.identity import decommissioned_sentence
from dfs.node.standing import Standing

LOOK_SECONDS = 1.0
"""How often the status is looked at, and how soon a failed heartbeat is tried again."""

LEAVE_SECONDS = 3.0
"""How long a stop waits for its last heartbeat."""


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


class Registration:
    """Keeps one node's row. `on_lost(sentence)` is called once, when the row turns out to be
    another's: the node must stop then."""

    def __init__(
        self,
        metadata: MetadataStore,
        node: NodeInfo,
        standing: Standing,
        *,
        cluster_id: str,
        interval: float,
        on_lost: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        wall_ms: Callable[[], int] = now_ms,
    ) -> None:
        self._metadata = metadata
        self._node = node
        self._standing = standing
        self._cluster_id = cluster_id
        self._interval = interval
        self._on_lost = on_lost
        self._clock = clock
        self._wall_ms = wall_ms
        self._sent: tuple[NodeStatus, int, int] | None = None
        """Status, bad chunks and last scrub as the registry knows them."""
        self._changed = threading.Condition()
        self._look = False
        self._asked = False
        self._begun = 0
        self._arrived = 0
        """Of the heartbeats begun, numbered from 1, the last one that arrived."""
        self._ended = False
        self._thread: threading.Thread | None = None
        self.reachable = True

    @property
    def node(self) -> NodeInfo:
        """The row as last sent."""
        return self._node

    def register(self) -> None:
        """Put the row. Raises StartError when it belongs to another disk, Unavailable and
        OutcomeUnknown when metadata does not answer (repeating is harmless)."""
        self._node = self._current()
        try:
            stored = self._metadata.register_node(self._node)
        except NodeConflict as conflict:
            raise StartError(lost_sentence(self._node, conflict)) from conflict
        if stored.admin_state is AdminState.DECOMMISSIONED:
            raise StartError(decommissioned_sentence(stored.node_id))
        self._accept(stored)

    def start(self) -> None:
        """Send heartbeats from now on, from a thread of its own."""
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    def look(self) -> None:
        """The status may have changed: send a heartbeat now if it has."""
        with self._changed:
            self._look = True
            self._changed.notify_all()

    def beat_now(self, seconds: float) -> bool:
        """Have a heartbeat sent now; whether one that began after this call arrived within `seconds`.
        Then the operators' state is what the registry said after this call."""
        with self._changed:
            wanted = self._begun + 1
            self._asked = self._look = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._arrived >= wanted or self._ended, seconds)
            return self._arrived >= wanted

    def leave(self) -> None:
        """End the heartbeats with one that says `stopping`, so that nothing is placed here."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(LEAVE_SECONDS)
            if self._thread.is_alive():
                logs.warning("heartbeat.stuck", consequence="the registry learns of the stop by time-out")

    def beat(self) -> bool:
        """Send one heartbeat; False when it did not arrive. Never raises. For one thread at a time."""
        try:
            self._node = self._current()
            try:
                self._accept(self._metadata.heartbeat(self._node))
            except NodeConflict as conflict:
                return self._refused(conflict)
            return True
        except (Unavailable, OutcomeUnknown) as error:
            return self._missed(error)
        except Exception as error:  # a bug must not end the heartbeats: the node would be taken for dead
            logs.error("heartbeat.broken", exc=error)
            return False

    def _run(self) -> None:
        due = self._clock() + self._interval
        not_before = 0.0
        while self._wait(max(not_before, min(due, self._clock() + LOOK_SECONDS))):
            now = self._clock()
            overdue = now >= due
            if now < not_before or not (overdue or self._asked or self._status_changed()):
                continue
            if self._beat_counted():
                if overdue:
                    # On the grid of the first one: a late heartbeat does not shift those after it.
                    due += self._interval * max(1, -(-(now - due) // self._interval))
            else:
                not_before = self._clock() + min(self._interval, LOOK_SECONDS)
            if self._standing.lost:
                return
        self.beat()

    def _beat_counted(self) -> bool:
        with self._changed:
            self._asked = False
            self._begun += 1
            number = self._begun
        arrived = self.beat()
        if arrived:
            with self._changed:
                self._arrived = number
                self._changed.notify_all()
        return arrived

    def _wait(self, until: float) -> bool:
        """Wait for `until` or a `look`; False when the heartbeats have ended."""
        with self._changed:
            left = until - self._clock()
            if left > 0 and not self._look and not self._ended:
                self._changed.wait(left)
            self._look = False
            return not self._ended

    def _status_changed(self) -> bool:
        try:
            return self._facts() != self._sent
        except Exception:
            return True  # the heartbeat that follows meets the same error and logs it

    def _facts(self) -> tuple[NodeStatus, int, int]:
        standing = self._standing
        return standing.status(), standing.usage().bad_chunks, standing.scrubbed_at

    def _current(self) -> NodeInfo:
        usage = self._standing.usage()
        return replace(
            self._node,
            status=self._standing.status(),
            heartbeat_seq=self._node.heartbeat_seq + 1,
            heartbeat_ts=self._wall_ms(),
            free_bytes=usage.free_bytes,
            used_bytes=usage.used_bytes,
            capacity_bytes=usage.capacity_bytes,
            chunks=usage.chunks,
            bad_chunks=usage.bad_chunks,
            scrubbed_at=self._standing.scrubbed_at,
        )

    def _accept(self, stored: NodeInfo) -> None:
        if not self.reachable:
            self.reachable = True
            logs.event("registry.reachable_again")
        if stored.admin_state is not self._standing.admin_state:
            logs.event("node.admin_state", was=self._standing.admin_state, now=stored.admin_state)
            self._standing.admin_state = stored.admin_state
        node = self._node
        if self._sent is not None and node.status is not self._sent[0]:
            logs.event("node.status", was=self._sent[0], now=node.status)
        self._sent = (node.status, node.bad_chunks, node.scrubbed_at)

    def _missed(self, error: Exception) -> bool:
        if self.reachable:
            self.reachable = False
            logs.warning("registry.unreachable", error=error, consequence="serving on; heartbeats are tried again")
        return False

    def _refused(self, conflict: NodeConflict) -> bool:
        """The row is not ours. A row that vanished is put again, if this still is our cluster."""
        sentence = lost_sentence(self._node, conflict)
        if conflict.current is None and self._standing.admin_state is not AdminState.DECOMMISSIONED:
            try:
                if self._metadata.cluster_info().cluster_id == self._cluster_id:
                    # With the operators' state as last heard: losing the row must not undo a drain.
                    again = replace(self._node, admin_state=self._standing.admin_state)
                    self._accept(self._metadata.register_node(again))
                    logs.warning("node.registered_again", reason="its row had vanished from the registry")
                    return True
                sentence = "the metadata now belongs to another cluster than the data directory"
            except NodeConflict as second:
                sentence = lost_sentence(self._node, second)
            except StartError as error:  # the tables are gone too: as good as unreachable
                return self._missed(error)
        self._standing.lost = sentence
        self._on_lost(sentence)
        return False


def lost_sentence(ours: NodeInfo, conflict: NodeConflict) -> str:
    """Why node `ours` may not go on, and what to do."""
    current = conflict.current
    if current is None:
        return (
            f"{ours.node_id} is no longer in the registry (decommissioned?): start it again to register it anew, or "
            "empty its disk and start that under a NODE_ID of its own"
        )
    if current.disk_id != ours.disk_id:
        return (
            f"node id {ours.node_id} belongs to another disk ({current.disk_id}; this one is {ours.disk_id}): "
            "mount the right disk, or give this one a NODE_ID of its own"
        )
    return (
        f"a newer process of node {ours.node_id} has registered from {current.address}:{current.port}: "
        "only one may run on a disk, and this one was superseded"
    )
