"""Where the chunks of a simulated cluster lie: the real placement, group by group."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from dfs.cluster.placement import GROUPS, Placement, group_of
from dfs.cluster.view import MemberState, View
from dfs.model import AdminState, NodeInfo, NodeStatus

GIB = 1 << 30


def nodes_of(count: int, zones: int, capacities: Sequence[int] = (100 * GIB,)) -> list[NodeInfo]:
    """Nodes in turn in each zone; capacities are dealt out in turn to the nodes of each zone."""
    return [
        NodeInfo(
            node_id=f"node{number:04d}",
            address="192.0.2.1",
            port=8081,
            zone=f"zone{number % zones}",
            instance_id=None,
            disk_id=f"disk{number}",
            boot_id="boot",
            status=NodeStatus.ACTIVE,
            admin_state=AdminState.ACTIVE,
            heartbeat_seq=1,
            heartbeat_ts=0,
            free_bytes=(capacity := capacities[number // zones % len(capacities)]),
            used_bytes=0,
            capacity_bytes=capacity,
            chunks=0,
            version="sim",
            wire_version=1,
            disk_format=1,
        )
        for number in range(count)
    ]


class Places:
    """The preference orders of all groups over the nodes that live. Node ids only."""

    def __init__(self, nodes: Sequence[NodeInfo]) -> None:
        self.nodes = list(nodes)
        self.zones = {node.node_id: node.zone for node in nodes}
        self._placement = Placement()
        self._keys = _key_of_each_group()
        self._epoch = 0
        self._view = View(0, ())
        self.without(())

    def without(self, dead: Collection[str]) -> None:
        """From now on these nodes take nothing."""
        self._epoch += 1
        members = [MemberState(node, alive := node.node_id not in dead, not alive) for node in self.nodes]
        self._view = View(self._epoch, members)

    def order(self, group: int) -> list[str]:
        """Living nodes, most preferred for the group first: what a server with this view would do."""
        file_id, index = self._keys[group]
        return [node.node_id for node in self._placement.nodes_for(file_id, index, self._view)]


def _key_of_each_group() -> list[tuple[str, int]]:
    """A chunk of each group, so that placement is asked as servers ask it."""
    found: dict[int, tuple[str, int]] = {}
    file_id = "5f0c1f4e-6a3b-4b63-9a70-6f2b5d1a9e11"
    index = 0
    while len(found) < GROUPS:
        found.setdefault(group_of(file_id, index), (file_id, index))
        index += 1
    return [found[group] for group in range(GROUPS)]


def chunks_of_each_group(chunks: int, source: random.Random) -> list[int]:
    """How many of `chunks` fall into each group: their hashes are uniform."""
    counts = [0] * GROUPS
    for group in source.choices(range(GROUPS), k=chunks):
        counts[group] += 1
    return counts


@dataclass(frozen=True, slots=True)
class Balance:
    """Chunk replicas per node, as shares of what each should have by its capacity."""

    most: float
    least: float
    shared_zone: int
    """Groups with two replicas in one zone."""


def balance(places: Places, layout: Sequence[Sequence[str]], counts: Sequence[int], zones: int) -> Balance:
    """How evenly a layout fills the nodes that have anything."""
    held: dict[str, int] = {}
    shared = 0
    for holders, count in zip(layout, counts, strict=True):
        for node_id in holders:
            held[node_id] = held.get(node_id, 0) + count
        shared += len({places.zones[node_id] for node_id in holders}) < min(len(holders), zones)
    capacity = {node.node_id: node.capacity_bytes for node in places.nodes if node.node_id in held}
    mean = sum(held.values()) / sum(capacity.values())
    shares = [held[node_id] / (size * mean) for node_id, size in capacity.items()]
    return Balance(max(shares), min(shares), shared)
