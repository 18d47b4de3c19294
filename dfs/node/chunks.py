"""The calls about one chunk: store, get, verify, drop.

All that can refuse a store without its bytes (identity, parameters, standing, space) is checked
before the body is touched, so that a caller who waits for `100 Continue` sends nothing in vain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from dfs.errors import LengthMismatch, LengthRequired, NodeFull, PayloadTooLarge, StoreReadOnly
from dfs.model import parse_sha256
from dfs.node import parameters
from dfs.node.standing import Standing
from dfs.store.store import PIECE, ChunkReader, ChunkStore, StoredChunk
from dfs.wire.buffers import BufferPool
from dfs.wire.message import Request, Response

BUFFER_SECONDS = 4.0
"""Longest wait for memory before 503 busy: below the 5 s after which callers choose another node."""


class ChunkEndpoints:
    """Handlers of one node's chunk calls. `on_refused` is told when the disk refused a store."""

    def __init__(
        self,
        node_id: str,
        store: ChunkStore,
        standing: Standing,
        buffers: BufferPool,
        *,
        max_chunk_size: int,
        on_refused: Callable[[], None],
    ) -> None:
        self._node_id = node_id
        self._store = store
        self._standing = standing
        self._buffers = buffers
        self._max_chunk_size = max_chunk_size
        self._on_refused = on_refused

    def store(self, request: Request) -> Response:
        """PUT|POST /store-chunk: durable on this disk when the answer is 201."""
        file_id, chunk_index = parameters.chunk_key(request.query)
        parameters.replica_type(request.query)
        length = request.body.length
        if length is None or "Content-Length" not in request.headers:
            raise LengthRequired("a chunk must come with its Content-Length")
        if length > self._max_chunk_size:
            raise PayloadTooLarge(f"a chunk has at most {self._max_chunk_size} bytes here, this one has {length}")
        checksum = parameters.single_header(request.headers, "X-Chunk-Checksum")
        checksum = None if checksum is None else parse_sha256(checksum, "X-Chunk-Checksum")
        limit = parameters.SIZE_LIMIT
        chunk_size = parameters.header_number(request.headers, "X-Dfs-Chunk-Size", max(1, length), limit)
        file_size = parameters.header_number(request.headers, "X-Dfs-File-Size", length, limit)
        self._standing.check_takes_chunks()
        with self._buffers.acquire(length, BUFFER_SECONDS) as buffer:
            read = request.body.readfully(buffer.view)
            if read != length:
                raise LengthMismatch(f"the body ended after {read} of {length} bytes")
            stored = self.put(
                file_id, chunk_index, buffer.view, checksum, chunk_size or max(1, length), file_size
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
    ) -> StoredChunk:
        """Store verified bytes durably; a disk that refuses is reported to the registry at once."""
        try:
            return self._store.put(
                file_id, chunk_index, data, checksum=checksum, chunk_size=chunk_size, file_size=file_size
            )
        except (NodeFull, StoreReadOnly):
            self._on_refused()
            raise

    def stored(self, chunk: StoredChunk) -> Response:
        """The answer to a call that left `chunk` durably here."""
        return Response.json(
            201,
            {
                "node_id": self._node_id,
                "file_id": chunk.file_id,
                "chunk_index": chunk.chunk_index,
                "checksum": chunk.checksum,
                "length": chunk.length,
            },
        )

    def get(self, request: Request) -> Response:
        """GET /get-chunk: the bytes, each piece verified before it is sent."""
        file_id, chunk_index = parameters.chunk_key(request.query)
        reader = self._store.open_chunk(file_id, chunk_index)
        try:
            info = reader.info
            first, last = parameters.piece_range(request.headers, len(info.piece_crcs))
        except BaseException:
            reader.close()
            raise
        sent = info.piece_crcs[first : last + 1]
        headers = [
            ("Content-Type", "application/octet-stream"),
            ("X-Dfs-Node", self._node_id),
            ("X-Chunk-Checksum", info.checksum),
            ("X-Dfs-Chunk-Length", str(info.length)),
            ("X-Dfs-Piece-Crcs", "".join(f"{crc:08x}" for crc in sent)),
        ]
        length = min(info.length, (last + 1) * PIECE) - first * PIECE
        return Response(200, headers, PieceStream(reader, first, last), length)

    def verify(self, request: Request) -> Response:
        """POST /verify-chunk: re-read every byte from the disk."""
        chunk = self._store.verify(*parameters.chunk_key(request.query))
        return Response.json(200, {"checksum": chunk.checksum, "length": chunk.length})

    def drop(self, request: Request) -> Response:
        """POST /drop-replica: this replica goes, another may come back."""
        return Response.json(200, {"dropped": self._store.drop(*parameters.chunk_key(request.query))})


class PieceStream:
    """Pieces `first` to `last` of a chunk as the body of an answer; closes its reader."""

    def __init__(self, reader: ChunkReader, first: int, last: int) -> None:
        self._reader = reader
        self._first = first
        self._last = last

    def __iter__(self) -> Iterator[memoryview]:
        return self._reader.pieces(self._first, self._last) if self._last >= self._first else iter(())

    def close(self) -> None:
        """Let go of the volume file."""
        self._reader.close()
