"""Stand-ins for what the cluster layer stands on: a network of nodes, a registry, pools, clocks."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs, urlsplit

from dfs import errors
from dfs.chunkbatch import NewChunk, decode_batch
from dfs.cluster.calls import PIECE, NodeCalls
from dfs.cluster.membership import Membership
from dfs.cluster.view import MemberState, View
from dfs.metadata.contract import MetadataStore
from dfs.model import AdminState, ClusterInfo, NodeInfo, NodeStatus
from dfs.wire.client import BadAnswer, ConnectFailed, ConnectionLost, TransportError
from dfs.wire.deadline import Deadline
from dfs.wire.message import Headers

FILE = "3f0c1a52-0d3e-4c56-9a51-6f3c1d2e4b5a"
CLUSTER = ClusterInfo("c1", 1, 1)
GIB = 1 << 30


def info(node_id: str, *, zone: str | None = None, capacity: int = 100 * GIB, **changes: Any) -> NodeInfo:
    base = NodeInfo(
        node_id=node_id, address=f"{node_id}.test", port=8081, zone=zone, instance_id=None,
        disk_id=f"disk-{node_id}", boot_id="boot-1", status=NodeStatus.ACTIVE, admin_state=AdminState.ACTIVE,
        heartbeat_seq=1, heartbeat_ts=0, free_bytes=capacity, used_bytes=0, capacity_bytes=capacity, chunks=0,
        version="0", wire_version=1, disk_format=1,
    )  # fmt: skip
    return replace(base, **changes)


def view_of(*nodes: NodeInfo, epoch: int = 1) -> View:
    return View(epoch, [MemberState(node, alive=True, suspect=False) for node in nodes])


class Clock:
    """A clock that stands still unless told."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Inline(Executor):
    """Runs everything at once, in the caller's thread."""

    def __init__(self) -> None:
        self.closed = False

    def submit(self, call: Callable[..., Any], /, *args: Any, **named: Any) -> Future[Any]:
        if self.closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        future: Future[Any] = Future()
        future.set_result(call(*args, **named))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self.closed = True


class Never(Executor):
    """A pool so busy that it comes to nothing until `run` is called."""

    def __init__(self) -> None:
        self.queue: list[Callable[[], Any]] = []

    def submit(self, call: Callable[..., Any], /, *args: Any, **named: Any) -> Future[Any]:
        self.queue.append(lambda: call(*args, **named))
        return Future()

    def run(self) -> None:
        while self.queue:
            self.queue.pop(0)()


class Registry:
    """The registry's part of a MetadataStore: `nodes`, or `failure`."""

    def __init__(self, *nodes: NodeInfo) -> None:
        self.nodes = {node.node_id: node for node in nodes}
        self.failure: Exception | None = None
        self.reads = 0
        self.on_read: Callable[[], None] = lambda: None

    def list_nodes(self) -> list[NodeInfo]:
        self.reads += 1
        self.on_read()
        if self.failure is not None:
            raise self.failure
        return sorted(self.nodes.values(), key=lambda node: node.node_id)

    def change(self, node_id: str, **changes: Any) -> None:
        self.nodes[node_id] = replace(self.nodes[node_id], **changes)

    def beat(self, node_id: str) -> None:
        self.change(node_id, heartbeat_seq=self.nodes[node_id].heartbeat_seq + 1)

    def as_store(self) -> MetadataStore:
        store: Any = self
        return store  # type: ignore[no-any-return]


class Answer:
    """A ClientResponse. With `cut`, the connection breaks after that many bytes."""

    def __init__(
        self, status: int, body: bytes, headers: Sequence[tuple[str, str]] = (), *, cut: int | None = None
    ) -> None:
        self.status = status
        self.headers = Headers(headers)
        self._body = memoryview(body)
        self._cut = cut
        self._at = 0
        self.closed = False

    def readfully(self, view: memoryview) -> int:
        end = len(self._body) if self._cut is None else min(self._cut, len(self._body))
        count = min(len(view), end - self._at)
        if count < len(view) and self._cut is not None:
            raise ConnectionLost("reset")
        view[:count] = self._body[self._at : self._at + count]
        self._at += count
        return count

    def read(self, n: int = -1) -> bytes:
        buffer = bytearray(len(self._body) if n < 0 else n)
        return bytes(buffer[: self.readfully(memoryview(buffer))])

    def close(self) -> None:
        self.closed = True


