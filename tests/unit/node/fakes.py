"""Stand-ins for what a node stands on: registry, store, bodies."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dfs.chunkbatch import NewChunk
from dfs.errors import ChecksumMismatch, DfsError, NodeFull, NotFound, StoreReadOnly
from dfs.metadata.contract import NodeConflict
from dfs.model import AdminState, ClusterInfo, NodeInfo, NodeStatus
from dfs.store.store import PIECE, StoredChunk, Usage
from dfs.wire.message import Headers, Request
from dfs.wire.target import Query

FILE_ID = "bd08c6c6-3b5d-4f28-a32a-2bab04d1aba5"
USAGE = Usage(free_bytes=900, used_bytes=100, capacity_bytes=1000, chunks=3, full=False, read_only_reason=None)
NODE = NodeInfo(
    node_id="n1", address="127.0.0.1", port=8081, zone=None, instance_id=None, disk_id="d1", boot_id="b1",
    status=NodeStatus.ACTIVE, admin_state=AdminState.ACTIVE, heartbeat_seq=0, heartbeat_ts=0, free_bytes=0,
    used_bytes=0, capacity_bytes=0, chunks=0, version="0", wire_version=1, disk_format=1,
)  # fmt: skip


class FakeRegistry:
    """The registry's part of a MetadataStore. `failures` are raised first, one a call."""

    def __init__(self) -> None:
        self.row: NodeInfo | None = None
        self.cluster_id = "c1"
        self.failures: list[Exception] = []
        self.calls: list[tuple[str, NodeInfo]] = []
        self.on_call: Callable[[], None] = lambda: None

    def _called(self, name: str, node: NodeInfo) -> None:
        self.calls.append((name, node))
        self.on_call()
        if self.failures:
            raise self.failures.pop(0)

    def cluster_info(self) -> ClusterInfo:
        return ClusterInfo(self.cluster_id, 1, 1)

    def register_node(self, node: NodeInfo) -> NodeInfo:
        self._called("register", node)
        if self.row is not None and self.row.disk_id != node.disk_id:
            raise NodeConflict("another disk", self.row)
        self.row = node if self.row is None else replace(node, admin_state=self.row.admin_state)
        return self.row

    def heartbeat(self, node: NodeInfo) -> NodeInfo:
        self._called("heartbeat", node)
        if self.row is None or (self.row.disk_id, self.row.boot_id) != (node.disk_id, node.boot_id):
            raise NodeConflict("not ours", self.row)
        self.row = replace(node, admin_state=self.row.admin_state)
        return self.row


@dataclass
class FakeReader:
    """What the store's open_chunk gives: a small chunk."""

    info: StoredChunk
    data: bytes
    closed: bool = False

    @property
    def body(self) -> memoryview:
        return memoryview(self.data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.info, name)

    def close(self) -> None:
        self.closed = True


@dataclass
class FakeStore:
    """A chunk store in memory. `refusal` is raised by the next put, `bad` by every verify."""

    space: Usage = USAGE
    data: dict[tuple[str, int], tuple[StoredChunk, bytes]] = field(default_factory=dict)
    refusal: Exception | None = None
    bad: Exception | None = None
    erased: list[str] = field(default_factory=list)
    noted: list[Mapping[str, Any]] = field(default_factory=list)
    reader: FakeReader | None = None

    def usage(self) -> Usage:
        return self.space

    def check_takes_chunks(self) -> None:
        if self.space.read_only_reason:
            raise StoreReadOnly(f"this node takes no writes: {self.space.read_only_reason}")
        if self.space.full:
            raise NodeFull("this node has no room beyond the reserve that deletes and compaction need")

    def put(
        self,
        file_id: str,
        chunk_index: int,
        data: Any,
        *,
        checksum: str | None,
        chunk_size: int,
        file_size: int | None,
        piece_crcs: tuple[int, ...] | None = None,
    ) -> StoredChunk:
        if self.refusal is not None:
            raise self.refusal
        content = bytes(data)
        found = hashlib.sha256(content).hexdigest() if piece_crcs is None or not checksum else checksum
        if checksum not in (None, found):
            raise ChecksumMismatch("other bytes")
        crcs = tuple(zlib.crc32(content[at : at + PIECE]) for at in range(0, len(content), PIECE))
        chunk = StoredChunk(
            file_id, chunk_index, len(content), found, chunk_size, file_size, len(self.data) + 1, 5, crcs
        )
        self.data[file_id, chunk_index] = chunk, content
        return chunk

    def put_many(self, chunks: Sequence[NewChunk]) -> list[DfsError | None]:
        outcomes: list[DfsError | None] = []
        for chunk in chunks:
            try:
                self.put(
                    chunk.file_id,
                    chunk.chunk_index,
                    chunk.data,
                    checksum=chunk.checksum,
                    chunk_size=chunk.chunk_size,
                    file_size=chunk.file_size,
                )
                outcomes.append(None)
            except DfsError as error:
                outcomes.append(error)
        return outcomes

    def stat(self, file_id: str, chunk_index: int) -> StoredChunk | None:
        found = self.data.get((file_id, chunk_index))
        return found and found[0]

    def verify(self, file_id: str, chunk_index: int) -> StoredChunk:
        if self.bad is not None:
            raise self.bad
        return self._find(file_id, chunk_index)[0]

    def open_chunk(self, file_id: str, chunk_index: int, *, check: bool = True) -> FakeReader:
        self.reader = FakeReader(*self._find(file_id, chunk_index))
        return self.reader

    def _find(self, file_id: str, chunk_index: int) -> tuple[StoredChunk, bytes]:
        try:
            return self.data[file_id, chunk_index]
        except KeyError:
            raise NotFound("no such chunk here") from None

    def drop(self, file_id: str, chunk_index: int) -> bool:
        return self.data.pop((file_id, chunk_index), None) is not None

    def erase(self, file_ids: Sequence[str]) -> None:
        self.erased.extend(file_ids)

    def note(self, notes: Sequence[Mapping[str, Any]]) -> None:
        self.noted.extend(notes)

    def inventory(self, after: int, limit: int) -> list[StoredChunk]:
        chunks = sorted((chunk for chunk, _ in self.data.values()), key=lambda chunk: chunk.sequence)
        return [chunk for chunk in chunks if chunk.sequence > after][:limit]


class FakeBody:
    """A request's body in memory; `length` None stands for a chunked one."""

    def __init__(self, data: bytes, length: int | None) -> None:
        self.data = data
        self.length = length
        self.started = False

    def readfully(self, view: memoryview) -> int:
        self.started = True
        count = min(len(view), len(self.data))
        view[:count] = self.data[:count]
        self.data = self.data[count:]
        return count

    def read_all(self, limit: int) -> bytes:
        assert len(self.data) <= limit
        self.started = True
        return self.data


def request(
    method: str,
    target: str,
    body: bytes = b"",
    headers: Sequence[tuple[str, str]] = (),
    *,
    chunked: bool = False,
    declared: int | None = None,
) -> Request:
    """A request as a handler sees it."""
    path, _, query = target.partition("?")
    length = None if chunked else len(body) if declared is None else declared
    framing = [] if chunked else [("Content-Length", str(length))]
    made: Any = FakeBody(body, length)
    return Request(method, target, path, Headers([*framing, *headers]), made, Query(query))
