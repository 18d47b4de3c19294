"""Fetching one chunk through the API server."""

from __future__ import annotations

from dfs.api.requests import chunk_index_of, file_id_of
from dfs.api.service import Service
from dfs.cluster.read import PieceStream
from dfs.errors import BadIndex, NoReplica, NotFound
from dfs.model import is_node_id
from dfs.wire.message import Request, Response


def download_chunk(service: Service, request: Request) -> Response:
    """The chunk's bytes, verified; from the node that the plan named, or else from another."""
    file_id, index = file_id_of(request), chunk_index_of(request)
    hint = request.query.get("node_id")
    prefer = hint if hint is not None and is_node_id(hint) else None
    try:
        pieces = service.source.read(file_id, index, prefer=prefer)
    except NoReplica:
        _explain(service, file_id, index)
        raise
    try:
        length = service.source.length(file_id, index, prefer=prefer)
    except BaseException:
        pieces.close()
        raise
    return Response(200, _HEADERS, _body(pieces, length), length)


_HEADERS = (("Content-Type", "application/octet-stream"), ("X-Content-Type-Options", "nosniff"))


def _body(pieces: PieceStream, length: int) -> PieceStream | None:
    if length:
        return pieces
    pieces.close()
    return None


def _explain(service: Service, file_id: str, index: int) -> None:
    """Raise what is wrong with the question, if a chunk is not found because there is none."""
    shape = service.shapes.of(file_id)
    if index >= shape.chunk_count:
        raise BadIndex(f"chunk_index {index}: the file has {shape.chunk_count} chunks")
    if next(iter(service.store.replicas(file_id, index, index)), None) is None:
        raise NotFound(f"chunk {index} of {file_id} is not stored yet")
