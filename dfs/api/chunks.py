"""Single chunks through the API server (the seed protocol's proxy calls).

A chunk's bytes are durable on nodes before its rows are written, and rows are written only while
the file is not being deleted.
"""

from __future__ import annotations

from dfs.api.intake import Intake, take_in
from dfs.api.memory import reserve
from dfs.api.requests import chunk_index_of, file_id_of
from dfs.api.rows import add_rows
from dfs.api.service import Service
from dfs.cluster.chunkcache import LARGEST
from dfs.errors import BadIndex, ChecksumMismatch, ChunkConflict, LengthMismatch, NoReplica, NotFound
from dfs.metadata.steps import PutShort
from dfs.model import chunk_length, is_node_id, parse_sha256
from dfs.wire.message import Request, Response

_HEADERS = (("Content-Type", "application/octet-stream"), ("X-Content-Type-Options", "nosniff"))


# --- up ------------------------------------------------------------------------------------------------


def upload_chunk(service: Service, request: Request) -> Response:
    """Store one chunk on its nodes; 201 once the strategy's replicas are durable and recorded."""
    file_id, index, hint = file_id_of(request), chunk_index_of(request), _hint(request)
    declared = request.headers.get("X-Chunk-Checksum")
    declared = None if declared is None else parse_sha256(declared, "X-Chunk-Checksum")
    shape = service.shapes.of(file_id)
    if index >= shape.chunk_count:
        raise BadIndex(f"chunk_index {index}: the file has {shape.chunk_count} chunks")
    length = chunk_length(shape.size, shape.chunk_size, index)
    if request.body.length is not None and request.body.length != length:
        raise LengthMismatch(f"chunk {index} has {length} bytes, not {request.body.length}")
    service.replicator.check_nodes()
    with reserve(service.buffers, length) as buffer:
        taken = _receive(request, buffer.view, index)
        checksum = taken.sha256.hexdigest()
        if declared is not None and declared != checksum:
            raise ChecksumMismatch(f"the chunk received has SHA-256 {checksum}, not the X-Chunk-Checksum declared")
        _compare_rows(service, file_id, index, checksum)
        now = service.now()
        data = bytes(buffer.view) if length <= LARGEST else buffer.view
        written = service.replicator.write(
            file_id,
            index,
            data,
            checksum=checksum,
            chunk_size=shape.chunk_size,
            file_size=shape.size,
            now_ms=now,
            prefer=hint,
            piece_crcs=taken.piece_crcs,
        )
    short = [PutShort(file_id, index, now)] if written.short else []
    add_rows(service.store, file_id, written.replicas, short)
    if isinstance(data, bytes):
        service.source.remember(file_id, index, checksum, data)
    if written.pending is not None:
        written.pending()
    return Response.text(201, f"Chunk {index} stored on node {written.replicas[0].node_id}")


def _hint(request: Request) -> str | None:
    hint = request.query.get("node_id")
    return hint if hint is not None and is_node_id(hint) else None


def _receive(request: Request, view: memoryview, index: int) -> Intake:
    """Read exactly the chunk. A body that is shorter or longer stores nothing."""
    taken = take_in(request.body, view)
    if taken.length < len(view):
        raise LengthMismatch(f"chunk {index} has {len(view)} bytes, not {taken.length}")
    if request.body.length is None and request.body.read(1):
        raise LengthMismatch(f"chunk {index} has {len(view)} bytes, not more")
    return taken


def _compare_rows(service: Service, file_id: str, index: int, checksum: str) -> None:
    """Raise ChunkConflict when the chunk is recorded with other bytes.

    The nodes compare too, but each only with what it holds itself, and a hint or a lost node leads
    elsewhere. (Of two first uploads at the same moment both may pass: finalize refuses then.)
    """
    if any(row.checksum != checksum for row in service.store.replicas(file_id, index, index)):
        raise ChunkConflict(f"chunk {index} is already stored with other bytes")


# --- down ----------------------------------------------------------------------------------------------


def download_chunk(service: Service, request: Request) -> Response:
    """The chunk's bytes, verified; from the node that the plan named, or else from another."""
    file_id, index, prefer = file_id_of(request), chunk_index_of(request), _hint(request)
    try:
        pieces = service.source.read(file_id, index, prefer=prefer)
    except NoReplica:
        _explain(service, file_id, index)
        raise
    if not pieces.length:
        pieces.close()
        raise BadIndex(f"chunk_index {index}: the file is empty and has no chunks")
    return Response(200, _HEADERS, pieces if pieces.whole is None else pieces.whole, pieces.length)


def _explain(service: Service, file_id: str, index: int) -> None:
    """Raise what is wrong with the question, if a chunk is not found because there is none."""
    shape = service.shapes.of(file_id)
    if index >= shape.chunk_count:
        raise BadIndex(f"chunk_index {index}: the file has {shape.chunk_count} chunks")
    if next(iter(service.store.replicas(file_id, index, index)), None) is None:
        raise NotFound(f"chunk {index} of {file_id} is not stored yet")
