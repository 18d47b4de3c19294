"""The `MetadataStore` contract: what SQLite and DynamoDB both do, and nothing about files' rules.

A backend offers consistent reads, and `transact`: a short list of steps that all happen or none,
each conditional on the state it leaves. Every rule (commit, replace, delete, move, idempotence by
operation id) is written once above it, in `dfs.metadata.operations`, so both backends behave alike.

All reads are strongly consistent unless said otherwise. Every method may raise
`errors.Unavailable` (metadata cannot be reached; nothing was done) and those that write may raise
`OutcomeUnknown`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

from dfs.errors import Unknown
from dfs.model import Bucket, ChunkReplica, ClusterInfo, FileRecord, FileState, Head, Lease, NodeInfo


class StepsRefused(Exception):
    """A transaction was refused: some step's condition does not hold. Nothing was applied *by this
    attempt*; an earlier attempt whose answer was lost may have been (read your own record)."""


class OutcomeUnknown(Unknown):
    """The answer to a write was lost: it may have been applied, or may still be.

    An `errors.Unknown`, so that one that nobody resolves is answered as such; catch it before
    `errors.Unavailable`, which promises otherwise that nothing was done."""


class NodeConflict(Exception):
    """A registration or heartbeat was refused: the row belongs to another disk or a newer boot.

    `current` is the row as it stands (None when it has vanished)."""

    def __init__(self, message: str, current: NodeInfo | None) -> None:
        super().__init__(message)
        self.current = current


# --- steps of a transaction -------------------------------------------------------------------


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
    """Clear the mark (clearing an absent one is harmless)."""

    file_id: str
    chunk_index: int


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


# --- the gc index ----------------------------------------------------------------------------------


class GcKind(StrEnum):
    """Partitions of the gc index: how background work finds rows without scanning."""

    UPLOADING = "uploading"
    DELETING = "deleting"
    TRASHED = "trashed"
    SHORT = "short"
    OPERATION = "op"


GC_SHARDS = "0123456789abcdef"
"""`uploading`, `deleting`, `short` and `op` are spread over 16 partitions by a hash of the id."""


@dataclass(frozen=True, slots=True)
class GcEntry:
    """An index entry. `key` orders entries of one partition and resumes a listing (`after`).

    `id` is a file_id (an op_id for OPERATION). `chunk_index` is set for SHORT only. `at` is the
    time in the key, ms (for TRASHED the version). `path` is set for TRASHED only.
    """

    partition: str
    key: str
    id: str
    at: int
    chunk_index: int | None = None
    path: str | None = None


class MetadataStore(ABC):
    """See the module's text. Instances are thread-safe; make one per process, after any fork."""

    # --- cluster ---

    @abstractmethod
    def create(self, *, protect: bool = True) -> ClusterInfo:
        """Make tables, indexes and `cluster#info` where missing; wait until usable; idempotent.

        `protect` sets deletion protection where the backend has it. Raises errors.StartError."""

    @abstractmethod
    def cluster_info(self) -> ClusterInfo:
        """The cluster's identity; raises errors.StartError naming what is missing or wrong (the
        command `python -m dfs.admin create-tables` makes what is missing), Unavailable when metadata
        does not answer, which may pass."""

    @abstractmethod
    def ping(self) -> None:
        """One cheap consistent read; returns when metadata answers."""

    @abstractmethod
    def close(self) -> None:
        """Release connections. The instance is not used afterwards."""

    # --- registry ---

    @abstractmethod
    def register_node(self, node: NodeInfo) -> NodeInfo:
        """Put the node's row unless the row belongs to another `disk_id`; returns the row stored.

        `admin_state` of an existing row is kept (only admin commands write it). Raises NodeConflict.
        """

    @abstractmethod
    def heartbeat(self, node: NodeInfo) -> NodeInfo:
        """Update status, heartbeat and space fields, conditional on `disk_id` and `boot_id`;
        returns the row stored (with the operators' `admin_state`). Raises NodeConflict."""

    @abstractmethod
    def list_nodes(self) -> list[NodeInfo]:
        """All node rows, by node_id."""

    @abstractmethod
    def read_lease(self, name: str) -> Lease | None:
        """The lease row."""

    @abstractmethod
    def write_lease(self, new: Lease, seen: Lease | None) -> bool:
        """Compare-and-set of a lease row; False when it is no longer `seen`."""

    # --- buckets ---

    @abstractmethod
    def put_bucket(self, bucket: Bucket) -> bool:
        """Create a bucket; False when it existed."""

    @abstractmethod
    def list_buckets(self) -> list[Bucket]:
        """All buckets by name; `default` and `uploads` always exist (made by `create`)."""

    @abstractmethod
    def has_bucket(self, name: str) -> bool:
        """Whether the bucket exists."""

    # --- files ---

    @abstractmethod
    def transact(self, steps: Sequence[Step]) -> None:
        """All steps or none, durable when this returns.

        At most MAX_STEPS, no item twice (asserted). Raises StepsRefused, OutcomeUnknown.
        """

    def transact_on(
        self, bucket: str, path: str, build: Callable[[Head | None], Sequence[Step]]
    ) -> None:
        """`transact(build(head))` with the head that the path has now.

        A backend that can reads the head inside the transaction, which then cannot be refused for
        it. `build` must only compute: it may be called several times, in another thread, and what
        it raises is raised here, with nothing done. Raises like `get_head` and `transact`.
        """
        self.transact(build(self.get_head(bucket, path)))

    @abstractmethod
    def add_replicas(
        self, file_id: str, replicas: Sequence[ChunkReplica], short: Sequence[PutShort] = ()
    ) -> None:
        """Put replica rows (and short marks), conditional on the file being uploading, committed or
        trashed. Any number of rows; concurrent calls share transactions. Raises StepsRefused when
        the file is not there or is being deleted, OutcomeUnknown. Repeating is harmless."""

    @abstractmethod
    def get_file(self, file_id: str) -> FileRecord | None:
        """The file record."""

    @abstractmethod
    def get_head(self, bucket: str, path: str) -> Head | None:
        """The head of a path."""

    @abstractmethod
    def scan_heads(
        self, bucket: str, *, start: str, inclusive: bool, end: str | None, limit: int
    ) -> list[Head]:
        """Heads with path > start (>= if inclusive) and < end (None: no bound), in byte order of
        the path, at most `limit`; fewer only when there are no more."""

    @abstractmethod
    def replicas(self, file_id: str, first: int = 0, last: int | None = None) -> Iterator[ChunkReplica]:
        """Rows of chunks first..last inclusive (None: to the end), by (chunk_index, node_id),
        read page by page as the iterator is consumed."""

    @abstractmethod
    def replica(self, file_id: str, chunk_index: int, node_id: str) -> ChunkReplica | None:
        """One row."""

    @abstractmethod
    def operation(self, op_id: str) -> dict[str, Any] | None:
        """The recorded result of a done operation."""

    @abstractmethod
    def forget_operations(self, op_ids: Iterable[str]) -> None:
        """Remove operation records."""

    @abstractmethod
    def gc_partitions(self, kind: GcKind) -> list[str]:
        """The partitions of a kind (for TRASHED: one per bucket)."""

    @abstractmethod
    def gc_entries(
        self, partition: str, *, after: str | None = None, before: int | None = None, limit: int = 1000
    ) -> list[GcEntry]:
        """Entries of one partition in key order, eventually consistent: a hint to be checked by
        consistent reads. `before` (ms) bounds the time in the key, exclusive (not for TRASHED)."""

    @abstractmethod
    def node_chunks(
        self, node_id: str, *, after: tuple[str, int] | None = None, limit: int = 1000
    ) -> list[tuple[str, int]]:
        """(file_id, chunk_index) of rows naming the node, in some stable order; eventually
        consistent, for background work."""
