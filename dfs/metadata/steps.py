"""Steps of a transaction: each says what it changes and on what condition. Values only.

`MetadataStore.transact` applies a list of them, all or none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from dfs.model import ChunkReplica, FileRecord, FileState, Head


@dataclass(frozen=True, slots=True)
class PutFile:
    """Create a file record; refused when one with this id exists."""

    record: FileRecord


@dataclass(frozen=True, slots=True)
class ChangeFile:
    """Change attributes of a file record, conditional on what it is now.

    Refused unless the record exists, its state is one of `states`, and, where given, its version
    and touched_at are `version` and `touched_at`. `changes` maps names of FileRecord fields (any
    but file_id) to new values. The record's place in the gc index is derived from the result, so
    a change of `state` must be accompanied by `bucket`, `path`, `version` and `touched_at`
    whenever the new gc key needs them (see `gc_place`).
    """

    file_id: str
    states: frozenset[FileState]
    changes: dict[str, Any] = field(default_factory=dict)
    version: int | None = None
    touched_at: int | None = None


@dataclass(frozen=True, slots=True)
class CheckFile:
    """Refused unless the file record exists in one of `states`. Changes nothing."""

    file_id: str
    states: frozenset[FileState]


@dataclass(frozen=True, slots=True)
class RemoveFile:
    """Remove a file record; refused unless its state is one of `states`."""

    file_id: str
    states: frozenset[FileState]


@dataclass(frozen=True, slots=True)
class PutHead:
    """Put a head; refused unless the path's head is `seen` (same file_id and version; None: absent)."""

    head: Head
    seen: Head | None


@dataclass(frozen=True, slots=True)
class RemoveHead:
    """Remove a head; refused unless it is still `seen` (same file_id and version)."""

    seen: Head


@dataclass(frozen=True, slots=True)
class PutReplica:
    """Put a replica row (repeating it is harmless)."""

    replica: ChunkReplica


@dataclass(frozen=True, slots=True)
class RemoveReplica:
    """Remove a replica row (removing an absent one is harmless)."""

    file_id: str
    chunk_index: int
    node_id: str


@dataclass(frozen=True, slots=True)
class CheckReplica:
    """Refused unless the replica row exists."""

    file_id: str
    chunk_index: int
    node_id: str


@dataclass(frozen=True, slots=True)
class PutShort:
    """Mark a chunk as short of replicas (repeating it is harmless)."""

    file_id: str
    chunk_index: int
    at: int


@dataclass(frozen=True, slots=True)
class RemoveShort:
    """Clear the mark (clearing an absent one is harmless). With `at`, only the mark that was put then: refused
    when there is another by now (somebody found the chunk bad again), or none."""

    file_id: str
    chunk_index: int
    at: int | None = None


@dataclass(frozen=True, slots=True)
class PutOperation:
    """Record that operation `op_id` is done, with its `result` (small JSON object); refused when it
    is recorded already. Written in the same transaction as the work, this makes a delete or a move
    exactly-once: after it the path no longer leads to the file whose record could tell."""

    op_id: str
    result: dict[str, Any]
    at: int


Step = (
    PutFile
    | ChangeFile
    | CheckFile
    | RemoveFile
    | PutHead
    | RemoveHead
    | PutReplica
    | RemoveReplica
    | CheckReplica
    | PutShort
    | RemoveShort
    | PutOperation
)

_CHANGEABLE = {name.name for name in fields(FileRecord)} - {"file_id"}

MAX_STEPS = 100
"""Most steps of one transaction (DynamoDB's limit); no item twice."""


def item_of(step: Step) -> tuple[str | int, ...]:
    """The stored item that a step reads or writes."""
    match step:
        case PutFile(record):
            return "file", record.file_id
        case ChangeFile(file_id) | CheckFile(file_id) | RemoveFile(file_id):
            return "file", file_id
        case PutHead(head, _):
            return "head", head.bucket, head.path
        case RemoveHead(seen):
            return "head", seen.bucket, seen.path
        case PutReplica(replica):
            return "replica", replica.file_id, replica.chunk_index, replica.node_id
        case RemoveReplica(file_id, index, node_id) | CheckReplica(file_id, index, node_id):
            return "replica", file_id, index, node_id
        case PutShort(file_id, index) | RemoveShort(file_id, index):
            return "short", file_id, index
        case PutOperation(op_id):
            return "operation", op_id


def check_steps(steps: Sequence[Step]) -> None:
    """Raises ValueError unless there are 1 to MAX_STEPS steps, no item is named twice, and every
    ChangeFile changes something that a file record has."""
    if not 1 <= len(steps) <= MAX_STEPS:
        raise ValueError(f"a transaction has 1 to {MAX_STEPS} steps, not {len(steps)}")
    if len({item_of(step) for step in steps}) != len(steps):
        raise ValueError("a transaction names an item twice")
    for step in steps:
        if isinstance(step, ChangeFile) and not (step.changes and step.changes.keys() <= _CHANGEABLE):
            raise ValueError(f"a file record cannot be changed so: {step.changes!r}")
