"""The call about many small chunks: stored with one group commit, each for itself."""

from __future__ import annotations

import json
from collections.abc import Callable

from dfs.chunkbatch import BATCH_BYTES, NewChunk, decode_batch
from dfs.errors import LengthMismatch, LengthRequired, NodeFull, PayloadTooLarge, StoreReadOnly
from dfs.node.chunks import BUFFER_SECONDS
from dfs.node.standing import Standing
from dfs.store.store import ChunkStore
from dfs.wire.buffers import BufferPool
from dfs.wire.message import Request, Response

_JSON = (("Content-Type", "application/json"),)


class BatchEndpoint:
    """The handler of POST /store-chunks. `on_refused` is told when the disk refused a store."""

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
        """POST /store-chunks: what is not among the errors of the answer is durable on this disk."""
        length = request.body.length
        if length is None:
            raise LengthRequired("a batch of chunks must come with its Content-Length")
        # A node with little memory takes chunks one by one, which its settings promise to have room for.
        most = min(BATCH_BYTES, self._buffers.total)
        if length > most:
            raise PayloadTooLarge(f"a batch has at most {most} bytes here, this one has {length}")
        self._standing.check_takes_chunks()
        with self._buffers.acquire(length, BUFFER_SECONDS) as buffer:
            read = request.body.readfully(buffer.view)
            if read != length:
                raise LengthMismatch(f"the body ended after {read} of {length} bytes")
            chunks = decode_batch(buffer.view)
            errors = self._put(chunks, request.request_id)
            count = len(chunks) - len(errors)
        said = json.dumps(errors, separators=(",", ":")) if errors else "{}"
        text = f'{{"node_id":"{self._node_id}","stored":{count},"errors":{said}}}\n'
        return Response(200, _JSON, text.encode())

    def _put(self, chunks: list[NewChunk], request_id: str) -> dict[str, object]:
        """The errors, by the place in the batch."""
        errors: dict[str, object] = {}
        wanted = chunks
        if any(len(chunk.data) > self._max_chunk_size for chunk in chunks):
            wanted = [chunk for chunk in chunks if len(chunk.data) <= self._max_chunk_size]
        outcomes = iter(self._store.put_many(wanted))
        refused = False
        for number, chunk in enumerate(chunks):
            outcome = (
                next(outcomes)
                if len(chunk.data) <= self._max_chunk_size
                else PayloadTooLarge(f"a chunk has at most {self._max_chunk_size} bytes here")
            )
            if outcome is not None:
                refused = refused or isinstance(outcome, (NodeFull, StoreReadOnly))
                errors[str(number)] = {"status": outcome.status} | outcome.payload(request_id)
        if refused:
            self._on_refused()
        return errors
