"""A storage node without a disk, and an API server in this process over several of them.

For tests of the API alone: what nodes hold can be looked at and spoiled, and a node can be made to
fail in a chosen way. Real nodes are tested by the cluster tests.
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from dfs import DISK_FORMAT, WIRE_VERSION, process
from dfs.api.assembly import assemble, make_server
from dfs.api.service import Service
from dfs.chunkbatch import BATCH_BYTES, decode_batch
from dfs.errors import (
    ChecksumMismatch,
    ChunkConflict,
    DfsError,
    Gone,
    NotFound,
)
from dfs.metadata.contract import MetadataStore
from dfs.metadata.sqlite import SqliteStore
from dfs.model import AdminState, NodeInfo, NodeStatus
from dfs.notation import MIB
from dfs.settings import ApiSettings
from dfs.wire.client import HttpClient
from dfs.wire.message import Request, Response, parse_json_object
from dfs.wire.route import Route
from dfs.wire.server import HttpServer
from tests.support.caller import Caller
from tests.support.memory_upkeep import PIECE, Key, MemoryUpkeep, key_of

QUIET_SETTINGS: dict[str, Any] = {
    "api_port": 0,
    "heartbeat_timeout": 600.0,
    "heartbeat_interval": 60.0,
    "node_timeout": 5.0,
    "chunk_size": 64 * 1024,
    "erase_interval": 3600.0,
    "repair_interval": 3600.0,
    "cache_bytes": 0,  # tests spoil what nodes hold and want to see it; those of the cache turn it on
}
"""Of a server in which nothing happens by itself while a test looks on."""


class MemoryNode(MemoryUpkeep):
    """Chunks in a dict, served like a node serves them. `before` is called with each request first,
    `after` when it has been carried out; both may raise or wait."""

    def __init__(self, node_id: str, cluster_id: str) -> None:
        super().__init__(node_id)
        self._cluster_id = cluster_id
        self.noted: list[dict[str, Any]] = []
        self.before: Callable[[Request], None] = lambda request: None
        self.after: Callable[[Request], None] = lambda request: None
        self.server = self._serve(0)
        self.port = self.server.port

    def _serve(self, port: int) -> HttpServer:
        table: list[tuple[str, str, Callable[[Request], Response], int | None]] = [
            ("PUT", "/store-chunk", self._store, None),
            ("POST", "/store-chunks", self._store_many, BATCH_BYTES),
            ("GET", "/get-chunk", self._get, 0),
            ("POST", "/drop-replica", self._drop, 0),
            ("POST", "/pull-chunk", self._pull, 4096),
            ("POST", "/verify-chunk", self._verify_one, 0),
            ("POST", "/verify-chunks", self._verify_many, 64 * 1024),
            ("POST", "/set-aside-chunk", self._set_aside, 0),
            ("GET", "/bad-chunks", self._bad_chunks, 0),
            ("GET", "/inventory", self._inventory, 0),
            ("POST", "/look", self._look, 0),
            ("POST", "/erase-files", self._erase, MIB),
            ("POST", "/notes", self._notes, 4 * MIB),
            ("GET", "/healthz", self._healthz, 0),
        ]
        routes = [Route(method, path, self._hooked(handler), limit) for method, path, handler, limit in table]
        server = HttpServer(("127.0.0.1", port), routes)
        server.start()
        return server

    def _hooked(self, handler: Callable[[Request], Response]) -> Callable[[Request], Response]:
        def handle(request: Request) -> Response:
            self.before(request)
            response = handler(request)
            self.after(request)
            return response

        return handle

    def info(self) -> NodeInfo:
        return NodeInfo(
            node_id=self.node_id,
            address="127.0.0.1",
            port=self.port,
            zone=None,
            instance_id=None,
            disk_id=self.node_id,
            boot_id=str(uuid.uuid4()),
            status=NodeStatus.ACTIVE,
            admin_state=AdminState.ACTIVE,
            heartbeat_seq=1,
            heartbeat_ts=1,
            free_bytes=1 << 40,
            used_bytes=0,
            capacity_bytes=1 << 40,
            chunks=0,
            version="0",
            wire_version=WIRE_VERSION,
            disk_format=DISK_FORMAT,
        )

    def kill(self) -> None:
        """Refuse connections from now on."""
        self.server.close()
        self._http.close()

    def revive(self) -> None:
        """Serve again, on the same port."""
        self._http = HttpClient()
        self.server = self._serve(self.port)

    def _store(self, request: Request) -> Response:
        key = key_of(request)
        data = request.body.read(64 * MIB)
        checksum = hashlib.sha256(data).hexdigest()
        self._keep(key, data, (request.headers.get("X-Chunk-Checksum") or checksum).lower())
        answer = {"node_id": self.node_id, "file_id": key[0], "chunk_index": key[1]}
        return Response.json(201, answer | {"checksum": checksum, "length": len(data)})

    def _store_many(self, request: Request) -> Response:
        refused: dict[str, Any] = {}
        chunks = decode_batch(request.body.read_all(BATCH_BYTES))
        for place, chunk in enumerate(chunks):
            try:
                if zlib.crc32(chunk.data) != chunk.crc32:
                    raise ChecksumMismatch("other bytes arrived")
                self._keep((chunk.file_id, chunk.chunk_index), bytes(chunk.data), chunk.checksum)
            except DfsError as error:
                refused[str(place)] = {"status": error.status, **error.payload("r1")}
        stored = len(chunks) - len(refused)
        return Response.json(200, {"node_id": self.node_id, "stored": stored, "errors": refused})

    def _keep(self, key: Key, data: bytes, checksum: str) -> None:
        if hashlib.sha256(data).hexdigest() != checksum:
            raise ChecksumMismatch("other bytes arrived")
        with self.lock:
            if key[0] in self.erased:
                raise Gone("erased")
            if self.sums.get(key, checksum) != checksum:
                raise ChunkConflict("other bytes are stored")
            if key not in self.chunks or key in self.corrupt:
                self.sequences[key] = max(self.sequences.values(), default=0) + 1
                self.verified.pop(key, None)
                # Were it old, the rule for records without a row would take it before its row is put.
                self.created[key] = time.time_ns() // 1_000_000
            self.chunks[key] = data
            self.sums[key] = checksum
            self.corrupt.discard(key)

    def _get(self, request: Request) -> Response:
        key = key_of(request)
        data = self.chunks.get(key)
        if data is None:
            raise NotFound("no such chunk")
        first, last = map(int, (request.headers.get("X-Dfs-Pieces") or "").split("-"))
        part = data[first * PIECE : (last + 1) * PIECE]
        crcs = [zlib.crc32(part[at : at + PIECE]) for at in range(0, len(part), PIECE)]
        headers = [
            ("X-Chunk-Checksum", self.sums[key]),
            ("X-Dfs-Chunk-Length", str(len(data))),
            ("X-Dfs-Piece-Crcs", "".join(f"{crc:08x}" for crc in crcs)),
            ("X-Dfs-Node", self.node_id),
        ]
        return Response(200, headers, part)

    def _drop(self, request: Request) -> Response:
        self._check_fence(request)
        return Response.json(200, {"dropped": self._forget(key_of(request)) is not None})

    def _erase(self, request: Request) -> Response:
        file_ids = set(parse_json_object(request.body.read_all(MIB))["file_ids"])
        with self.lock:
            self.erased |= file_ids
            gone = [key for key in self.chunks if key[0] in file_ids]
        for key in gone:
            self._forget(key)
        return Response.json(200, {"erased": len(file_ids)})

    def _notes(self, request: Request) -> Response:
        notes = parse_json_object(request.body.read_all(4 * MIB))["notes"]
        self.noted += notes
        return Response.json(200, {"stored": len(notes)})

    def _healthz(self, request: Request) -> Response:
        return Response.json(200, {"node_id": self.node_id, "cluster_id": self._cluster_id})


class LocalApi:
    """An API server of this process over SQLite and memory nodes. Use as a context manager.

    `open_store` and `make_node` let a test put something else in the place of either."""

    def __init__(
        self,
        directory: Path,
        *,
        nodes: int = 3,
        open_store: Callable[[str], MetadataStore] = SqliteStore,
        make_node: Callable[[str, str], MemoryNode] = MemoryNode,
        **settings: Any,
    ) -> None:
        url = {"metadata_url": f"sqlite:///{directory / 'metadata.sqlite'}"}
        self.settings = ApiSettings(**(QUIET_SETTINGS | url | settings))
        self._closing = ExitStack()
        store = open_store(str(directory / "metadata.sqlite"))
        self._closing.callback(store.close)
        cluster = store.create()
        self.nodes = [make_node(f"node{number}", cluster.cluster_id) for number in range(1, nodes + 1)]
        for node in self.nodes:
            self._closing.callback(node.kill)
            store.register_node(node.info())
        self.store = store
        self.service: Service = assemble(self.settings, store, cluster, self._closing)
        listener = process.listen("127.0.0.1", 0, port_setting="DFS_API_PORT", bind_setting="DFS_API_BIND")
        self.server = make_server(self.service, listener)
        self._closing.callback(self.server.close)
        self.server.start()
        self.port = self.server.port
        self._callers: list[Caller] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for caller in self._callers:
            caller.close()
        self._closing.close()

    def caller(self) -> Caller:
        caller = Caller(self.port)
        self._callers.append(caller)
        return caller

    def node(self, node_id: str) -> MemoryNode:
        return next(node for node in self.nodes if node.node_id == node_id)

    def holders(self, file_id: str, index: int = 0) -> list[MemoryNode]:
        """Nodes that hold the chunk."""
        return [node for node in self.nodes if (file_id, index) in node.chunks]

    def stored(self) -> set[str]:
        """Ids of all files of which some node holds bytes."""
        return {key[0] for node in self.nodes for key in node.chunks}

    def erase_now(self) -> None:
        """Have the eraser run as if everything were due."""
        from dfs.cluster.calls import NodeCalls
        from dfs.metadata.lease import LeaseHolder
        from dfs.repair.eraser import Eraser

        http = HttpClient()
        calls = NodeCalls(http, self.service.cluster.cluster_id, 5.0)
        lease = LeaseHolder(self.store, "eraser", str(uuid.uuid4()), 60.0)
        eraser = Eraser(
            self.store, self.service.membership, calls, lease, grace=0.0, upload_ttl=3600.0, interval=3600.0
        )
        later = self.service.now() + 60_000
        for _ in range(3):
            assert eraser.run_once(later).finished
        http.close()


def settle(api: LocalApi) -> None:
    """Every buffer of the server is back in its pool."""
    assert api.service.buffers.free_bytes == -(-api.settings.buffer_bytes // 64) * 64
    assert api.service.buffers.waiting == 0


def post(caller: Caller, target: str, value: dict[str, Any], **headers: str) -> Any:
    return caller.call("POST", target, json.dumps(value).encode(), **headers)


def slices(data: bytes, size: int) -> Iterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]
