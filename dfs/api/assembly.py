"""Putting an API server together, and taking it apart: in an order in which nothing is used that
has not begun yet or has ended already."""

from __future__ import annotations

import dataclasses
import os
import socket
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TypeVar

from dfs import METADATA_FORMAT, __version__, logs, process
from dfs.api.app import routes
from dfs.api.known import Buckets, Shapes
from dfs.api.service import Service
from dfs.api.trash import retention_of
from dfs.cluster.batches import Batches
from dfs.cluster.calls import NodeCalls
from dfs.cluster.membership import Membership
from dfs.cluster.notes import NoteSender
from dfs.cluster.placement import Placement
from dfs.cluster.read import ChunkSource
from dfs.cluster.records import mark_short, record_late
from dfs.cluster.replicate import Replicator
from dfs.cluster.upkeep import UpkeepCalls
from dfs.errors import StartError, Unavailable
from dfs.metadata import open_metadata
from dfs.metadata.contract import MetadataStore, OutcomeUnknown
from dfs.metadata.lease import LeaseHolder
from dfs.model import ClusterInfo
from dfs.process import Interrupted, Lifetime
from dfs.repair import auditrunner
from dfs.repair.auditrunner import AuditRunner
from dfs.repair.eraser import Eraser
from dfs.repair.leader import LEASE, LEASE_SECONDS, Leader, Policy
from dfs.repair.nodelife import NodeLife, announcing
from dfs.repair.relief import Relief
from dfs.repair.trash import Trash
from dfs.settings import ApiSettings
from dfs.wire.balance import Seat
from dfs.wire.buffers import BufferPool
from dfs.wire.client import HttpClient
from dfs.wire.deadline import Deadline
from dfs.wire.limits import Limits
from dfs.wire.server import HttpServer

METADATA_SECONDS = 10.0
"""How long a start waits for metadata that does not answer."""

_RETRY_SECONDS = 0.5
_LEASE_SECONDS = 15.0
_LANES = 64
_CHUNK_CALLS = 64
_LATE_SECONDS = 5.0

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Place:
    """Where one of several processes serves: the socket they share, and its seat among them."""

    listener: socket.socket
    seat: Seat


def serve(settings: ApiSettings, lifetime: Lifetime, place: Place | None = None) -> None:
    """Run one API server until `lifetime` ends, alone or at its `place`. Raises StartError when it
    cannot start."""
    with ExitStack() as closing:
        store = open_metadata(settings)
        closing.callback(store.close)
        cluster = _patiently(store.cluster_info, lifetime)
        if cluster.format > METADATA_FORMAT:
            raise StartError(
                f"the metadata has format {cluster.format} and release {__version__} knows {METADATA_FORMAT}: "
                "start a newer release"
            )
        listener = open_listener(settings) if place is None else place.listener
        closing.callback(listener.close)
        service = assemble(settings, store, cluster, closing)
        server = make_server(service, listener, None if place is None else place.seat)
        closing.callback(server.close)
        server.on_fatal = lambda: lifetime.stop("the server no longer hears its connections (see the log)", exit_code=1)
        server.start()
        if place is None:
            tell(settings, cluster.cluster_id, server.port)
            lifetime.ready(port=server.port)
        else:
            lifetime.ready(port=server.port, cluster_id=cluster.cluster_id)
        lifetime.wait()
        if not server.drain(settings.drain_timeout):
            logs.warning("drain.cut", after_seconds=settings.drain_timeout)
    logs.event("api.stopped", reason=lifetime.reason)


def open_listener(settings: ApiSettings) -> socket.socket:
    """The socket to serve on: systemd's, else one of our own. Raises StartError."""
    return process.inherited_listener() or process.listen(
        settings.api_bind, settings.api_port, port_setting="DFS_API_PORT", bind_setting="DFS_API_BIND"
    )


