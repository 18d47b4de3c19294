"""Removing the rows of a file that is being deleted."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from itertools import groupby

from dfs.metadata.contract import MetadataStore, OutcomeUnknown
from dfs.metadata.steps import MAX_STEPS, CheckFile, RemoveReplica, RemoveShort, Step
from dfs.model import FileState

_DELETING = frozenset({FileState.DELETING})
_TRIES = 3


@dataclass(frozen=True, slots=True)
class Removal:
    """`rows` were removed; nodes of rows that had to stay are `left`."""

    rows: int
    left: frozenset[str]


def remove_rows(
    store: MetadataStore, file_id: str, keep: Collection[str], between: Callable[[], None]
) -> Removal:
    """Remove the file's replica rows, except those of the nodes in `keep`, with short marks.

    In transactions conditional on the file being `deleting`; calls `between` after each. Can be
    broken off and repeated. Raises StepsRefused when the file is not being deleted.
    """
    steps: list[Step] = []
    rows = 0
    left: set[str] = set()
    for chunk_index, group in groupby(store.replicas(file_id), key=lambda row: row.chunk_index):
        names = [row.node_id for row in group]
        going = [name for name in names if name not in keep]
        left.update(name for name in names if name in keep)
        if not going:
            continue
        if len(steps) + len(going) + 2 > MAX_STEPS:
            _commit(store, file_id, steps)
            steps = []
            between()
        steps.append(RemoveShort(file_id, chunk_index))
        steps.extend(RemoveReplica(file_id, chunk_index, name) for name in going)
        rows += len(going)
    if steps:
        _commit(store, file_id, steps)
    return Removal(rows, frozenset(left))


def _commit(store: MetadataStore, file_id: str, steps: list[Step]) -> None:
    for attempt in range(_TRIES):
        try:
            return store.transact([CheckFile(file_id, _DELETING), *steps])
        except OutcomeUnknown:  # once more does no harm
            if attempt == _TRIES - 1:
                raise
    raise AssertionError("unreachable")
