"""Making one new copy of a chunk: pulled, read back, and only then put down in the metadata."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from dfs import errors, logs
from dfs.cluster.calls import NodeFailed
from dfs.cluster.transfer import SECONDARY
from dfs.cluster.upkeep import Fence, UpkeepCalls
from dfs.metadata.contract import MetadataStore, OutcomeUnknown, StepsRefused
from dfs.model import ChunkReplica, FileRecord, FileState, NodeInfo
from dfs.repair.inspection import Inspection, Stopped, call_deadline
from dfs.repair.marks import mark_short
from dfs.repair.pace import Pace

TRIES = 3
"""How often a write to metadata that is safe to repeat is made when its answer is lost."""


class Copying:
    """Copies chunks for one mend. `guard` returns the lease under which the next change is made, or
    raises Stopped."""

    def __init__(
        self,
        store: MetadataStore,
        calls: UpkeepCalls,
        nodes: Inspection,
        *,
        pace: Pace,
        guard: Callable[[], Fence],
        now_ms: Callable[[], int],
    ) -> None:
        self._store = store
        self._calls = calls
        self._nodes = nodes
        self._pace = pace
        self._guard = guard
        self._now_ms = now_ms

    def copy(
        self,
        target_id: str,
        sources: Sequence[str],
        like: ChunkReplica,
        known: ChunkReplica | None,
        record: FileRecord,
        *,
        least: int,
    ) -> bool:
        """Bring the chunk that the row `like` describes to a node. `known` is the row it has already. It
        counts for `least` bytes at least.

        True: durable there, read back, and its row is in the metadata. False: that node will not do (it is
        among `unfit` then), or its file has gone meanwhile. Raises Stopped, and whatever the metadata
        raise: then the bytes may be there without a row, or with one that was not acknowledged.
        """
        target = self._nodes.node(target_id)
        if target is None or not self._pulled(target, sources, like, record, max(like.length, least)):
            self._nodes.unfit.add(target_id)
            return False
        if not self._nodes.verify(target_id, like):
            self._nodes.unfit.add(target_id)
            return False
        self._nodes.unfit.discard(target_id)  # only an answer was lost
        row = known or replace(like, node_id=target_id, replica_type=SECONDARY, created_at=self._now_ms())
        return self._put_down(target, row)

    def _pulled(
        self, target: NodeInfo, sources: Sequence[str], like: ChunkReplica, record: FileRecord, count: int
    ) -> bool:
        """Whether the target has it, as far as its own answer goes."""
        for source_id in sources:
            source = self._nodes.node(source_id)
            if source is None or source_id in self._nodes.bad or source_id in self._nodes.silent:
                continue
            if not self._pace.take(count):
                raise Stopped("this server is stopping")
            fence = self._guard()
            deadline = call_deadline(like.length)
            try:
                self._calls.pull(
                    target,
                    source,
                    like.file_id,
                    like.chunk_index,
                    checksum=like.checksum,
                    length=like.length,
                    chunk_size=record.chunk_size,
                    file_size=_file_size(record, like),
                    fence=fence,
                    deadline=deadline,
                )
            except errors.NoReplica as error:
                # Its copy, the way between the two, or its process: what it says of its copy decides.
                self._complain(source_id, target, like, error)
                self._nodes.verify(source_id, like)
            except errors.DfsError as error:
                self._complain(source_id, target, like, error)
                self._nodes.blame(target, error, deadline)
                # Only the answer may have been lost: then reading back tells.
                return isinstance(error, NodeFailed) and error.sent
            else:
                self._nodes.worked(target)
                return True
        return False

    def _complain(self, source_id: str, target: NodeInfo, like: ChunkReplica, error: errors.DfsError) -> None:
        logs.warning(
            "repair.not_copied",
            file_id=like.file_id,
            chunk_index=like.chunk_index,
            source=source_id,
            target=target.node_id,
            code=error.code,
            reason=error.message,
        )

    def _put_down(self, target: NodeInfo, row: ChunkReplica) -> bool:
        fence = self._guard()
        for attempt in range(TRIES):
            try:
                self._store.add_replicas(row.file_id, [row])
                break
            except StepsRefused:
                self._take_back(target, row)
                return False
            except OutcomeUnknown:
                if attempt == TRIES - 1:
                    raise
        logs.event(
            "chunk.copied",
            file_id=row.file_id,
            chunk_index=row.chunk_index,
            node_id=row.node_id,
            bytes=row.length,
            fence=fence.number,
        )
        try:
            overtaken = self._guard() != fence
        except Stopped:
            overtaken = True
        if overtaken:
            # Whoever has the lease now may have dropped these bytes between the reading back and the row.
            mark_short(self._store, row.file_id, row.chunk_index, self._now_ms())
        return True

    def _take_back(self, target: NodeInfo, row: ChunkReplica) -> None:
        """The file is being deleted, which no file comes back from: the new bytes go again. What fails
        here is left to the eraser, which tells every node."""
        record = self._store.get_file(row.file_id)
        if record is not None and record.state is not FileState.DELETING:
            return
        deadline = call_deadline(0)
        try:
            self._calls.drop(target, row.file_id, row.chunk_index, fence=self._guard(), deadline=deadline)
        except errors.DfsError as error:
            self._nodes.blame(target, error, deadline)


def _file_size(record: FileRecord, like: ChunkReplica) -> int | None:
    """The file's size, None while an upload of unknown length is under way."""
    end = like.chunk_index * record.chunk_size + like.length
    if record.state is FileState.UPLOADING and record.size < end:
        return None
    return record.size
