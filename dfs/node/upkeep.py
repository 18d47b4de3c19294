"""The calls of background work: verify many chunks, list the bad ones, set one aside, scrub now, look at the row."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from dfs.errors import Busy, DfsError, Unavailable
from dfs.node import parameters
from dfs.node.registration import Registration
from dfs.node.scrub import Scrubber
from dfs.node.standing import Standing
from dfs.store.store import ChunkStore
from dfs.wire.message import Request, Response, parse_json_object

VERIFY_BODY = 64 * 1024
VERIFY_CALLS = 2
"""So many calls re-read chunks at once: more would only make the disk seek."""

VERIFY_SECONDS = 10.0
"""How long one call reads, and how long it waits for its turn: chunks not reached then are answered `busy`."""

LOOK_SECONDS = 4.0
MAX_LISTED = 10_000
MOST_MBPS = 10_000


class UpkeepEndpoints:
    """Handlers of one node's calls of background work."""

    def __init__(
        self,
        node_id: str,
        store: ChunkStore,
        standing: Standing,
        registration: Registration,
        scrubber: Scrubber,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._node_id = node_id
        self._store = store
        self._standing = standing
        self._registration = registration
        self._scrubber = scrubber
        self._clock = clock
        self._turns = threading.BoundedSemaphore(VERIFY_CALLS)

    def verify_many(self, request: Request) -> Response:
        """POST /verify-chunks: each chunk is read again from the disk; its checksum, or its error."""
        keys = parameters.chunk_keys(parse_json_object(request.body.read_all(VERIFY_BODY)))
        if not self._turns.acquire(timeout=VERIFY_SECONDS):
            raise Busy("too many chunks are being read again at once")
        try:
            until = self._clock() + VERIFY_SECONDS
            verdicts = [self._verdict(key, until if number else None) for number, key in enumerate(keys)]
        finally:
            self._turns.release()
        return Response.json(200, {"chunks": verdicts})

    def _verdict(self, key: tuple[str, int], until: float | None) -> dict[str, Any]:
        try:
            if until is not None and self._clock() >= until:
                raise Busy(f"not read within {VERIFY_SECONDS:g} s: ask again")
            chunk = self._store.verify(*key)
        except DfsError as error:
            return {"error": {"status": error.status, "code": error.code, "message": error.message}}
        return {"checksum": chunk.checksum, "length": chunk.length}

    def bad_chunks(self, request: Request) -> Response:
        """GET /bad-chunks: the chunks known to be bad on this disk, in order of their keys, a page at a time."""
        limit = parameters.number(request.query, "limit", 1000, 1, MAX_LISTED)
        chunks = self._store.upkeep.bad_chunks(parameters.after_key(request.query), limit)
        listed = [
            {
                "file_id": bad.file_id,
                "chunk_index": bad.chunk_index,
                "found_at": bad.found_at,
                "why": bad.why,
            }
            for bad in chunks
        ]
        last = chunks[-1] if len(chunks) == limit else None
        more = None if last is None else {"file_id": last.file_id, "chunk_index": last.chunk_index}
        return Response.json(200, {"chunks": listed, "next": more})

    def set_aside(self, request: Request) -> Response:
        """POST /set-aside-chunk: its record is kept in `set-aside/`, then the replica goes."""
        found = self._store.upkeep.set_aside(*parameters.chunk_key(request.query))
        return Response.json(200, {"set_aside": found})

    def scrub(self, request: Request) -> Response:
        """POST /scrub: read everything again, beginning now."""
        mbps = parameters.number(request.query, "mbps", 0, 1, MOST_MBPS)
        return Response.json(200, self._scrubber.begin(mbps or None))

    def look(self, _request: Request) -> Response:
        """POST /look: a heartbeat now, by which the node learns what operators want of it."""
        if not self._registration.beat_now(LOOK_SECONDS):
            raise Unavailable("the registry does not answer this node at the moment")
        return Response.json(200, {"node_id": self._node_id, "admin_state": self._standing.admin_state})
