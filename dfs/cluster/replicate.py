"""Bringing a chunk to its nodes, as the replication strategy wants.

`sync` returns when the lanes of all replicas have ended (see `transfer`); those of a small chunk
begin in the batches that go to their nodes (see `batches`). `quorum` and `async`
return as soon as enough replicas are durable; the lanes still under way work on a copy of the
bytes, and the total of such copies is bounded: above the bound a write waits for all its lanes, as
`sync` does.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from dfs import errors, logs
from dfs.cluster.batches import SMALL, Batches
from dfs.cluster.calls import NodeCalls
from dfs.cluster.membership import Membership
from dfs.cluster.placement import Placement
from dfs.cluster.transfer import PRIMARY, SECONDARY, Chunk, Transfer
from dfs.cluster.view import View
from dfs.model import ChunkReplica, NodeInfo
from dfs.wire.deadline import Deadline

BACKGROUND_BYTES = 32 * 1024 * 1024
_LEAST_CHARGE = 32 * 1024
_HELP_AFTER = 0.05
_REFRESH_AGE = 0.5


@dataclass(frozen=True, slots=True)
class Late:
    """Replicas that became durable after their write was acknowledged. `rows` are the new ones,
    `recorded` those acknowledged before; `complete`: together they are all."""

    file_id: str
    chunk_index: int
    rows: tuple[ChunkReplica, ...]
    recorded: tuple[ChunkReplica, ...]
    complete: bool


@dataclass(frozen=True, slots=True)
class Written:
    """A chunk's durable replicas, the primary first. `short`: fewer than the replication factor; the
    caller records that before it acknowledges. `pending`, if any, is to be called when those rows and
    the file's record are in the metadata: what follows in the background is recorded from then on.
    Never calling it loses nothing but those rows. `uncertain`: other nodes that may hold the bytes."""

    replicas: tuple[ChunkReplica, ...]
    short: bool
    pending: Callable[[], None] | None = None
    uncertain: tuple[str, ...] = ()


def may_hold(error: BaseException) -> tuple[str, ...]:
    """Nodes that may hold bytes of the chunk whose write raised `error`."""
    holders: tuple[str, ...] = getattr(error, "holders", ())
    return holders


class Replicator:
    """Writes chunks to as many nodes as the strategy wants. Thread-safe.

    `timeout` (s) bounds one chunk with all substitutions. `executor` runs lanes; factor - 1 threads
    for each write at once is best, any number works; close it only after `drain`. `on_late` is told
    of replicas that follow an acknowledged write (`records.record_late`). Without `batches` small
    chunks go like big ones.
    """

    def __init__(
        self,
        membership: Membership,
        placement: Placement,
        calls: NodeCalls,
        *,
        factor: int,
        strategy: str,
        timeout: float,
        executor: Executor,
        on_late: Callable[[Late], None],
        batches: Batches | None = None,
        background_bytes: int = BACKGROUND_BYTES,
    ) -> None:
        self.factor = factor
        self.required = {"sync": factor, "quorum": factor // 2 + 1, "async": 1}[strategy]
        self._membership = membership
        self._placement = placement
        self._calls = calls
        self._timeout = timeout
        self._executor = executor
        self._on_late = on_late
        self._batches = batches
        self._idle = threading.Condition()
        self._bytes_left = background_bytes
        self._background = 0

    def check_nodes(self, required: int | None = None) -> View:
        """A view in which enough nodes take chunks, for refusing a request before its body is read.

        `required` defaults to the strategy's number. Raises NotEnoughNodes, ClusterFull.
        """
        required = self.required if required is None else required
        view = self._membership.view()
        if len(view.writable) < required:
            view = self._membership.refresh(_REFRESH_AGE)
        if len(view.writable) < required:
            raise _too_few(required, len(view.writable), view.full)
        return view

    def write(
        self,
        file_id: str,
        chunk_index: int,
        data: bytes | memoryview,
        *,
        checksum: str,
        chunk_size: int,
        file_size: int | None,
        now_ms: int,
        prefer: str | None = None,
        piece_crcs: tuple[int, ...] = (),
    ) -> Written:
        """Store a chunk on enough nodes; durable there when this returns. `data` is not used after.

        `piece_crcs`, the CRC-32 of each piece of the data, spare the nodes the work of its checksum.
        `prefer` names a node to be first if it can take chunks. Raises NotEnoughNodes, ClusterFull,
        ChunkConflict, Gone, ChecksumMismatch and other errors that no other node would answer
        differently; `may_hold(error)` names the nodes where bytes may have been left.
        """
        view = self.check_nodes()
        order = self._order(file_id, chunk_index, view, prefer)
        chunk = Chunk(file_id, chunk_index, len(data), checksum, chunk_size, file_size, piece_crcs)
        charge = max(len(data), _LEAST_CHARGE)
        detached = self.required < self.factor and self._begin_background(charge)
        bytes_used = bytes(data) if detached else data
        transfer = Transfer(self._calls, self._membership, chunk, bytes_used, order, Deadline(self._timeout))
        transfer.enough = self.required if detached else self.factor
        batched = self._begin_in_batches(transfer, bytes_used, lead=not detached)
        if not batched:
            transfer.add_lanes(self.factor)
        if detached:
            self._run_detached(transfer, 0 if batched else self.factor)
        else:
            if not batched:
                self._call_help(transfer, self.factor - 1)
            transfer.finish()
        self._second_chance(transfer)
        if detached:
            transfer.at_end(lambda: self._end_background(charge, transfer))
        else:
            transfer.forget()
        return self._outcome(transfer, now_ms)

    def drain(self, seconds: float) -> bool:
        """Wait for transfers in the background; False when some are left after `seconds`."""
        with self._idle:
            return self._idle.wait_for(lambda: self._background == 0, seconds)

    def _order(
        self, file_id: str, chunk_index: int, view: View, prefer: str | None
    ) -> Sequence[NodeInfo]:
        order = self._placement.nodes_for(file_id, chunk_index, view)
        hinted = view.writable_by_id.get(prefer) if prefer is not None else None
        if hinted is None or order[0] is hinted:
            return order
        return (hinted, *(node for node in order if node is not hinted))

    # --- lanes ---

    def _begin_in_batches(self, transfer: Transfer, data: bytes | memoryview, *, lead: bool) -> bool:
        """Begin all lanes in batches; False when the chunk is none for a batch."""
        chunk = transfer.chunk
        if self._batches is None or chunk.length > SMALL or not _sane(chunk):
            return False
        crc32 = chunk.piece_crcs[0] if chunk.piece_crcs else zlib.crc32(data)
        transfer.begin_in_batches(
            self._batches,
            self.factor,
            crc32,
            lead=lead,
            call_help=lambda: self._call_help(transfer, 1),
        )
        return True

    def _call_help(self, transfer: Transfer, threads: int) -> bool:
        """False when the pool is closed: nobody but the caller runs lanes."""
        try:
            for _ in range(threads):
                self._executor.submit(transfer.work)
        except RuntimeError:
            return False
        return True

    def _run_detached(self, transfer: Transfer, threads: int) -> None:
        """Have `threads` of the pool run lanes and wait until enough replicas are durable or all lanes
        have ended."""

        def enough() -> bool:
            return len(transfer.stored) >= self.required or transfer.running == 0

        if not self._call_help(transfer, threads):
            transfer.finish()
            return
        with transfer.changed:
            transfer.changed.wait_for(enough, _HELP_AFTER)
        transfer.attend(enough)  # should the pool be busy

    def _second_chance(self, transfer: Transfer) -> None:
        """When no candidate is left and it is not enough, learn which nodes answer now, those that
        failed a moment ago among them, and try these."""
        with transfer.changed:
            missing = self.required - len(transfer.stored)
            if missing <= 0 or transfer.final is not None or transfer.deadline.expired():
                return
            done = {node.node_id for node in transfer.stored} | transfer.refused
        view = self._membership.refresh(_REFRESH_AGE)
        again = [node for node in view.writable if node.node_id not in done]
        if len(again) >= missing:
            transfer.add_lanes(missing, again)
            self._call_help(transfer, missing - 1)
            transfer.finish()

    # --- outcome ---

    def _outcome(self, transfer: Transfer, now_ms: int) -> Written:
        with transfer.changed:
            stored, final, running = transfer.holders(), transfer.final, transfer.running
            uncertain = tuple(transfer.uncertain)
        if final is not None or len(stored) < self.required:
            transfer.finish()  # bytes may still be arriving; `may_hold` has to name those nodes too
            raise self._failure(transfer)
        rows = _rows(transfer.chunk, stored, now_ms)
        pending = _Follow(self, transfer, rows, now_ms) if running else None
        return Written(rows, len(rows) < self.factor, pending, uncertain)

    def _failure(self, transfer: Transfer) -> Exception:
        with transfer.changed:
            error = transfer.final
            stored = [node.node_id for node in transfer.stored]
            holders = tuple(dict.fromkeys([*stored, *transfer.uncertain]))
            out_of_space = len(transfer.out_of_space)
        if error is None:
            view = self._membership.view()
            available = len(view.writable)
            if available >= self.required:  # they answer, and yet they did not take it in time
                available = len(stored)
            error = _too_few(self.required, available, max(view.full, out_of_space))
        error.__dict__["holders"] = holders
        return error

    # --- background ---

    def _begin_background(self, charge: int) -> bool:
        with self._idle:
            if charge > self._bytes_left:
                return False
            self._bytes_left -= charge
            self._background += 1
            return True

    def _end_background(self, charge: int, transfer: Transfer) -> None:
        transfer.forget()
        with self._idle:
            self._bytes_left += charge
            self._background -= 1
            self._idle.notify_all()

    def follow(self, transfer: Transfer, recorded: tuple[ChunkReplica, ...], now_ms: int) -> None:
        """Tell `on_late`, in the pool, what has become durable besides `recorded`."""
        with self._idle:
            self._background += 1
        try:
            self._executor.submit(self._tell_late, transfer, recorded, now_ms)
        except RuntimeError:  # closed: the short mark stays, and repair goes by that
            self._end_following()

    def _tell_late(self, transfer: Transfer, recorded: tuple[ChunkReplica, ...], now_ms: int) -> None:
        try:
            known = {row.node_id for row in recorded}
            with transfer.changed:
                late_nodes = [node for node in transfer.holders() if node.node_id not in known]
            late = _rows(transfer.chunk, late_nodes, now_ms, SECONDARY)
            complete = len(recorded) + len(late) >= self.factor
            if late:
                chunk = transfer.chunk
                self._on_late(Late(chunk.file_id, chunk.chunk_index, late, recorded, complete))
        except Exception as error:  # whatever it is, the short mark stays and repair goes by that
            logs.error("replica.late_not_recorded", exc=error, file_id=transfer.chunk.file_id)
        finally:
            self._end_following()

    def _end_following(self) -> None:
        with self._idle:
            self._background -= 1
            self._idle.notify_all()


class _Follow:
    """`Written.pending`: callable any number of times, heeded once."""

    def __init__(
        self, replicator: Replicator, transfer: Transfer, rows: tuple[ChunkReplica, ...], now_ms: int
    ) -> None:
        self._replicator = replicator
        self._transfer: Transfer | None = transfer
        self._rows = rows
        self._now_ms = now_ms

    def __call__(self) -> None:
        transfer, self._transfer = self._transfer, None
        if transfer is not None:
            transfer.at_end(lambda: self._replicator.follow(transfer, self._rows, self._now_ms))


def _sane(chunk: Chunk) -> bool:
    """Whether the chunk's numbers are such that no node refuses a whole batch on their account."""
    file_size = chunk.length if chunk.file_size is None else chunk.file_size
    return max(1, chunk.length) <= chunk.chunk_size and chunk.length <= file_size


def _rows(
    chunk: Chunk, nodes: Sequence[NodeInfo], now_ms: int, first: str = PRIMARY
) -> tuple[ChunkReplica, ...]:
    return tuple(
        ChunkReplica(
            file_id=chunk.file_id,
            chunk_index=chunk.chunk_index,
            node_id=node.node_id,
            checksum=chunk.checksum,
            length=chunk.length,
            replica_type=SECONDARY if place else first,
            created_at=now_ms,
        )
        for place, node in enumerate(nodes)
    )


def _too_few(required: int, available: int, full: int) -> errors.DfsError:
    if full and available + full >= required:
        return errors.ClusterFull(
            f"No room for the chunk on enough nodes. Required: {required}, Available: {available}, Full: {full}"
        )
    return errors.NotEnoughNodes(f"Not enough active nodes. Required: {required}, Available: {available}")
