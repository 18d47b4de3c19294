"""What the handlers of one API server work with."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from dfs.api.known import Buckets, Shapes
from dfs.cluster.calls import NodeCalls
from dfs.cluster.membership import Membership
from dfs.cluster.notes import NoteSender
from dfs.cluster.placement import Placement
from dfs.cluster.read import ChunkSource
from dfs.cluster.replicate import Replicator
from dfs.metadata.contract import MetadataStore
from dfs.model import ClusterInfo
from dfs.repair.auditrunner import AuditRunner
from dfs.repair.leader import Leader
from dfs.repair.nodelife import NodeLife
from dfs.settings import ApiSettings
from dfs.wire.buffers import BufferPool


@dataclass(frozen=True)
class Service:
    """The parts, put together by `assembly`; it owns none of them."""

    settings: ApiSettings
    cluster: ClusterInfo
    store: MetadataStore
    membership: Membership
    placement: Placement
    calls: NodeCalls
    replicator: Replicator
    source: ChunkSource
    notes: NoteSender
    buffers: BufferPool
    chunk_calls: ThreadPoolExecutor
    buckets: Buckets
    shapes: Shapes
    audit: AuditRunner
    nodelife: NodeLife
    repair: Leader

    @property
    def required_copies(self) -> int:
        """Durable replicas without which a chunk does not count as stored."""
        return self.replicator.required

    def now(self) -> int:
        """Milliseconds since the epoch."""
        return time.time_ns() // 1_000_000
