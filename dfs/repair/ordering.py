"""Operators' orders to repair: rebalance, and repair a node's chunks without waiting. Written by
compare-and-set into the document that repair's leader reads and clears."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from dfs.cluster.view import weight_of
from dfs.errors import Busy
from dfs.metadata.contract import MetadataStore, OutcomeUnknown
from dfs.model import NodeInfo
from dfs.repair.progress import ORDERS, Orders

_TRIES = 8


def order_rebalance(store: MetadataStore, now_ms: int) -> bool:
    """Ask for rebalancing; False when it had been asked for already. Raises Busy, Unavailable."""

    def ask(orders: Orders) -> Orders:
        return orders if orders.rebalance_at else replace(orders, rebalance_at=now_ms, stop_rebalance_at=0)

    return _change(store, ask)


def stop_rebalance(store: MetadataStore, now_ms: int) -> bool:
    """Withdraw the order, and end the work if it has begun; False when that had been asked for already. Raises
    Busy, Unavailable."""

    def ask(orders: Orders) -> Orders:
        return orders if orders.stop_rebalance_at else replace(orders, rebalance_at=0, stop_rebalance_at=now_ms)

    return _change(store, ask)


def order_repair(store: MetadataStore, node_id: str, now_ms: int) -> bool:
    """Ask that the chunks of a node that does not answer be copied elsewhere at once, without the usual
    delay; False when it had been asked for already. Raises Busy, Unavailable."""

    def add(orders: Orders) -> Orders:
        return orders if node_id in orders.repair_now else replace(orders, repair_now=orders.repair_now | {node_id: now_ms})

    return _change(store, add)


def bytes_to_move(nodes: Sequence[NodeInfo]) -> int:
    """About how many bytes lie on nodes that hold more than their share of all, by capacity."""
    total = sum(node.used_bytes for node in nodes)
    weights = sum(weight_of(node) for node in nodes)
    if not weights:
        return 0
    return sum(max(0, node.used_bytes - total * weight_of(node) // weights) for node in nodes)


def _change(store: MetadataStore, change: Callable[[Orders], Orders]) -> bool:
    """Whether the orders are others now."""
    in_doubt = False
    for _ in range(_TRIES):
        seen = store.read_document(ORDERS)
        before = Orders() if seen is None else Orders.from_json(seen.value)
        after = change(before)
        if after == before:
            return in_doubt
        try:
            if store.write_document(ORDERS, after.to_json(), seen) is not None:
                return True
        except OutcomeUnknown:
            in_doubt = True  # the document tells
    raise Busy("the orders keep changing: try again")