def json_answer(status: int, payload: object) -> Answer:
    return Answer(status, json.dumps(payload).encode())


class FakeNode:
    """A node in memory. `trouble(method, path)` may return an answer, raise, or return None."""

    def __init__(self, node_id: str) -> None:
        self.node_id = node_id
        self.chunks: dict[tuple[str, int], bytes] = {}
        self.erased: set[str] = set()
        self.taken_notes: list[dict[str, Any]] = []
        self.calls: list[str] = []
        self.pieces_asked: list[str] = []
        self.batches: list[int] = []
        self.roles: list[str] = []
        self.down = False
        self.loses_answers = False
        self.cut: int | None = None
        self.flip: int | None = None
        self.trouble: Callable[[str, str], Answer | None] = lambda method, path: None

    def answer(self, method: str, target: str, headers: dict[str, str], body: bytes | None) -> Answer:
        parts = urlsplit(target)
        self.calls.append(parts.path)
        if self.down:
            raise ConnectFailed("refused")
        found = self.trouble(method, parts.path)
        if found is None:
            try:
                found = self._serve(parts.path, {k: v[0] for k, v in parse_qs(parts.query).items()}, headers, body)
            except errors.DfsError as error:
                found = json_answer(error.status, error.payload("r1"))
        if self.loses_answers:
            raise ConnectionLost("reset before the answer")
        return found

    def _serve(self, path: str, query: dict[str, str], headers: dict[str, str], body: bytes | None) -> Answer:
        if headers["X-Dfs-Node"] != self.node_id or headers["X-Dfs-Cluster"] != "c1":
            raise errors.WrongNode("not me")
        if path == "/healthz":
            return json_answer(200, {"role": "node", "node_id": self.node_id, "cluster_id": "c1"})
        payload = json.loads(body) if body and path in ("/erase-files", "/notes") else {}
        if path == "/erase-files":
            self.erased.update(payload["file_ids"])
            self.chunks = {key: data for key, data in self.chunks.items() if key[0] not in self.erased}
            return json_answer(200, {"erased": len(payload["file_ids"])})
        if path == "/notes":
            self.taken_notes.extend(payload["notes"])
            return json_answer(200, {"stored": len(payload["notes"])})
        if path == "/store-chunks":
            return self._store_many(decode_batch(body or b""))
        if path == "/inventory":
            return json_answer(200, {"chunks": [], "next": None})
        key = (query["file_id"], int(query["chunk_index"]))
        if path == "/store-chunk":
            return self._store(key, headers, body or b"")
        if path == "/drop-replica":
            return json_answer(200, {"dropped": self.chunks.pop(key, None) is not None})
        if key[0] in self.erased:
            raise errors.Gone("erased")
        if key not in self.chunks:
            raise errors.NotFound("no such chunk")
        data = self.chunks[key]
        if path == "/verify-chunk":
            return json_answer(200, {"checksum": sha(data), "length": len(data)})
        return self._get(data, headers)

    def _store(self, key: tuple[str, int], headers: dict[str, str], body: bytes) -> Answer:
        if key[0] in self.erased:
            raise errors.Gone("erased")
        if sha(body) != headers["X-Chunk-Checksum"]:
            raise errors.ChecksumMismatch("other bytes")
        if self.chunks.setdefault(key, body) != body:
            raise errors.ChunkConflict("other bytes are here")
        said = {"node_id": self.node_id, "file_id": key[0], "chunk_index": key[1]}
        return json_answer(201, said | {"checksum": sha(body), "length": len(body)})

    def _store_many(self, chunks: list[NewChunk]) -> Answer:
        """Each as if it had come alone: `trouble` is asked about it as a `/store-chunk`."""
        self.batches.append(len(chunks))
        refused: dict[str, Any] = {}
        for place, chunk in enumerate(chunks):
            assert zlib.crc32(chunk.data) == chunk.crc32
            self.calls.append("/store-chunk")
            self.roles.append(chunk.replica_type)
            found = self.trouble("PUT", "/store-chunk")
            try:
                if found is None:
                    headers = {"X-Chunk-Checksum": chunk.checksum}
                    found = self._store((chunk.file_id, chunk.chunk_index), headers, bytes(chunk.data))
            except errors.DfsError as error:
                found = json_answer(error.status, error.payload("r1"))
            if found.status != 201:
                refused[str(place)] = {"status": found.status, **json.loads(found.read())}
        stored = len(chunks) - len(refused)
        return json_answer(200, {"node_id": self.node_id, "stored": stored, "errors": refused})

    def _get(self, data: bytes, headers: dict[str, str]) -> Answer:
        self.pieces_asked.append(headers["X-Dfs-Pieces"])
        first, last = map(int, headers["X-Dfs-Pieces"].split("-"))
        pieces = [data[n * PIECE : (n + 1) * PIECE] for n in range(first, last + 1)]
        said = [
            ("X-Dfs-Node", self.node_id),
            ("X-Chunk-Checksum", sha(data)),
            ("X-Dfs-Chunk-Length", str(len(data))),
            ("X-Dfs-Piece-Crcs", "".join(f"{zlib.crc32(piece):08x}" for piece in pieces)),
        ]
        sent = bytearray(b"".join(pieces))
        if self.flip is not None:
            sent[self.flip] ^= 1
        return Answer(200, bytes(sent), said, cut=self.cut)


