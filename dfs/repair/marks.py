"""Marks by which repair finds a chunk again."""

from __future__ import annotations

from dfs.metadata.contract import MetadataStore, OutcomeUnknown, StepsRefused
from dfs.metadata.steps import CheckFile, PutShort
from dfs.model import FileState

_KEPT = frozenset({FileState.UPLOADING, FileState.COMMITTED, FileState.TRASHED})
_TRIES = 3


def mark_short(store: MetadataStore, file_id: str, chunk_index: int, at: int) -> None:
    """Mark a chunk as short, unless its file is being deleted. Raises errors.Unavailable and, when the
    answer is lost again and again, OutcomeUnknown."""
    for attempt in range(_TRIES):
        try:
            return store.transact([CheckFile(file_id, _KEPT), PutShort(file_id, chunk_index, at)])
        except StepsRefused:
            return None
        except OutcomeUnknown:
            if attempt == _TRIES - 1:
                raise
    raise AssertionError("unreachable")
