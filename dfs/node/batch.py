"""The call about many small chunks: stored with one group commit, each for itself."""

from __future__ import annotations

import json

from dfs.chunkbatch import BATCH_BYTES, NewChunk, decode_batch
from dfs.errors import LengthMismatch, LengthRequired, NodeFull, PayloadTooLarge, StoreReadOnly
from dfs.node.chunks import BUFFER_SECONDS, Intake
from dfs.wire.message import Request, Response

_JSON = (("Content-Type", "application/json"),)


class BatchEndpoint:
    """The handler of POST /store-chunks."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    def store(self, request: Request) -> Response:
        """POST /store-chunks: what is not among the errors of the answer is durable on this disk."""
        length = request.body.length
        if length is None:
            raise LengthRequired("a batch of chunks must come with its Content-Length")
        # A node with little memory takes chunks one by one, which its settings promise to have room for.
        most = min(BATCH_BYTES, self._intake.buffers.total)
        if length > most:
            raise PayloadTooLarge(f"a batch has at most {most} bytes here, this one has {length}")
        self._intake.standing.check_takes_chunks()
        with self._intake.buffers.acquire(length, BUFFER_SECONDS) as buffer:
            read = request.body.readfully(buffer.view)
            if read != length:
                raise LengthMismatch(f"the body ended after {read} of {length} bytes")
            chunks = decode_batch(buffer.view)
            errors = self._put(chunks, request.request_id)
            count = len(chunks) - len(errors)
        said = json.dumps(errors, separators=(",", ":")) if errors else "{}"
        text = f'{{"node_id":"{self._intake.node_id}","stored":{count},"errors":{said}}}\n'
        return Response(200, _JSON, text.encode())

    def _put(self, chunks: list[NewChunk], request_id: str) -> dict[str, object]:
        """The errors, by the place in the batch."""
        errors: dict[str, object] = {}
        wanted = chunks
        if any(len(chunk.data) > self._intake.max_chunk_size for chunk in chunks):
            wanted = [chunk for chunk in chunks if len(chunk.data) <= self._intake.max_chunk_size]
        outcomes = iter(self._intake.store.put_many(wanted))
        refused = False
        for number, chunk in enumerate(chunks):
            outcome = (
                next(outcomes)
                if len(chunk.data) <= self._intake.max_chunk_size
                else PayloadTooLarge(f"a chunk has at most {self._intake.max_chunk_size} bytes here")
            )
            if outcome is not None:
                refused = refused or isinstance(outcome, (NodeFull, StoreReadOnly))
                errors[str(number)] = {"status": outcome.status} | outcome.payload(request_id)
        if refused:
            self._intake.on_refused()
        return errors