class Begun:
    """A BegunRequest."""

    def __init__(self) -> None:
        self.outcome: Answer | TransportError | None = None
        self.waited = False

    def answer(self) -> Any:
        self.waited = True
        if isinstance(self.outcome, TransportError):
            raise self.outcome
        return self.outcome

    def close(self) -> None:
        if not self.waited and isinstance(self.outcome, Answer):
            self.outcome.close()


class Network:
    """A Transport over FakeNodes, by their addresses. `place` moves a node to another's address."""

    def __init__(self, *node_ids: str) -> None:
        self.nodes = {node_id: FakeNode(node_id) for node_id in node_ids}
        self.at = {f"{node_id}.test": node for node_id, node in self.nodes.items()}
        self.answers: list[Answer] = []
        self.begun: list[Begun] = []
        self.idle = True

    def begin(self, host: str, port: int, target: str, **named: Any) -> Any:
        """Asks at once when a connection is `idle`; what comes of it is told when it is waited for."""
        if not self.idle:
            return None
        begun = Begun()
        try:
            begun.outcome = self.request(host, port, "GET", target, repeatable=True, **named)
        except TransportError as error:
            begun.outcome = error
        self.begun.append(begun)
        return begun

    def request(
        self,
        host: str,
        port: int,
        method: str,
        target: str,
        *,
        headers: Sequence[tuple[str, str]] = (),
        body: bytes | memoryview | None = None,
        length: int | None = None,
        deadline: Deadline,
        stall: float,
        repeatable: bool = False,
    ) -> Any:
        assert repeatable and (body is None or length == len(body))
        if host not in self.at:
            raise ConnectFailed("nothing listens there")
        answer = self.at[host].answer(method, target, dict(headers), None if body is None else bytes(body))
        self.answers.append(answer)
        return answer


class Cluster:
    """Nodes, registry, membership and calls that belong together; all of it in this thread."""

    def __init__(self, *node_ids: str, zones: Sequence[str | None] = (), timeout: float = 60.0) -> None:
        self.network = Network(*node_ids)
        zones = zones or [None] * len(node_ids)
        self.registry = Registry(*(info(name, zone=zone) for name, zone in zip(node_ids, zones, strict=True)))
        self.clock = Clock()
        self.calls = NodeCalls(self.network, "c1", 1.0)
        self.membership = Membership(
            self.registry.as_store(),
            CLUSTER,
            heartbeat_timeout=timeout,
            probe=self.calls.probe,
            clock=self.clock,
            probers=Inline(),
        )
        self.membership.refresh()

    def __getitem__(self, node_id: str) -> FakeNode:
        return self.network.nodes[node_id]

    def holders(self, index: int = 0) -> set[str]:
        return {name for name, node in self.network.nodes.items() if (FILE, index) in node.chunks}

    def suspects(self) -> set[str]:
        return {member.info.node_id for member in self.membership.view().members if member.suspect}


def sha(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()


def refuse(error: errors.DfsError, path: str) -> Callable[[str, str], Answer | None]:
    """Trouble: calls to `path` are answered with `error`."""
    return lambda method, called: json_answer(error.status, error.payload("r1")) if called == path else None


def garbage(*_: str) -> Answer:
    raise BadAnswer("not HTTP")
