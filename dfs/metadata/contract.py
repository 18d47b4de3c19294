"""The `MetadataStore` contract: what SQLite and DynamoDB both do, and nothing about files' rules.

A backend offers consistent reads, and `transact`: a short list of steps that all happen or none,
each conditional on the state it leaves. Every rule (commit, replace, delete, move, idempotence by
operation id) is written once above it, in `dfs.metadata.operations`, so both backends behave alike.

All reads are strongly consistent unless said otherwise. Every method may raise
`errors.Unavailable` (metadata cannot be reached; nothing was done) and those that write may raise
`OutcomeUnknown`.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar

from dfs.errors import Unknown
from dfs.metadata.steps import PutShort, Step
from dfs.model import (
    AdminState,
    Bucket,
    ChunkReplica,
    ClusterInfo,
    Document,
    FileRecord,
    Head,
    Lease,
    NodeInfo,
)


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


# --- the gc index ----------------------------------------------------------------------------------


class GcKind(StrEnum):
    """Partitions of the gc index: how background work finds rows without scanning."""

    UPLOADING = "uploading"
    DELETING = "deleting"
    TRASHED = "trashed"
    SHORT = "short"
    OPERATION = "op"


MOST_DOCUMENT_BYTES = 256 * 1024
"""Of a document as JSON: well below what one DynamoDB item may hold."""


def document_text(value: dict[str, Any]) -> str:
    """A document's value as it is stored; raises ValueError when it is too long."""
    text = json.dumps(value, separators=(",", ":"))
    if len(text) > MOST_DOCUMENT_BYTES:
        raise ValueError(f"a document has at most {MOST_DOCUMENT_BYTES} bytes, this one {len(text)}")
    return text


GC_SHARDS = "0123456789abcdef"
"""`uploading`, `deleting`, `short` and `op` are spread over 16 partitions by a hash of the id."""


@dataclass(frozen=True, slots=True)
class GcEntry:
    """An index entry. `key` orders entries of one partition and resumes a listing (`after`).

    `id` is a file_id (an op_id for OPERATION). `chunk_index` is set for SHORT only. `at` is the
    time in the key, ms: for TRASHED, whose keys begin with the path, when it came there. `path` (None
    when it is too long for a key), `version`, `retired` and `size` are set for TRASHED only.
    """

    partition: str
    key: str
    id: str
    at: int
    chunk_index: int | None = None
    path: str | None = None
    version: int = 0
    retired: str = ""
    size: int = 0


class MetadataStore(ABC):
    """See the module's text. Instances are thread-safe; make one per process, after any fork."""

    index_lag: ClassVar[float] = 0.0
    """Seconds by which `gc_entries` may, as a rule at most, lag behind what was written."""

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
    def set_admin_state(
        self, seen: NodeInfo, state: AdminState, *, at: int, until: int, guard: Document | None, guard_name: str
    ) -> bool:
        """Set a node's administrative state, `admin_at` and `admin_until`, in one write conditional on the
        row (its disk_id, admin_state, admin_at and admin_until as in `seen`) and on the document
        `guard_name` (still `guard`; None: absent), whose version is raised by the same write.

        So two operators who looked at the same cluster cannot both be granted what only one may have.
        False when either has changed: look again. Raises OutcomeUnknown."""

    @abstractmethod
    def forget_node(self, seen: NodeInfo) -> bool:
        """Remove the row of a decommissioned node; False unless it is `decommissioned` still, with the
        same disk_id and boot_id."""

    @abstractmethod
    def read_document(self, name: str) -> Document | None:
        """A shared document."""

    @abstractmethod
    def write_document(self, name: str, value: dict[str, Any], seen: Document | None) -> Document | None:
        """Put a document (at most 256 KiB as JSON; ValueError above), unless it is no longer `seen` (None:
        absent): then None. Raises OutcomeUnknown."""

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
    def scan_rows(self) -> Iterator[FileRecord | ChunkReplica]:
        """Every file record and every replica row, in no order and of no one moment, read page by page as the
        iterator is consumed. What is there from before to after the scan is found; what changes meanwhile
        may be found or not, or twice. For audits and rebuilds: reads the whole table."""

    @abstractmethod
    def node_chunks(
        self, node_id: str, *, after: tuple[str, int] | None = None, limit: int = 1000
    ) -> list[tuple[str, int]]:
        """(file_id, chunk_index) of rows naming the node, in some stable order; eventually
        consistent, for background work."""
