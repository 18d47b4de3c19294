"""One chunk on its way to several nodes.

Each replica is one *lane*: it takes the best node left, stores the chunk there, and when the node
cannot take it, goes on to the next. Lanes share nothing but the list of nodes and never wait for
each other. Whoever calls `work` runs the next lane that nobody runs yet: the pool's threads, and
the writer itself for those that no pool thread has come to. So every transfer goes on however busy
(or closed) the pool is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dfs import errors, logs
from dfs.cluster.calls import NodeCalls, NodeFailed
from dfs.cluster.membership import Membership
from dfs.model import NodeInfo
from dfs.wire.deadline import Deadline

PRIMARY = "primary"
SECONDARY = "secondary"

FINAL = (errors.ChunkConflict, errors.Gone, errors.BadRequest)
"""Answers about the chunk and not about the node: no other node is asked instead."""

_REFUSED = (errors.NodeFull, errors.StoreReadOnly)
_NOT_STORED = (*FINAL, *_REFUSED, errors.Busy, errors.WrongNode)


@dataclass(frozen=True, slots=True)
class Chunk:
    """What is to be stored."""

    file_id: str
    chunk_index: int
    length: int
    checksum: str
    chunk_size: int
    file_size: int | None


class Transfer:
    """The lanes of one chunk and what has come of them. Its attributes are guarded by `changed`.

    `stored`: nodes that hold the chunk, in the order in which they acknowledged. `uncertain`: nodes
    that may hold it. `refused`: nodes without room (`out_of_space`) or read-only. `final`: the error that ends it.
    """

    def __init__(
        self,
        calls: NodeCalls,
        membership: Membership,
        chunk: Chunk,
        data: bytes | memoryview,
        nodes: Sequence[NodeInfo],
        deadline: Deadline,
    ) -> None:
        self._calls = calls
        self._membership = membership
        self._nodes = list(nodes)
        self._in_use: list[NodeInfo] = []
        self._unclaimed: list[str] = []
        self._at_end: list[Callable[[], None]] = []
        self._data = data
        self.chunk = chunk
        self.deadline = deadline
        self.changed = threading.Condition()
        self.stored: list[NodeInfo] = []
        self.uncertain: dict[str, None] = {}
        self.refused: set[str] = set()
        self.out_of_space: set[str] = set()
        self.final: Exception | None = None
        self.running = 0

    def add_lanes(self, count: int, nodes: Sequence[NodeInfo] = ()) -> None:
        """`count` lanes more to be run by `work`, and further `nodes` that they may take."""
        with self.changed:
            if not self.stored and not self._unclaimed:
                self._unclaimed.append(PRIMARY)
                count -= 1
                self.running += 1
            self._unclaimed.extend([SECONDARY] * count)
            self.running += count
            self._nodes.extend(nodes)

    def work(self) -> bool:
        """Run one lane that nobody runs yet, to its end; False when there is none. Never raises."""
        with self.changed:
            if not self._unclaimed:
                return False
            replica_type = self._unclaimed.pop(0)
        self._lane(replica_type)
        return True

    def finish(self) -> None:
        """Run what nobody runs and wait until all lanes have ended: nothing uses the data then."""
        while self.work():
            pass
        with self.changed:
            self.changed.wait_for(lambda: self.running == 0)

    def holders(self) -> list[NodeInfo]:
        """The nodes of `stored`, most preferred first. The caller holds `changed`."""
        return [node for node in self._in_use if node in self.stored]

    def forget(self) -> None:
        """Let go of the data; only when all lanes have ended for good."""
        self._data = b""

    def at_end(self, act: Callable[[], None]) -> None:
        """Call `act`, which does not raise, when no lane runs: now or in the last lane's thread."""
        with self.changed:
            if self.running:
                self._at_end.append(act)
                return
        act()

    def _lane(self, replica_type: str) -> None:
        try:
            while (node := self._take()) is not None:
                if self._store(node, replica_type):
                    break
        except Exception as error:  # a bug: it ends this chunk and is raised to the writer
            with self.changed:
                self.final = self.final or error
        acts: list[Callable[[], None]] = []
        with self.changed:
            self.running -= 1
            if self.running == 0:
                acts, self._at_end = self._at_end, []
            self.changed.notify_all()
        for act in acts:
            act()

    def _take(self) -> NodeInfo | None:
        """The most preferred node left, one in a zone of its own if there is any."""
        with self.changed:
            if not self._nodes or self.final is not None or self.deadline.expired():
                return None
            zones = {node.zone for node in self._in_use}
            chosen = next((node for node in self._nodes if node.zone not in zones), self._nodes[0])
            self._nodes.remove(chosen)
            self._in_use.append(chosen)
            return chosen

    def _store(self, node: NodeInfo, replica_type: str) -> bool:
        chunk = self.chunk
        try:
            self._calls.store(
                node,
                chunk.file_id,
                chunk.chunk_index,
                self._data,
                checksum=chunk.checksum,
                chunk_size=chunk.chunk_size,
                file_size=chunk.file_size,
                replica_type=replica_type,
                deadline=self.deadline,
            )
        except errors.DfsError as error:
            self._failed(node, error)
            return False
        self._membership.report_success(node.node_id)
        with self.changed:
            self.stored.append(node)
            self.uncertain.pop(node.node_id, None)
            self.changed.notify_all()
        return True

    def _failed(self, node: NodeInfo, error: errors.DfsError) -> None:
        nothing_sent = isinstance(error, NodeFailed) and not error.sent
        with self.changed:
            self._in_use.remove(node)
            if isinstance(error, FINAL):
                self.final = self.final or error
            elif isinstance(error, _REFUSED):
                self.refused.add(node.node_id)
                if isinstance(error, errors.NodeFull):
                    self.out_of_space.add(node.node_id)
            if not isinstance(error, _NOT_STORED) and not nothing_sent:
                self.uncertain[node.node_id] = None
        if isinstance(error, FINAL):
            return
        if isinstance(error, _REFUSED):
            self._membership.report_refusal(node.node_id, error.code)
        elif isinstance(error, (NodeFailed, errors.WrongNode)) and not self.deadline.expired():
            # With all time used up, the write may have been too slow and not the node.
            self._membership.report_failure(node.node_id, error.message)
        logs.warning(
            "replica.not_stored",
            node_id=node.node_id,
            file_id=self.chunk.file_id,
            chunk_index=self.chunk.chunk_index,
            code=error.code,
            reason=error.message,
        )
