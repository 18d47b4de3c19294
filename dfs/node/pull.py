"""Pulling a chunk from another node onto this one, verified on arrival."""

from __future__ import annotations

import zlib
from urllib.parse import urlencode

from dfs.errors import ChecksumMismatch, CorruptChunk, DfsError, NoReplica, from_answer
from dfs.node import parameters
from dfs.node.chunks import BUFFER_SECONDS, ChunkEndpoints
from dfs.node.parameters import PullSource
from dfs.node.standing import Standing
from dfs.store.store import PIECE, ChunkStore, StoredChunk
from dfs.wire.buffers import BufferPool
from dfs.wire.client import ClientResponse, HttpClient, TransportError
from dfs.wire.deadline import Deadline
from dfs.wire.message import Request, Response, parse_json_object

PULL_BODY = 4096
PULL_SECONDS = 60.0
STALL_SECONDS = 5.0


class PullEndpoint:
    """The handler of POST /pull-chunk.

    Whatever is wrong with the source (not reachable, another node by now, no such chunk, other
    bytes) is 503 `no_replica` naming it: the caller tries another source. What is wrong here (no
    room, erased, other bytes stored) is answered as a store would be.
    """

    def __init__(
        self,
        cluster_id: str,
        chunks: ChunkEndpoints,
        store: ChunkStore,
        standing: Standing,
        buffers: BufferPool,
        http: HttpClient,
        *,
        max_chunk_size: int,
    ) -> None:
        self._cluster_id = cluster_id
        self._chunks = chunks
        self._store = store
        self._standing = standing
        self._buffers = buffers
        self._http = http
        self._max_chunk_size = max_chunk_size

    def pull(self, request: Request) -> Response:
        """POST /pull-chunk: 201 once the chunk is durable here; nothing is fetched if it is already."""
        file_id, chunk_index = parameters.chunk_key(request.query)
        source = PullSource.parse(parse_json_object(request.body.read_all(PULL_BODY)), self._max_chunk_size)
        self._standing.check_takes_chunks()
        stored = self._already_here(file_id, chunk_index, source)
        if stored is None:
            with self._buffers.acquire(source.length, BUFFER_SECONDS) as buffer:
                self._fetch(file_id, chunk_index, source, buffer.view)
                try:
                    stored = self._chunks.put(
                        file_id, chunk_index, buffer.view, source.checksum, source.chunk_size, source.file_size
                    )
                except ChecksumMismatch as error:
                    raise _bad_source(source, str(error)) from error
        return self._chunks.stored(stored)

    def _already_here(self, file_id: str, chunk_index: int, source: PullSource) -> StoredChunk | None:
        try:
            known = self._store.stat(file_id, chunk_index)
            if known is None or known.checksum != source.checksum:
                return None
            return self._store.verify(file_id, chunk_index)
        except CorruptChunk:
            return None  # the copy here is bad: fetching replaces it

    def _fetch(self, file_id: str, chunk_index: int, source: PullSource, view: memoryview) -> None:
        target = "/get-chunk?" + urlencode({"file_id": file_id, "chunk_index": chunk_index})
        headers = [("X-Dfs-Node", source.node_id), ("X-Dfs-Cluster", self._cluster_id)]
        try:
            with self._http.request(
                source.address,
                source.port,
                "GET",
                target,
                headers=headers,
                deadline=Deadline(PULL_SECONDS),
                stall=STALL_SECONDS,
                repeatable=True,
            ) as answer:
                _receive(answer, source, view)
        except TransportError as error:
            raise _bad_source(source, str(error)) from error


def _receive(answer: ClientResponse, source: PullSource, view: memoryview) -> None:
    """Read the chunk into `view`, checking every piece against its CRC as it arrives."""
    if answer.status != 200:
        raise _bad_source(source, str(_error_of(answer)))
    crcs = answer.headers.get("X-Dfs-Piece-Crcs", "") or ""
    checksum = answer.headers.get("X-Chunk-Checksum")
    if checksum != source.checksum or answer.length != source.length:
        raise _bad_source(source, f"it has {answer.length} bytes with checksum {checksum}")
    for number, start in enumerate(range(0, source.length, PIECE)):
        piece = view[start : start + PIECE]
        count = answer.readfully(piece)
        if count < len(piece):
            raise _bad_source(source, f"its answer ended after {start + count} of {source.length} bytes")
        if f"{zlib.crc32(piece):08x}" != crcs[8 * number : 8 * number + 8]:
            raise _bad_source(source, f"piece {number} does not have its CRC")


def _error_of(answer: ClientResponse) -> DfsError:
    try:
        payload = answer.read_json()
    except TransportError:
        payload = None  # not one of ours: the status has to do
    return from_answer(answer.status, payload)


def _bad_source(source: PullSource, what: str) -> NoReplica:
    return NoReplica(
        f"node {source.node_id} at {source.address}:{source.port} did not give the chunk: {what}",
        details={"source": source.node_id},
    )
