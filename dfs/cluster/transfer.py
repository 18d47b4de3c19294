"""One chunk on its way to several nodes.

Each replica is one *lane*: it takes the best node left, stores the chunk there, and when the node
cannot take it, goes on to the next. Lanes share nothing but the list of nodes and never wait for
each other. Whoever calls `work` runs the next lane that nobody runs yet: the pool's threads, and
the writer itself for those that no pool thread has come to. So every transfer goes on however busy
(or closed) the pool is.

A small chunk's lanes begin in the batches of their nodes instead (`begin_in_batches`), where no
thread of theirs runs. One that was stored there has ended; one that met anything else becomes a
lane that nobody runs yet, and goes on from there like any other.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dfs import errors, logs
from dfs.chunkbatch import NewChunk
from dfs.cluster.batches import Batches, Parcel, SendAlone
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
    """What is to be stored. `piece_crcs` may be empty: not known."""

    file_id: str
    chunk_index: int
    length: int
    checksum: str
    chunk_size: int
    file_size: int | None
    piece_crcs: tuple[int, ...] = ()


class Transfer:
    """The lanes of one chunk and what has come of them. Its attributes are guarded by `changed`.

    `enough`: how many stored replicas the writer waits for, when it does not wait for all lanes.
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
        self._unclaimed: list[tuple[str, NodeInfo | None]] = []
        self._flying: dict[Parcel, Batches] = {}
        self._call_help: Callable[[], object] = _nobody
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
        self.enough = len(nodes)

    def add_lanes(self, count: int, nodes: Sequence[NodeInfo] = ()) -> None:
        """`count` lanes more to be run by `work`, and further `nodes` that they may take."""
        with self.changed:
            if not self.stored and not self._unclaimed:
                self._unclaimed.append((PRIMARY, None))
                count -= 1
                self.running += 1
            self._unclaimed.extend([(SECONDARY, None)] * count)
            self.running += count
            self._nodes.extend(nodes)

    def begin_in_batches(
        self, batches: Batches, count: int, crc32: int, *, lead: bool, call_help: Callable[[], object]
    ) -> None:
        """Begin `count` lanes in the batches of their nodes; `data` must be bytes. `crc32` is that of
        the data. With `lead` this thread, which will `finish`, may carry out one of the calls.
        `call_help` has another thread call `work`, which is wanted when a lane has to go on."""
        chunk, data = self.chunk, bytes(self._data)
        self._call_help = call_help
        parcels: list[Parcel] = []
        while len(parcels) < count and (node := self._take()) is not None:
            new = NewChunk(
                chunk.file_id,
                chunk.chunk_index,
                data,
                chunk.checksum,
                crc32,
                chunk.chunk_size,
                chunk.file_size,
                SECONDARY if parcels else PRIMARY,
            )
            parcels.append(Parcel(node, new, self.deadline, self._landed))
        with self.changed:
            self.running += len(parcels)
            self._flying = dict.fromkeys(parcels, batches)
        batches.send(parcels, lead=lead)

    def work(self) -> bool:
        """Run one lane that nobody runs yet, to its end; False when there is none. Never raises."""
        with self.changed:
            if not self._unclaimed:
                return False
            replica_type, node = self._unclaimed.pop(0)
        self._lane(replica_type, node)
        return True

    def finish(self) -> None:
        """Run what nobody runs and wait until all lanes have ended: nothing uses the data then."""
        self.attend(lambda: self.running == 0)

    def attend(self, done: Callable[[], bool]) -> None:
        """Run what nobody runs and wait, until `done()`, which must hold when no lane is left."""
        while True:
            with self.changed:
                patience = self.deadline.remaining() if self._flying else None
                stirred = self.changed.wait_for(lambda: done() or self._unclaimed, patience)
                if done():
                    return
            if not stirred and self.deadline.expired():
                self._recall()
            self.work()

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

    def _lane(self, replica_type: str, node: NodeInfo | None) -> None:
        """Store at `node`, if given, else or then at the best node left, and so on until one has stored."""
        try:
            node = self._take(node)
            while node is not None and not self._store(node, replica_type):
                node = self._take()
        except Exception as error:  # a bug: it ends this chunk and is raised to the writer
            with self.changed:
                self.final = self.final or error
        self._ended()

    def _ended(self) -> None:
        acts: list[Callable[[], None]] = []
        with self.changed:
            self.running -= 1
            if self.running == 0:
                acts, self._at_end = self._at_end, []
            if self.running == 0 or len(self.stored) >= self.enough:
                self.changed.notify_all()
        for act in acts:
            act()

    def _landed(self, parcel: Parcel, error: Exception | None) -> None:
        """What became of a lane's beginning in a batch. Called by whoever sent the batch."""
        node = parcel.node
        with self.changed:
            if self._flying.pop(parcel, None) is None:
                return  # given up meanwhile
            if error is None:
                self.stored.append(node)
                self.uncertain.pop(node.node_id, None)
        if error is None:
            self._ended()
            return
        if isinstance(error, errors.DfsError):
            self._failed(node, error)
        with self.changed:
            again = node if isinstance(error, SendAlone) else None
            self._unclaimed.append((parcel.chunk.replica_type, again))
            self.changed.notify_all()
        self._call_help()

    def _recall(self) -> None:
        """The time is over: wait for no batch any longer."""
        with self.changed:
            flying = list(self._flying.items())
        for parcel, batches in flying:
            sent = not batches.withdraw(parcel)
            self._landed(parcel, NodeFailed(parcel.node.node_id, "the time was over before its answer", sent=sent))

    def _take(self, taken: NodeInfo | None = None) -> NodeInfo | None:
        """The most preferred node left, one in a zone of its own if there is any, or the one `taken`
        before; None when there is none, or no sense in going on."""
        with self.changed:
            if self.final is not None or self.deadline.expired():
                return None
            if taken is not None or not self._nodes:
                return taken
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
                piece_crcs=chunk.piece_crcs,
            )
        except errors.DfsError as error:
            self._failed(node, error)
            return False
        self._membership.report_success(node.node_id)
        with self.changed:
            self.stored.append(node)
            self.uncertain.pop(node.node_id, None)
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


def _nobody() -> None:
    """No help is to be had."""
