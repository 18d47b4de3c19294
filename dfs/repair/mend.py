"""Mending one chunk: bringing it to R good copies, and no more.

Whoever mends may be broken off between any two steps, and another may mend the same chunk at the same
moment. What makes that safe is the order of steps, not the lease:

- a copy is pulled, read back from the target's disk, and only then gets its row, on the condition that
  the file is not being deleted;
- a copy goes after R others have been re-read from their disks: its row in a transaction that checks the
  rows of those R others, then its bytes.

So bytes without a row may be left over, never the other way round; the rule for records whose row is not
known finds them. The nodes refuse calls under an older lease than the newest they have seen: a mender that was
stopped between the row and the bytes cannot drop bytes that a newer one has just made a copy of.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

from dfs import errors, logs
from dfs.cluster.membership import Membership
from dfs.cluster.placement import Placement
from dfs.cluster.upkeep import Fence, UpkeepCalls
from dfs.metadata.contract import MetadataStore
from dfs.model import ChunkReplica, FileRecord, FileState, NodeInfo
from dfs.repair.copying import Copying
from dfs.repair.dropping import SETTLED, Dropping
from dfs.repair.inspection import Inspection, Stopped
from dfs.repair.pace import LEAST_CHUNK, LEAST_MOVED, Pace
from dfs.repair.planner import ChunkPlan, Holder, plan

_KEPT = frozenset({FileState.UPLOADING, FileState.COMMITTED, FileState.TRASHED})
_MOST_LOOKS = 16
_STALE = 60.0


class Outcome(StrEnum):
    """What became of the chunk. WHOLE: it has R good copies and needed nothing; MENDED: it has them now.
    WAITING: something is left to do, which cannot be done now. UNRECOVERABLE: no copy is left that can be
    read, and none may be expected to come back. GONE: there is no such chunk (any more)."""

    WHOLE = "whole"
    MENDED = "mended"
    WAITING = "waiting"
    UNRECOVERABLE = "unrecoverable"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Mended:
    """The outcome, and what was done: copies made (healed ones among them) and their bytes, copies dropped,
    rows of nodes that are gone forgotten. `reason` says what a WAITING or UNRECOVERABLE chunk lacks."""

    outcome: Outcome
    copied_chunks: int = 0
    copied_bytes: int = 0
    dropped: int = 0
    reason: str = ""
    forgotten: int = 0


class Mender:
    """Mends chunks. Thread-safe; two calls for one chunk at once do not work side by side.

    `fence` is asked before every change, and says under which lease it is made; None: the lease is lost.
    `away` says of a node that does not answer whether it is expected back.
    """

    def __init__(
        self,
        store: MetadataStore,
        membership: Membership,
        placement: Placement,
        calls: UpkeepCalls,
        *,
        factor: int,
        pace: Pace,
        fence: Callable[[], Fence | None],
        away: Callable[[NodeInfo], bool],
        now_ms: Callable[[], int],
    ) -> None:
        self.store = store
        self.membership = membership
        self.placement = placement
        self.calls = calls
        self.factor = factor
        self.pace = pace
        self.fence = fence
        self.away = away
        self.now_ms = now_ms
        self._lock = threading.Lock()
        self._busy: set[tuple[str, int]] = set()

    def mend(
        self,
        file_id: str,
        chunk_index: int,
        *,
        verify: bool = False,
        trim: bool = True,
        rebalance: bool = False,
    ) -> Mended:
        """Do what the chunk needs. Safe to repeat and to break off; raises nothing for what goes wrong with
        a node or the metadata: that is WAITING.

        `verify`: have every holder that answers re-read its copy first. `trim`: drop good copies beyond R.
        `rebalance`: if it lacks nothing, move one copy towards where placement would put it now."""
        with self.alone((file_id, chunk_index)) as alone:
            if not alone:
                return Mended(Outcome.WAITING, reason="it is being worked on already")
            job = _Job(self, file_id, chunk_index, verify=verify, trim=trim or rebalance, rebalance=rebalance)
            return job.run()

    @contextmanager
    def alone(self, key: tuple[str, int]) -> Iterator[bool]:
        """Whether nobody else is at work on the chunk; nobody begins to until this ends."""
        with self._lock:
            free = key not in self._busy
            if free:
                self._busy.add(key)
        try:
            yield free
        finally:
            if free:
                with self._lock:
                    self._busy.discard(key)


class _Job:
    """One call of `mend`."""

    def __init__(
        self, mender: Mender, file_id: str, chunk_index: int, *, verify: bool, trim: bool, rebalance: bool
    ) -> None:
        self._mender = mender
        self._store = mender.store
        self._factor = mender.factor
        self._file_id = file_id
        self._index = chunk_index
        self._verify = verify
        self._trim = trim
        self._rebalance = rebalance
        self._moved = False
        self._nodes = Inspection(mender.membership, mender.calls, mender.away, mender.now_ms())
        self._copying = Copying(
            mender.store,
            mender.calls,
            self._nodes,
            pace=mender.pace,
            guard=self._guard,
            now_ms=mender.now_ms,
        )
        self._dropping = Dropping(
            mender.store, mender.calls, self._nodes, guard=self._guard, now_ms=mender.now_ms
        )
        self._copied = 0
        self._bytes = 0
        self._dropped = 0
        self._forgotten = 0

    def run(self) -> Mended:
        """Look, act, look again, until there is nothing left to do."""
        try:
            for _ in range(_MOST_LOOKS):
                ended = self._step()
                if ended is not None:
                    return ended
            return self._ended(Outcome.WAITING, "it keeps changing")
        except Stopped as stopped:
            return self._ended(Outcome.WAITING, str(stopped))
        except errors.DfsError as error:
            # Of the metadata: what the nodes answer is dealt with where they are asked.
            return self._ended(Outcome.WAITING, error.message)

    def _ended(self, outcome: Outcome, reason: str = "") -> Mended:
        return Mended(outcome, self._copied, self._bytes, self._dropped, reason, self._forgotten)

    def _guard(self) -> Fence:
        """The lease under which the next change is made."""
        fence = self._mender.fence()
        if fence is None:
            raise Stopped("the lease is lost")
        return fence

    # --- looking ---

    def _step(self) -> Mended | None:
        """One look at the chunk and what follows from it; None: look again."""
        if self._mender.membership.read_age() > _STALE:
            return self._ended(Outcome.WAITING, "the registry has not been read lately")
        record = self._store.get_file(self._file_id)
        if record is None or record.state not in _KEPT:
            return self._ended(Outcome.GONE)
        rows = {row.node_id: row for row in self._store.replicas(self._file_id, self._index, self._index)}
        if not rows:
            return self._without_rows(record)
        like = next(iter(rows.values()))
        if any((row.checksum, row.length) != (like.checksum, like.length) for row in rows.values()):
            logs.warning("rows.contradict", file_id=self._file_id, chunk_index=self._index, nodes=",".join(rows))
            return self._ended(Outcome.WAITING, "its rows contradict each other")
        if self._verify:
            self._verify_holders(rows, like)
        holders, gone = self._nodes.standing(rows)
        planned = self._plan(holders, gone, record)
        staying = [node for node in holders if holders[node] is Holder.GOOD and node not in gone]
        moving = len(staying) >= self._factor
        if planned.copies and not (moving and self._moved):
            self._moved |= moving
            self._copy(planned, rows, like, record)
            return None
        if (planned.drops or planned.forget) and record.state in SETTLED:
            self._remove(planned, staying, like)
            return None
        return self._left(planned, holders, staying)

    def _without_rows(self, record: FileRecord) -> Mended:
        if record.state is FileState.UPLOADING:
            return self._ended(Outcome.WAITING, "it has not been uploaded yet")
        if self._index >= max(1, record.chunk_count):
            return self._ended(Outcome.GONE)
        return self._unrecoverable("it has no replica row")

    def _verify_holders(self, rows: dict[str, ChunkReplica], like: ChunkReplica) -> None:
        holders, _ = self._nodes.standing(rows)
        for node_id, holder in holders.items():
            if holder in (Holder.GOOD, Holder.LEAVING) and node_id not in self._nodes.verified:
                self._nodes.verify(node_id, like)

    def _plan(self, holders: dict[str, Holder], gone: set[str], record: FileRecord) -> ChunkPlan:
        view = self._nodes.view
        order = [node.node_id for node in self._mender.placement.nodes_for(self._file_id, self._index, view)]
        return plan(
            holders,
            factor=self._factor,
            preferred=[node for node in order if node not in self._nodes.unfit and node not in self._nodes.silent],
            zones={member.info.node_id: member.info.zone for member in view.members},
            gone=gone,
            trim=self._trim,
            ideal=set(order[: self._factor]) if self._rebalance and record.state in SETTLED else None,
        )

    # --- acting ---

    def _copy(
        self, planned: ChunkPlan, rows: dict[str, ChunkReplica], like: ChunkReplica, record: FileRecord
    ) -> None:
        """One copy; the next one is decided by another look."""
        target = planned.copies[0]
        # A source is a good copy that answers, on a node that leaves too: with R of them the chunk only moves.
        least = LEAST_CHUNK if len(planned.sources) < self._factor else LEAST_MOVED
        if self._copying.copy(target, planned.sources, like, rows.get(target), record, least=least):
            self._copied += 1
            self._bytes += like.length

    def _remove(self, planned: ChunkPlan, staying: Sequence[str], like: ChunkReplica) -> None:
        kept = [node for node in staying if node not in planned.drops]
        proved = self._dropping.proved(kept, self._factor, like)
        if len(proved) < self._factor:
            return  # another look tells what is to be done about the others
        for node_id in planned.drops:
            if not self._dropping.drop(node_id, proved, like):
                return  # another look tells what has changed
            self._dropped += 1
        if planned.forget and self._dropping.forget(planned.forget, proved, like):
            self._forgotten += len(planned.forget)

    # --- ending ---

    def _left(self, planned: ChunkPlan, holders: dict[str, Holder], staying: Sequence[str]) -> Mended:
        """The outcome when nothing more can be done now."""
        if planned.unrecoverable:
            return self._unrecoverable("no node that answers has a good copy")
        if len(staying) < self._factor:
            away = [node for node, holder in holders.items() if holder is Holder.AWAY]
            missing = self._factor - len(staying)
            why = f"waits for {', '.join(away)}" if away else "no node takes them"
            return self._ended(Outcome.WAITING, f"{missing} of {self._factor} copies missing: {why}")
        if planned.forget or any(holders[node] is not Holder.GOOD for node in planned.drops):
            return self._ended(Outcome.WAITING, "nothing is dropped while its file is being uploaded")
        away = [node for node, holder in holders.items() if holder is Holder.AWAY]
        if self._trim and away:
            # Nobody else looks for it when the node is back before it is taken for lost.
            return self._ended(Outcome.WAITING, f"a copy too many may be on {', '.join(away)}, which does not answer")
        changed = self._copied or self._dropped or self._forgotten
        return self._ended(Outcome.MENDED if changed else Outcome.WHOLE)

    def _unrecoverable(self, reason: str) -> Mended:
        # The eraser may have been at it since the record was read.
        record = self._store.get_file(self._file_id)
        if record is None or record.state not in _KEPT:
            return self._ended(Outcome.GONE)
        return self._ended(Outcome.UNRECOVERABLE, reason)
