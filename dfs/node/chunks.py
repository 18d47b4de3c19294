"""The calls about one chunk: store, verify, drop.

All that can refuse a store without its bytes (identity, parameters, standing, space) is checked
before the body is touched, so that a caller who waits for `100 Continue` sends nothing in vain.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass

from dfs.errors import (
    ChecksumMismatch,
    LengthMismatch,
    LengthRequired,
    NodeFull,
    PayloadTooLarge,
    StoreReadOnly,
)
from dfs.model import parse_sha256
from dfs.node import parameters
from dfs.node.standing import Standing
from dfs.store.store import PIECE, ChunkStore, StoredChunk
from dfs.wire.body import Body
from dfs.wire.buffers import BufferPool
from dfs.wire.message import Request, Response

_JSON = (("Content-Type", "application/json"),)
BUFFER_SECONDS = 4.0
"""Longest wait for memory before 503 busy: below the 5 s after which callers choose another node."""


@dataclass(frozen=True, slots=True)
class Intake:
    """What the calls that store chunks work with. `on_refused` is told when the disk refused a store."""

    node_id: str
    store: ChunkStore
    standing: Standing
    buffers: BufferPool
    max_chunk_size: int
    on_refused: Callable[[], None]


class ChunkEndpoints:
    """Handlers of one node's chunk calls."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    def store(self, request: Request) -> Response:
        """PUT|POST /store-chunk: durable on this disk when the answer is 201."""
        file_id, chunk_index = parameters.chunk_key(request.query)
        parameters.replica_type(request.query)
        length = request.body.length
        if length is None or "Content-Length" not in request.headers:
            raise LengthRequired("a chunk must come with its Content-Length")
        if length > self._intake.max_chunk_size:
            raise PayloadTooLarge(f"a chunk has at most {self._intake.max_chunk_size} bytes here, this one has {length}")
        checksum = parameters.single_header(request.headers, "X-Chunk-Checksum")
        checksum = None if checksum is None else parse_sha256(checksum, "X-Chunk-Checksum")
        limit = parameters.SIZE_LIMIT
        chunk_size = parameters.header_number(request.headers, "X-Dfs-Chunk-Size", max(1, length), limit)
        file_size = parameters.header_number(request.headers, "X-Dfs-File-Size", length, limit)
        crcs = parameters.piece_crcs(request.headers, length)
        self._intake.standing.check_takes_chunks()
        with self._intake.buffers.acquire(length, BUFFER_SECONDS) as buffer:
            receive(request.body, buffer.view, crcs)
            stored = self.put(
                file_id, chunk_index, buffer.view, checksum, chunk_size or max(1, length), file_size, crcs
            )
        return self.stored(stored)

    def put(
        self,
        file_id: str,
        chunk_index: int,
        data: memoryview,
        checksum: str | None,
        chunk_size: int,
        file_size: int | None,
        piece_crcs: tuple[int, ...] | None = None,
    ) -> StoredChunk:
        """Store bytes durably; a disk that refuses is reported to the registry at once. `piece_crcs`
        have been compared with the bytes (see `ChunkStore.put`)."""
        try:
            return self._intake.store.put(
                file_id,
                chunk_index,
                data,
                checksum=checksum,
                chunk_size=chunk_size,
                file_size=file_size,
                piece_crcs=piece_crcs,
            )
        except (NodeFull, StoreReadOnly):
            self._intake.on_refused()
            raise

    def stored(self, chunk: StoredChunk) -> Response:
        """The answer to a call that left `chunk` durably here."""
        text = (  # nothing in it needs escaping
            f'{{"node_id":"{self._intake.node_id}","file_id":"{chunk.file_id}","chunk_index":{chunk.chunk_index},'
            f'"checksum":"{chunk.checksum}","length":{chunk.length}}}\n'
        )
        return Response(201, _JSON, text.encode())

    def verify(self, request: Request) -> Response:
        """POST /verify-chunk: re-read every byte from the disk."""
        chunk = self._intake.store.verify(*parameters.chunk_key(request.query))
        return Response.json(200, {"checksum": chunk.checksum, "length": chunk.length})

    def drop(self, request: Request) -> Response:
        """POST /drop-replica: this replica goes, another may come back."""
        return Response.json(200, {"dropped": self._intake.store.drop(*parameters.chunk_key(request.query))})


def receive(body: Body, view: memoryview, crcs: tuple[int, ...] | None) -> None:
    """Fill `view`, comparing each piece with its CRC-32 while the processor has it at hand.

    Raises LengthMismatch and ChecksumMismatch."""
    at = 0
    for number in range(-(-len(view) // PIECE)):
        piece = view[at : at + PIECE]
        at += (count := body.readfully(piece))
        if count != len(piece):
            raise LengthMismatch(f"the body ended after {at} of {len(view)} bytes")
        if crcs is not None and zlib.crc32(piece) != crcs[number]:
            raise ChecksumMismatch(f"piece {number} does not have the CRC-32 that was declared")