def assemble(
    settings: ApiSettings, store: MetadataStore, cluster: ClusterInfo, closing: ExitStack
) -> Service:
    """The parts of a server, running; `closing` stops them in reverse order."""
    now = _now
    http = HttpClient(user_agent=f"dfs-api/{__version__}")
    closing.callback(http.close)
    calls = NodeCalls(http, cluster.cluster_id, settings.node_timeout)
    membership = Membership(store, cluster, heartbeat_timeout=settings.heartbeat_timeout, probe=calls.probe)
    closing.callback(membership.stop)
    placement = Placement()
    batches = Batches(calls, membership)
    closing.callback(batches.close)
    lanes = ThreadPoolExecutor(_LANES * max(1, settings.replication_factor - 1), thread_name_prefix="dfs-lane")
    closing.callback(lanes.shutdown)
    replicator = Replicator(
        membership,
        placement,
        calls,
        factor=settings.replication_factor,
        strategy=settings.replication_strategy,
        timeout=settings.replication_timeout,
        executor=lanes,
        on_late=record_late(store),
        batches=batches,
    )
    closing.callback(replicator.drain, _LATE_SECONDS)
    chunk_calls = ThreadPoolExecutor(_CHUNK_CALLS, thread_name_prefix="dfs-chunk")
    closing.callback(chunk_calls.shutdown)
    notes = NoteSender(membership, calls, store)
    closing.callback(notes.stop)
    repair = _leader(settings, store, cluster, membership, placement, calls)
    mark = mark_short(store, now)

    def on_bad(file_id: str, chunk_index: int) -> None:
        mark(file_id, chunk_index)
        repair.wake()

    source = ChunkSource(
        membership,
        calls,
        store,
        keep_rows=settings.delete_grace / 2,
        on_bad=on_bad,
        cache_bytes=settings.cache_bytes,
    )
    closing.callback(source.close)
    audit = AuditRunner(
        store,
        calls,
        LeaseHolder(store, auditrunner.LEASE, f"api-{uuid.uuid4()}", auditrunner.LEASE_SECONDS),
        factor=settings.replication_factor,
        settle=settings.delete_grace,
        by=f"{socket.gethostname()}:{os.getpid()}",
    )
    closing.callback(audit.stop)
    service = Service(
        settings=settings,
        cluster=cluster,
        store=store,
        membership=membership,
        placement=placement,
        calls=calls,
        replicator=replicator,
        source=source,
        notes=notes,
        buffers=BufferPool(settings.buffer_bytes, most_waiting=settings.max_workers * 3 // 4),
        chunk_calls=chunk_calls,
        buckets=Buckets(store),
        shapes=Shapes(store),
        audit=audit,
        nodelife=NodeLife(
            store,
            factor=settings.replication_factor,
            bytes_per_second=settings.repair_mbps * 1e6,
            view=membership.view,
            probe=calls.probe,
            changed=announcing(membership, UpkeepCalls(calls)),
            now_ms=now,
        ),
        repair=repair,
    )
    relief = Relief(store, membership, largest=settings.max_chunk_size, grace=settings.delete_grace)
    eraser = Eraser(
        store,
        membership,
        calls,
        LeaseHolder(store, "eraser", f"api-{uuid.uuid4()}", _LEASE_SECONDS),
        grace=settings.delete_grace,
        upload_ttl=settings.upload_ttl,
        interval=settings.erase_interval,
        trash=Trash(store, retention_of(settings), relief),
    )
    closing.callback(eraser.stop)
    closing.callback(repair.stop)
    membership.start()
    notes.start()
    eraser.start()
    repair.start()
    return service


def _leader(
    settings: ApiSettings,
    store: MetadataStore,
    cluster: ClusterInfo,
    membership: Membership,
    placement: Placement,
    calls: NodeCalls,
) -> Leader:
    """Repair, not started."""
    name = f"api-{uuid.uuid4()}"
    policy = Policy(
        factor=settings.replication_factor,
        delay=settings.repair_delay,
        interval=settings.repair_interval,
        upload_ttl=settings.upload_ttl,
        write_seconds=settings.replication_timeout,
        settle=settings.node_timeout,
    )
    lease = LeaseHolder(store, LEASE, name, LEASE_SECONDS)
    return Leader(
        store,
        cluster,
        membership,
        placement,
        calls,
        lease,
        name,
        policy,
        mbps=settings.repair_mbps,
        jobs=settings.repair_jobs,
    )


def make_server(service: Service, listener: socket.socket, seat: Seat | None = None) -> HttpServer:
    """The HTTP server on `listener`, not started."""
    settings = service.settings
    server = HttpServer(
        listener.getsockname()[:2],
        routes(service),
        limits=Limits(workers=settings.max_workers, connections=settings.max_connections),
        server_header=f"dfs-api/{__version__}",
        listening_socket=listener,
        seat=seat,
        access_log=settings.log_level == "debug",
    )
    server.add_pressure(lambda: service.buffers.waiting > 0)
    return server


def _patiently(ask: Callable[[], T], lifetime: Lifetime) -> T:
    """What `ask` answers, asked again for a while when metadata cannot be reached: a whole cluster
    may be starting at once. Raises StartError, Interrupted."""
    deadline = Deadline(METADATA_SECONDS)
    while True:
        try:
            return ask()
        except (Unavailable, OutcomeUnknown) as error:
            if deadline.expired():
                raise StartError(
                    f"metadata did not answer for {METADATA_SECONDS:g} s ({error}): check DFS_METADATA_URL, "
                    "AWS_REGION, AWS_ENDPOINT_URL, the credentials and the network"
                ) from error
            logs.warning("metadata.unreachable", error=error)
        if lifetime.wait(deadline.sooner(_RETRY_SECONDS)):
            raise Interrupted(lifetime.reason)


def tell(settings: ApiSettings, cluster_id: str, port: int) -> None:
    """The configuration in force, one line (as the seed's server shows it when it starts)."""
    values = {
        field.name: getattr(settings, field.name)
        for field in dataclasses.fields(settings)
        if getattr(settings, field.name) is not None
    }
    logs.event("api.configuration", cluster_id=cluster_id, **values)
    logs.event("api.serving", address=settings.api_bind, port=port, version=__version__)


def _now() -> int:
    return time.time_ns() // 1_000_000
