"""Frozen values that cross layers.

Conventions: `file_id` is a canonical lower-case UUID4 string; checksums are lower-case hex SHA-256;
times are integer milliseconds since the epoch; sizes are bytes.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from dfs.errors import BadPath, BadRequest

DEFAULT_BUCKET = "default"
UPLOADS_BUCKET = "uploads"
MAX_PATH_BYTES = 1024
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}\Z")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_FILE_ID = re.compile(
    r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-4[0-9a-fA-F]{3}-[89abAB][0-9a-fA-F]{3}-[0-9a-fA-F]{12}\Z"
)
_SHA256 = re.compile(r"[0-9a-fA-F]{64}\Z")
_NODE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")


class FileState(StrEnum):
    """States of a file record. `committed` files have a head; `trashed` ones can come back."""

    UPLOADING = "uploading"
    COMMITTED = "committed"
    TRASHED = "trashed"
    DELETING = "deleting"


class AdminState(StrEnum):
    """What an operator wants of a node; written only by admin commands."""

    ACTIVE = "active"
    MAINTENANCE = "maintenance"
    DRAINING = "draining"
    DRAINED = "drained"
    DECOMMISSIONED = "decommissioned"


class Retired(StrEnum):
    """Why a file is in the trash: an operator or client deleted it, or other content took its path."""

    DELETED = "deleted"
    REPLACED = "replaced"


class NodeStatus(StrEnum):
    """What a node says of itself."""

    ACTIVE = "active"
    FULL = "full"
    READ_ONLY = "read_only"
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True)
class FileRecord:
    """The row that says a file exists.

    `sha256` of the whole content is None when the chunks came in separately (seed protocol, more
    than one chunk). `version` is 0 until the file is committed. `touched_at` is the last sign of
    life of an upload; for the other states the time of the last state change. `origin` is
    "bucket/path" as the upload named it (a move changes `path`, never `origin`), by which a repeat
    of the upload is told from another use of its id; `modified` is the time of the commit. Both
    are filled in by `dfs.metadata.operations`. `retired` says why a file is in the trash (a value of
    `Retired`), else it is empty.
    """

    file_id: str
    state: FileState
    bucket: str
    path: str
    size: int
    chunk_size: int
    chunk_count: int
    content_type: str
    sha256: str | None
    filename: str
    version: int
    created_at: int
    touched_at: int
    origin: str = ""
    modified: int = 0
    retired: str = ""


@dataclass(frozen=True, slots=True)
class ChunkReplica:
    """A replica row: `node_id` durably holds the chunk."""

    file_id: str
    chunk_index: int
    node_id: str
    checksum: str
    length: int
    replica_type: str
    created_at: int


@dataclass(frozen=True, slots=True)
class Head:
    """The row of a path: which file it shows now. All a listing needs."""

    bucket: str
    path: str
    file_id: str
    version: int
    size: int
    sha256: str | None
    content_type: str
    chunk_size: int
    chunk_count: int
    modified: int


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """A node's registry row.

    `admin_at` is when `admin_state` was last set, `admin_until` when a `maintenance` ends by itself (0: not
    set). `bad_chunks` is how many chunks the node knows to be bad on its disk, `scrubbed_at` the beginning of
    the last complete pass of its scrubber (0: none since the index was made).
    """

    node_id: str
    address: str
    port: int
    zone: str | None
    instance_id: str | None
    disk_id: str
    boot_id: str
    status: NodeStatus
    admin_state: AdminState
    heartbeat_seq: int
    heartbeat_ts: int
    free_bytes: int
    used_bytes: int
    capacity_bytes: int
    chunks: int
    version: str
    wire_version: int
    disk_format: int
    admin_at: int = 0
    admin_until: int = 0
    bad_chunks: int = 0
    scrubbed_at: int = 0

    def state_at(self, now_ms: int) -> AdminState:
        """The administrative state then: a `maintenance` that is over is `active`."""
        if self.admin_state is AdminState.MAINTENANCE and 0 < self.admin_until <= now_ms:
            return AdminState.ACTIVE
        return self.admin_state


@dataclass(frozen=True, slots=True)
class ClusterInfo:
    """The cluster's identity. A rebuild or restore raises `generation`."""

    cluster_id: str
    generation: int
    format: int


@dataclass(frozen=True, slots=True)
class Bucket:
    """A namespace of paths."""

    name: str
    created_at: int


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease row. `beat` changes with every renewal; `fence` grows with every change of owner."""

    name: str
    owner: str
    fence: int
    beat: int


@dataclass(frozen=True, slots=True)
class Document:
    """A small JSON object that all servers share (the state of repair, the last audit). `version` grows by
    one with every write."""

    name: str
    version: int
    value: dict[str, Any]


def new_file_id() -> str:
    """A fresh random file id."""
    return str(uuid.uuid4())


def parse_file_id(text: str) -> str:
    """`text` as a canonical file id; raises BadRequest when it is not a UUID4."""
    if not _FILE_ID.match(text):
        raise BadRequest(f"file_id must be a version 4 UUID, not {text[:80]!r}")
    return text.lower()


def is_file_id(text: str) -> bool:
    """Whether `text` is a version 4 UUID."""
    return bool(_FILE_ID.match(text))


def parse_sha256(text: str, name: str) -> str:
    """`text` as a lower-case SHA-256; raises BadRequest naming the field `name`."""
    if not _SHA256.match(text):
        raise BadRequest(f"{name} must be 64 hexadecimal digits, not {text[:80]!r}")
    return text.lower()


def is_node_id(text: str) -> bool:
    """Whether `text` may name a node."""
    return bool(_NODE_ID.match(text))


def check_bucket(name: str) -> str:
    """`name` if it may name a bucket; raises BadPath."""
    if not _BUCKET.match(name):
        raise BadPath(
            "a bucket name is 1 to 63 of a-z, 0-9, '.', '_' and '-', "
            f"beginning with a letter or digit, not {name[:80]!r}"
        )
    return name


def check_path(path: str) -> str:
    """`path` if it is a legal path (ARCHITECTURE, "Files"); raises BadPath saying why not."""
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        raise BadPath("a path must be valid UTF-8") from None
    if not 1 <= size <= MAX_PATH_BYTES:
        raise BadPath(f"a path has 1 to {MAX_PATH_BYTES} bytes, this one has {size}")
    if _CONTROL.search(path):
        raise BadPath("a path has no control characters")
    for segment in path.split("/"):
        if segment in ("", ".", ".."):
            raise BadPath("a path has no empty, '.' or '..' segments and no outer '/'")
    return path


def chunk_count(size: int, chunk_size: int) -> int:
    """Number of chunks of a file: 0 for an empty one."""
    return -(-size // chunk_size)


def chunk_length(size: int, chunk_size: int, index: int) -> int:
    """Length of chunk `index`; the last one may be short."""
    return min(chunk_size, size - index * chunk_size)
