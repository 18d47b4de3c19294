"""The table of a node's endpoints, and the check that a call came to the right node."""

from __future__ import annotations

from dataclasses import replace

from dfs.errors import WrongNode
from dfs.node.batch import BatchEndpoint
from dfs.node.bulk import ERASE_BODY, NOTES_BODY, BulkEndpoints
from dfs.node.chunks import ChunkEndpoints
from dfs.node.fence import Fences
from dfs.node.health import HealthEndpoints
from dfs.node.pull import PULL_BODY, PullEndpoint
from dfs.node.reading import ReadEndpoint
from dfs.node.upkeep import VERIFY_BODY, UpkeepEndpoints
from dfs.wire.message import Headers, Request, Response
from dfs.wire.route import Handler, Route

FENCED = frozenset({"/pull-chunk", "/drop-replica", "/set-aside-chunk"})
"""Work done under a lease: refused to who has lost it."""


def node_routes(
    node_id: str,
    cluster_id: str,
    chunks: ChunkEndpoints,
    batch: BatchEndpoint,
    reading: ReadEndpoint,
    pull: PullEndpoint,
    bulk: BulkEndpoints,
    upkeep: UpkeepEndpoints,
    health: HealthEndpoints,
    fences: Fences,
) -> list[Route]:
    """Every endpoint of a node, each behind `check_addressee`; those in FENCED behind `fences` too."""
    table = [
        Route("PUT", "/store-chunk", chunks.store, None, "store", "store a chunk durably"),
        Route("POST", "/store-chunk", chunks.store, None, "store", "the same"),
        Route("POST", "/store-chunks", batch.store, None, "batch", "store many small chunks durably"),
        Route("GET", "/get-chunk", reading.get, 0, "get", "a chunk's bytes and their checksums"),
        Route("POST", "/verify-chunk", chunks.verify, 0, "verify", "re-read a chunk from the disk"),
        Route("POST", "/verify-chunks", upkeep.verify_many, VERIFY_BODY, "verify_many", "re-read many chunks"),
        Route("GET", "/bad-chunks", upkeep.bad_chunks, 0, "bad", "chunks known to be bad here, paged by key"),
        Route("POST", "/set-aside-chunk", upkeep.set_aside, 0, "set_aside", "keep a copy of the record, then drop"),
        Route("POST", "/scrub", upkeep.scrub, 0, "scrub", "re-read everything, beginning now"),
        Route("POST", "/look", upkeep.look, 0, "look", "learn what operators want of this node, now"),
        Route("POST", "/drop-replica", chunks.drop, 0, "drop", "remove this replica; it may come back"),
        Route("POST", "/pull-chunk", pull.pull, PULL_BODY, "pull", "fetch a chunk from another node and store it"),
        Route("POST", "/erase-files", bulk.erase, ERASE_BODY, "erase", "remove files for ever"),
        Route("POST", "/notes", bulk.notes, NOTES_BODY, "notes", "keep notes of what metadata says"),
        Route("GET", "/inventory", bulk.inventory, 0, "inventory", "chunks here, paged by sequence"),
        Route("GET", "/healthz", health.healthz, 0, "healthz", "what this process is"),
        Route("GET", "/readyz", health.readyz, 0, "readyz", "whether it takes requests"),
    ]
    return [
        replace(
            route,
            handler=_for(node_id, cluster_id, fences if route.pattern in FENCED else None, route.handler),
        )
        for route in table
    ]


def check_addressee(headers: Headers, node_id: str, cluster_id: str) -> None:
    """Raise WrongNode when the call names another node or cluster; one that names none is taken."""
    for name, ours in (("X-Dfs-Node", node_id), ("X-Dfs-Cluster", cluster_id)):
        meant = [value for value in headers.get_all(name) if value != ours]
        if meant:
            raise WrongNode(
                f"this is {ours!r}, and {name} asks for {meant[0][:80]!r}: read the registry again",
                details={"node_id": node_id},
            )


def _for(node_id: str, cluster_id: str, fences: Fences | None, handler: Handler) -> Handler:
    def handle(request: Request) -> Response:
        check_addressee(request.headers, node_id, cluster_id)
        if fences is not None:
            fences.check(request.headers)
        return handler(request)

    return handle
