"""Where a chunk belongs: weighted rendezvous over groups of chunks. Pure.

A chunk falls into one of GROUPS groups by a hash; nodes are ranked for each group, so that the
work of ranking is done once a group and not once a chunk. A node's score for a group is
-weight / ln(h), with h in (0, 1) a hash of node and group and the weight its capacity: the
"logarithmic method" of weighted rendezvous hashing (C. Schindelhauer and G. Schomaker, "Weighted
distributed hash tables", SPAA 2005). Each node comes first for a share of groups proportional to
its weight, and when a node leaves or joins only the groups that it held or takes over change.

The hash of a node for all groups is one SHAKE-128 stream of 16-bit values (128 KiB a node, kept):
a hash call per node and group would cost 13 s for all groups at 200 nodes, this costs 0.2 s.
"""

from __future__ import annotations

import hashlib
import math
import sys
import threading
from array import array
from collections.abc import Iterator, Sequence

from dfs.cluster.view import View, weight_of
from dfs.model import NodeInfo

GROUPS = 65_536
_CACHE_BYTES = 16 * 1024 * 1024
_TABLES = 2

# -ln(h) for every 16-bit hash; h is the middle of its interval, so neither 0 nor 1 occurs.
_COST = array("d", (-math.log((value + 0.5) / 65_536) for value in range(65_536)))


def group_of(file_id: str, chunk_index: int) -> int:
    """The group, 0 to GROUPS - 1, of a chunk."""
    digest = hashlib.blake2b(b"%b:%d" % (file_id.encode(), chunk_index), digest_size=2).digest()
    return digest[0] << 8 | digest[1]


def _column(node_id: str) -> array[int]:
    """The node's 16-bit hashes, one a group."""
    column = array("H", hashlib.shake_128(b"dfs placement\0" + node_id.encode()).digest(2 * GROUPS))
    if sys.byteorder == "big":  # every server must rank alike
        column.byteswap()
    return column


class _Columns:
    """Columns of the nodes in use; those of nodes that left are forgotten with `keep`."""

    def __init__(self) -> None:
        self._columns: dict[str, array[int]] = {}

    def of(self, node_id: str) -> array[int]:
        column = self._columns.get(node_id)
        if column is None:
            column = self._columns.setdefault(node_id, _column(node_id))
        return column

    def keep(self, node_ids: set[str]) -> None:
        for node_id in [known for known in self._columns if known not in node_ids]:
            del self._columns[node_id]


class _Table:
    """Rankings of one set of nodes, made group by group as they are asked for."""

    def __init__(self, nodes: Sequence[NodeInfo], columns: _Columns) -> None:
        ranked = sorted(nodes, key=lambda node: node.node_id)  # equal scores rank by node_id
        self.ids = [node.node_id for node in ranked]
        self._zones = [node.zone for node in ranked]
        self._several_zones = len(set(self._zones)) > 1
        self._columns = [(columns.of(node.node_id), 1.0 / weight_of(node)) for node in ranked]
        self._orders: dict[int, bytes] = {}
        self._lock = threading.Lock()
        self._limit = _CACHE_BYTES // (200 + 2 * len(ranked))
        self._firsts = array("i", [-1]) * GROUPS

    def order(self, group: int) -> Sequence[int]:
        """Positions in `ids`, most preferred first."""
        cached = self._orders.get(group)
        if cached is None:
            order = self._rank(group)
            packed = array("H", order).tobytes()
            with self._lock:
                if len(self._orders) >= self._limit:
                    # Groups come up evenly at random: which one goes does not matter.
                    del self._orders[next(iter(self._orders))]
                self._orders[group] = packed
            return order
        return memoryview(cached).cast("H")

    def first(self, group: int) -> int:
        """The most preferred position; there must be at least one node."""
        found = self._firsts[group]
        if found < 0:
            costs = self._costs(group)
            found = self._firsts[group] = costs.index(min(costs))
        return found

    def _costs(self, group: int) -> list[float]:
        # The highest -w / ln(h) is the lowest -ln(h) / w.
        return [_COST[column[group]] * per_weight for column, per_weight in self._columns]

    def _rank(self, group: int) -> list[int]:
        costs = self._costs(group)
        order = sorted(range(len(costs)), key=costs.__getitem__)
        if not self._several_zones:
            return order
        zones: set[str | None] = set()
        leaders: list[int] = []
        rest: list[int] = []
        for position in order:
            zone = self._zones[position]
            (rest if zone in zones else leaders).append(position)
            zones.add(zone)
        return leaders + rest


def order(group: int, nodes: Sequence[NodeInfo]) -> tuple[str, ...]:
    """Node ids in order of preference for a group: the best of each zone first, then the rest, each
    by score. The same for every server that knows the same nodes."""
    table = _Table(nodes, _Columns())
    return tuple(table.ids[position] for position in table.order(group))


class Placement:
    """Preference orders over the writable nodes of a view, cached per view epoch. Thread-safe."""

    def __init__(self) -> None:
        self._columns = _Columns()
        self._tables: dict[int, _Table] = {}
        self._lock = threading.Lock()

    def nodes_for(self, file_id: str, chunk_index: int, view: View) -> tuple[NodeInfo, ...]:
        """Every writable node, most preferred for this chunk first; the first R span as many zones
        as R nodes can."""
        table = self._table(view)
        by_id, ids = view.writable_by_id, table.ids
        return tuple(by_id[ids[position]] for position in table.order(group_of(file_id, chunk_index)))

    def first_for(self, file_id: str, chunk_index: int, view: View) -> NodeInfo | None:
        """The first of `nodes_for`, at a fraction of its cost when there are many nodes."""
        if not view.writable:
            return None
        table = self._table(view)
        return view.writable_by_id[table.ids[table.first(group_of(file_id, chunk_index))]]

    def firsts(self, file_id: str, count: int, view: View) -> Iterator[NodeInfo]:
        """`first_for` of chunks 0 to count - 1, for upload plans; there must be a writable node."""
        table = self._table(view)
        nodes = [view.writable_by_id[node_id] for node_id in table.ids]
        for chunk_index in range(count):
            yield nodes[table.first(group_of(file_id, chunk_index))]

    def _table(self, view: View) -> _Table:
        table = self._tables.get(view.epoch)
        if table is not None:
            return table
        with self._lock:
            table = self._tables.get(view.epoch)
            if table is None:
                known = {member.info.node_id for member in view.members}
                self._columns.keep(known)
                table = _Table(view.writable, self._columns)
                # Requests under way may still hold the view before this one.
                tables = {**self._tables, view.epoch: table}
                self._tables = {epoch: tables[epoch] for epoch in sorted(tables)[-_TABLES:]}
            return table
