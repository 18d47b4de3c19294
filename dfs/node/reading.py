"""GET /get-chunk: a chunk's bytes, with the checksums by which the caller can tell that they are right.

A caller that says so (`X-Dfs-Verify: caller`) checks every piece itself: then the bytes are sent as they
lie on the disk. Large ones go through one small buffer: read and send cost less processor time together
than sendfile, whose receiver copies page by page (measured on loopback, Linux 6).
"""

from __future__ import annotations

from collections.abc import Iterator

from dfs.node import parameters
from dfs.store.store import PIECE, ChunkReader, ChunkStore
from dfs.wire.message import Request, Response
from dfs.wire.scratch import ScratchPool

IDLE_BUFFERS = 32
"""Buffers of one piece that are kept for the next readers."""


class ReadEndpoint:
    """The handler, for one node."""

    def __init__(self, node_id: str, store: ChunkStore) -> None:
        self._node_id = node_id
        self._store = store
        self._scratch = ScratchPool(PIECE, IDLE_BUFFERS)

    def get(self, request: Request) -> Response:
        """The pieces asked for. What is wrong with the first of them is an error answer; a later one that
        is corrupt cuts the connection off."""
        file_id, chunk_index = parameters.chunk_key(request.query)
        by_caller = parameters.verified_by_caller(request.headers)
        reader = self._store.open_chunk(file_id, chunk_index, check=not by_caller)
        try:
            crcs = reader.piece_crcs
            first, last = parameters.piece_range(request.headers, len(crcs))
            headers = (
                ("Content-Type", "application/octet-stream"),
                ("X-Dfs-Node", self._node_id),
                ("X-Chunk-Checksum", reader.checksum),
                ("X-Dfs-Chunk-Length", str(reader.length)),
                ("X-Dfs-Piece-Crcs", "".join([f"{crc:08x}" for crc in crcs[first : last + 1]])),
            )
            body = reader.body
            if body is not None:  # in memory already, and verified unless the caller does that
                reader.close()
                return Response(200, headers, body)
            length = min(reader.length, (last + 1) * PIECE) - first * PIECE
            pieces: RawPieces | VerifiedPieces
            if by_caller:
                pieces = RawPieces(reader, first, last, self._scratch)
            else:
                pieces = VerifiedPieces(reader, first, last)
            return Response(200, headers, pieces, length)
        except BaseException:
            reader.close()
            raise


class VerifiedPieces:
    """Pieces `first` to `last` of a chunk as the body of an answer; closes its reader."""

    def __init__(self, reader: ChunkReader, first: int, last: int) -> None:
        self._reader = reader
        self._first = first
        self._last = last

    def __iter__(self) -> Iterator[memoryview]:
        return self._reader.pieces(self._first, self._last)

    def close(self) -> None:
        """Let go of the volume file."""
        self._reader.close()


class RawPieces:
    """The same, unverified. The buffer goes back to `scratch`."""

    def __init__(self, reader: ChunkReader, first: int, last: int, scratch: ScratchPool) -> None:
        self._reader = reader
        self._first = first
        self._last = last
        self._scratch = scratch
        self._buffer: memoryview | None = None

    def __iter__(self) -> Iterator[memoryview]:
        self._buffer = buffer = self._scratch.take()
        for number in range(self._first, self._last + 1):
            yield self._reader.fill(buffer, number)

    def close(self) -> None:
        """Let go of the volume file and the buffer, of which nothing is used any more."""
        self._reader.close()
        buffer, self._buffer = self._buffer, None
        if buffer is not None:
            self._scratch.give_back(buffer)
