"""What the cluster layer writes to metadata by itself: replicas that came late, chunks found short.

Both only ever help repair to do its work sooner: what fails here is logged, never raised.
"""

from __future__ import annotations

from collections.abc import Callable

from dfs import errors, logs
from dfs.cluster.replicate import Late
from dfs.metadata.contract import MetadataStore, StepsRefused
from dfs.metadata.steps import CheckFile, CheckReplica, PutShort, RemoveShort, Step
from dfs.model import FileState

_KEPT = frozenset({FileState.UPLOADING, FileState.COMMITTED, FileState.TRASHED})
_TRIES = 3


def record_late(store: MetadataStore) -> Callable[[Late], None]:
    """For `Replicator(on_late=)`: add the rows, then clear the short mark if nothing is missing."""

    def record(late: Late) -> None:
        rows = (*late.recorded, *late.rows)
        cleared: list[Step] = [RemoveShort(late.file_id, late.chunk_index)]
        cleared.extend(CheckReplica(row.file_id, row.chunk_index, row.node_id) for row in rows)

        def write() -> None:
            store.add_replicas(late.file_id, late.rows)
            if late.complete:
                store.transact(cleared)

        _try("replica.late_not_recorded", write, late.file_id, late.chunk_index)

    return record


def mark_short(store: MetadataStore, now_ms: Callable[[], int]) -> Callable[[str, int], None]:
    """For reporting a bad or missing replica: leave a mark by which repair finds the chunk, unless
    its file is being deleted."""

    def mark(file_id: str, chunk_index: int) -> None:
        steps: list[Step] = [CheckFile(file_id, _KEPT), PutShort(file_id, chunk_index, now_ms())]
        _try("replica.bad_not_marked", lambda: store.transact(steps), file_id, chunk_index)

    return mark


def _try(failure: str, write: Callable[[], None], file_id: str, chunk_index: int) -> None:
    """`write`, which is safe to repeat, until its answer arrives; logs `failure` in the end."""
    for _ in range(_TRIES):
        try:
            return write()
        except StepsRefused:
            return None  # the file is being deleted, or rows have moved on: nothing to record
        except errors.DfsError as error:
            reason = str(error)
    logs.warning(failure, file_id=file_id, chunk_index=chunk_index, reason=reason)
    return None
