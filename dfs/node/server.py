"""A node from start to stop, step by step."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TypeVar

from dfs import DISK_FORMAT, METADATA_FORMAT, WIRE_VERSION, __version__, logs
from dfs.errors import StartError, Unavailable
from dfs.metadata import open_metadata
from dfs.metadata.contract import MetadataStore, OutcomeUnknown
from dfs.model import AdminState, ClusterInfo, NodeInfo, NodeStatus
from dfs.node import identity, imds, ports
from dfs.node.batch import BatchEndpoint
from dfs.node.bulk import BulkEndpoints
from dfs.node.chunks import ChunkEndpoints, Intake
from dfs.node.disk import open_disk
from dfs.node.fence import Fences
from dfs.node.health import HealthEndpoints
from dfs.node.identity import Whereabouts
from dfs.node.pull import PullEndpoint
from dfs.node.reading import ReadEndpoint
from dfs.node.registration import Registration
from dfs.node.routes import node_routes
from dfs.node.scrub import Scrubber
from dfs.node.standing import Standing
from dfs.node.upkeep import UpkeepEndpoints
from dfs.process import Interrupted, Lifetime
from dfs.settings import NodeSettings
from dfs.store.disk import OsDisk
from dfs.store.store import ChunkStore
from dfs.wire.buffers import BufferPool
from dfs.wire.client import HttpClient
from dfs.wire.deadline import Deadline
from dfs.wire.server import HttpServer, Limits

METADATA_SECONDS = 10.0
"""How long a start waits for metadata that does not answer."""

RETRY_SECONDS = 0.5

T = TypeVar("T")


def serve(settings: NodeSettings, lifetime: Lifetime) -> None:
    """Run one node until `lifetime` ends. Raises StartError with a sentence when it cannot start."""
    where = identity.locate(settings, lambda: imds.ask(settings.imds_endpoint))
    identity.warn_if_only_local(where.address, settings.metadata_url)
    with ExitStack() as closing:
        metadata = open_metadata(settings)
        closing.callback(metadata.close)
        cluster = patiently(metadata.cluster_info, lifetime)
        check_format(cluster)
        registered = patiently(metadata.list_nodes, lifetime)
        host = settings.node_bind or where.address
        bound = ports.choose(settings, host)
        closing.callback(bound.close)
        store = open_disk(settings, where, cluster, registered, on_fatal=_disk_failed(lifetime, where))
        closing.callback(store.close)
        listener = ports.open_for_calls(bound, settings, host)
        node = describe(where, store.identity.disk_id, listener.getsockname()[1], registered)
        fences = Fences(OsDisk(), str(where.data_dir))
        _run(settings, lifetime, metadata, cluster, node, store, fences, listener)
    logs.event("node.stopped", node_id=where.node_id, reason=lifetime.reason)


def _run(
    settings: NodeSettings,
    lifetime: Lifetime,
    metadata: MetadataStore,
    cluster: ClusterInfo,
    node: NodeInfo,
    store: ChunkStore,
    fences: Fences,
    listener: socket.socket,
) -> None:
    standing = Standing(store)
    registration = Registration(
        metadata,
        node,
        standing,
        cluster_id=cluster.cluster_id,
        interval=settings.heartbeat_interval,
        on_lost=lambda sentence: lifetime.stop(sentence, exit_code=1),
    )
    http = HttpClient(user_agent=f"dfs-node/{__version__}")
    scrubber = Scrubber(
        store,
        standing,
        mbps=settings.scrub_mbps,
        period=settings.scrub_period,
        busy=lambda: server.stats().get("busy", 0) > 0,
    )
    server = make_server(
        settings, cluster.cluster_id, store, standing, registration, scrubber, fences, http, listener
    )
    server.on_fatal = lambda: lifetime.stop("the server no longer hears its connections (see the log)", exit_code=1)
    try:
        scrubber.recall()
        server.start()  # before the row says so: whoever reads the row may call at once
        patiently(registration.register, lifetime)
        registration.start()
        store.start_maintenance()
        scrubber.start()
        logs.event("node.serving", node_id=node.node_id, address=node.address, port=node.port, disk_id=node.disk_id)
        lifetime.ready(port=node.port, node_id=node.node_id, address=node.address)
        lifetime.wait()
        standing.stopping = True
        registration.leave()
        if not server.drain(settings.drain_timeout):
            logs.warning("drain.cut", after_seconds=settings.drain_timeout)
    finally:
        scrubber.stop()
        server.close()
        http.close()


def make_server(
    settings: NodeSettings,
    cluster_id: str,
    store: ChunkStore,
    standing: Standing,
    registration: Registration,
    scrubber: Scrubber,
    fences: Fences,
    http: HttpClient,
    listener: socket.socket,
) -> HttpServer:
    """The node's HTTP server on `listener`, not started."""
    node_id, max_chunk_size = registration.node.node_id, settings.max_chunk_size
    buffers = BufferPool(settings.buffer_bytes, most_waiting=settings.max_workers * 3 // 4)
    intake = Intake(node_id, store, standing, buffers, max_chunk_size, on_refused=registration.look)
    chunks = ChunkEndpoints(intake)
    pull = PullEndpoint(cluster_id, chunks, store, standing, buffers, http, max_chunk_size=max_chunk_size)
    health = HealthEndpoints(cluster_id, registration, standing, scrubber)
    upkeep = UpkeepEndpoints(node_id, store, standing, registration, scrubber)
    server = HttpServer(
        listener.getsockname()[:2],
        node_routes(
            node_id,
            cluster_id,
            chunks,
            BatchEndpoint(intake),
            ReadEndpoint(node_id, store),
            pull,
            BulkEndpoints(store),
            upkeep,
            health,
            fences,
        ),
        limits=Limits(workers=settings.max_workers, connections=settings.max_connections),
        server_header=f"dfs-node/{__version__}",
        listening_socket=listener,
    )
    server.add_pressure(lambda: buffers.waiting > 0)
    return server


def patiently(ask: Callable[[], T], lifetime: Lifetime, seconds: float = METADATA_SECONDS) -> T:
    """What `ask` answers, asked again for up to `seconds` while metadata cannot be reached.

    Raises StartError when the time is over, Interrupted when a stop is asked for.
    """
    deadline = Deadline(seconds)
    said = False
    while True:
        try:
            return ask()
        except (Unavailable, OutcomeUnknown) as error:
            if deadline.expired():
                raise StartError(
                    f"metadata did not answer for {seconds:g} s ({error}): check DFS_METADATA_URL, AWS_REGION, "
                    "AWS_ENDPOINT_URL, the credentials and the network"
                ) from error
            if not said:
                logs.warning("metadata.unreachable", error=error, patience_seconds=seconds)
                said = True
        if lifetime.wait(deadline.sooner(RETRY_SECONDS)):
            raise Interrupted(lifetime.reason)


def check_format(cluster: ClusterInfo) -> None:
    """Raise StartError when the metadata is of a format that this release does not know."""
    if cluster.format > METADATA_FORMAT:
        raise StartError(
            f"the metadata has format {cluster.format} and release {__version__} knows {METADATA_FORMAT}: "
            "start a newer release"
        )


def describe(where: Whereabouts, disk_id: str, port: int, registered: Sequence[NodeInfo]) -> NodeInfo:
    """The row of this process, its space still to be filled in.

    `heartbeat_seq` goes on from the last process's, so that readers see it change.
    """
    before = next((row.heartbeat_seq for row in registered if row.node_id == where.node_id), 0)
    return NodeInfo(
        node_id=where.node_id,
        address=where.address,
        port=port,
        zone=where.zone,
        instance_id=where.instance_id,
        disk_id=disk_id,
        boot_id=str(uuid.uuid4()),
        status=NodeStatus.ACTIVE,
        admin_state=AdminState.ACTIVE,
        heartbeat_seq=before,
        heartbeat_ts=0,
        free_bytes=0,
        used_bytes=0,
        capacity_bytes=0,
        chunks=0,
        version=__version__,
        wire_version=WIRE_VERSION,
        disk_format=DISK_FORMAT,
    )


def _disk_failed(lifetime: Lifetime, where: Whereabouts) -> Callable[[str], None]:
    def stop(reason: str) -> None:
        lifetime.stop(f"the disk in {where.data_dir} failed ({reason}): replace it, or start again to try it", exit_code=1)

    return stop
