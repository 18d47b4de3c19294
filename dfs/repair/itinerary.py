"""Which tours there are to be, given the nodes as they are. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from dfs.cluster.view import MemberState, View
from dfs.model import AdminState, NodeInfo
from dfs.repair.progress import Tour, TourKind

ORDER = (TourKind.LOST, TourKind.DRAIN, TourKind.RETURNED, TourKind.FORGET, TourKind.REBALANCE)
"""Most pressing first: copies that are missing come before those that are in the wrong place."""

_OURS_NO_MORE = (AdminState.DECOMMISSIONED,)
_LEAVING = (AdminState.DRAINING, AdminState.DRAINED, AdminState.DECOMMISSIONED)


@dataclass(frozen=True, slots=True)
class Itinerary:
    """`tours`, most pressing first, and the absent nodes that nothing depends on any more."""

    tours: tuple[Tour, ...]
    repaired: frozenset[str]


def revise(
    tours: Iterable[Tour],
    repaired: Collection[str],
    view: View,
    lost: Collection[str],
    forgotten: Collection[str],
    now_ms: int,
) -> Itinerary:
    """The tours for a cluster that looks like `view`, going on with those of `tours` that still make sense.

    `lost`: nodes absent for too long. `forgotten`: those that are ours no more and still have rows.
    A lost tour whose node lives again becomes a returned one, at its beginning: what has been copied by then
    is too much now.
    """
    kept: dict[tuple[TourKind, str], Tour] = {}

    def begin(kind: TourKind, node_id: str) -> None:
        if (kind, node_id) not in kept:
            kept[kind, node_id] = new_tour(kind, node_id, view.get(node_id), now_ms)

    for tour in tours:
        kind = _still(tour, view.get(tour.node_id), lost)
        if kind is tour.kind:
            kept[kind, tour.node_id] = tour
        elif kind is not None:
            begin(kind, tour.node_id)
    absent = set()
    for node_id in repaired:
        member = view.get(node_id)
        if member is not None and member.healthy and member.admin_state not in _OURS_NO_MORE:
            begin(TourKind.RETURNED, node_id)
        elif member is not None and member.admin_state not in _OURS_NO_MORE:
            absent.add(node_id)
    for member in view.members:
        node_id = member.info.node_id
        if member.admin_state is AdminState.DRAINING:
            begin(TourKind.DRAIN, node_id)
        if node_id in lost and node_id not in absent:
            begin(TourKind.LOST, node_id)
    for node_id in forgotten:
        begin(TourKind.FORGET, node_id)
    rank = {kind: place for place, kind in enumerate(ORDER)}
    # Sorting is stable: tours of a kind stay in the order in which they were begun.
    return Itinerary(tuple(sorted(kept.values(), key=lambda tour: rank[tour.kind])), frozenset(absent))


def _still(tour: Tour, member: MemberState | None, lost: Collection[str]) -> TourKind | None:
    """The kind that the tour has by now; None when there is no reason for it any more."""
    ours = member is not None and member.admin_state not in _OURS_NO_MORE
    if not ours:
        return None if tour.kind is TourKind.REBALANCE else TourKind.FORGET
    assert member is not None
    match tour.kind:
        case TourKind.LOST:
            return TourKind.RETURNED if member.healthy else TourKind.LOST
        case TourKind.RETURNED:
            return None if tour.node_id in lost else TourKind.RETURNED
        case TourKind.DRAIN:
            return TourKind.DRAIN if member.admin_state is AdminState.DRAINING else None
        case TourKind.FORGET:
            return None
        case TourKind.REBALANCE:
            return None if member.admin_state in _LEAVING else TourKind.REBALANCE


def waits_for(tour: Tour, view: View, lost: Collection[str]) -> str:
    """Why the tour cannot go on with the nodes as they are; empty when it can."""
    member = view.get(tour.node_id)
    match tour.kind:
        case TourKind.LOST if tour.node_id not in lost:
            return f"node {tour.node_id} is away for maintenance"
        case TourKind.RETURNED if member is None or not member.healthy:
            return f"node {tour.node_id} does not answer"
        case TourKind.DRAIN if tour.node_id in lost:
            return f"node {tour.node_id} is lost: its chunks are copied from others"
        case TourKind.REBALANCE:
            # With a node away, placement is not what it will be: chunks would go to and fro.
            away = [m.info.node_id for m in view.members if m.admin_state not in _LEAVING and not m.healthy]
            return f"node {away[0]} is away" if away else ""
    return ""


def rebalance(view: View, tours: Sequence[Tour], now_ms: int) -> list[Tour]:
    """The tours of a rebalance, fullest node first, but for those under way already."""
    known = {tour.node_id for tour in tours if tour.kind is TourKind.REBALANCE}
    members = [m for m in view.members if m.admin_state not in _LEAVING and m.info.node_id not in known]
    members.sort(key=lambda member: (-_fill(member.info), member.info.node_id))
    return [new_tour(TourKind.REBALANCE, member.info.node_id, member, now_ms) for member in members]


def new_tour(kind: TourKind, node_id: str, member: MemberState | None, now_ms: int) -> Tour:
    """A tour at its beginning; how long it will be is what the node last said of itself."""
    if member is None:
        return Tour(kind, node_id, now_ms)
    return Tour(kind, node_id, now_ms, chunks_total=member.info.chunks, bytes_total=member.info.used_bytes)


def _fill(info: NodeInfo) -> float:
    return info.used_bytes / max(1, info.capacity_bytes)
