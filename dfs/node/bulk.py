"""The calls about many chunks: erase files, take notes, list the inventory.

Their bodies and answers are the largest JSON a node handles, so only BULK_CALLS of them are in
memory at once; the others wait, and get 503 busy when that takes too long.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from dfs.errors import Busy
from dfs.node import parameters
from dfs.store.store import ChunkStore
from dfs.wire.message import Request, Response, parse_json_object

BULK_CALLS = 4
BULK_SECONDS = 4.0
"""Longest wait for a turn, seconds."""

ERASE_BODY = 64 * 1024
NOTES_BODY = 4 * 1024 * 1024
MAX_LISTED = 10_000


class BulkEndpoints:
    """Handlers of one node's calls about many chunks."""

    def __init__(self, store: ChunkStore) -> None:
        self._store = store
        self._turns = threading.BoundedSemaphore(BULK_CALLS)

    def erase(self, request: Request) -> Response:
        """POST /erase-files: every chunk of these files goes for ever; durable before the answer."""
        with self._turn():
            file_ids = parameters.file_ids(parse_json_object(request.body.read_all(ERASE_BODY)))
            self._store.erase(file_ids)
        return Response.json(200, {"erased": len(file_ids)})

    def notes(self, request: Request) -> Response:
        """POST /notes: keep what metadata said of files, for a rebuild; durable before the answer."""
        with self._turn():
            notes = parameters.notes(parse_json_object(request.body.read_all(NOTES_BODY)))
            self._store.note(notes)
        return Response.json(200, {"stored": len(notes)})

    def inventory(self, request: Request) -> Response:
        """GET /inventory: the chunks here in the order of their sequence, a page at a time."""
        after = parameters.number(request.query, "after", 0, 0, (1 << 63) - 1)
        limit = parameters.number(request.query, "limit", 1000, 1, MAX_LISTED)
        with self._turn():
            chunks = self._store.inventory(after, limit)
            listed = [
                {
                    "sequence": chunk.sequence,
                    "file_id": chunk.file_id,
                    "chunk_index": chunk.chunk_index,
                    "length": chunk.length,
                    "checksum": chunk.checksum,
                    "created": chunk.created,
                    "verified": chunk.verified,
                }
                for chunk in chunks
            ]
            more = chunks[-1].sequence if len(chunks) == limit else None
            return Response.json(200, {"chunks": listed, "next": more})

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if not self._turns.acquire(timeout=BULK_SECONDS):
            raise Busy("too many large calls at once")
        try:
            yield
        finally:
            self._turns.release()
