"""Operators' commands over HTTP: the life of nodes, rebalancing, repair without waiting."""

from __future__ import annotations

from typing import Any

from dfs.api.requests import flag_of
from dfs.api.service import Service
from dfs.cluster.view import MemberState, weight_of
from dfs.errors import BadRequest, NotFound, Refused
from dfs.model import is_node_id
from dfs.notation import parse_time
from dfs.repair import progress
from dfs.repair.nodelife import understood
from dfs.repair.noderules import Action
from dfs.repair.ordering import bytes_to_move, order_rebalance, stop_rebalance
from dfs.repair.progress import TourKind
from dfs.wire.message import Request, Response

_ACTIONS = {
    str(action): action
    for action in (Action.OK_TO_STOP, Action.MAINTENANCE, Action.DRAIN, Action.ACTIVATE, Action.DECOMMISSION)
}


def change_node(service: Service, request: Request) -> Response:
    """Set a node's administrative state, or say what would come of it."""
    node_id = _node_id(request.params["node_id"])
    action = _ACTIONS.get(request.params["action"])
    if action is None:
        raise NotFound(f"a node can be {', '.join(_ACTIONS)}: there is no {request.params['action'][:40]!r}")
    found = service.nodelife.decide(
        action,
        node_id,
        for_ms=_length(request) if action is Action.MAINTENANCE else 0,
        force=flag_of(request, "force"),
        plan=flag_of(request, "plan"),
    )
    return Response.json(200, found.to_json())


def repair_now(service: Service, request: Request) -> Response:
    """Copy the chunks of a node that does not answer elsewhere at once."""
    node_id = request.query.get("now")
    if not node_id:
        raise BadRequest("the query parameter now is missing: the node whose chunks are to be copied elsewhere")
    found = service.nodelife.repair_now(
        _node_id(node_id), force=flag_of(request, "force"), plan=flag_of(request, "plan")
    )
    return Response.json(200, found.to_json())


def rebalance(service: Service, request: Request) -> Response:
    """Order rebalancing, withdraw the order (`stop`), or say what it would move (`plan`)."""
    plan, stop = flag_of(request, "plan"), flag_of(request, "stop")
    members = [member for member in service.membership.view().members if member.writable]
    moved = bytes_to_move([member.info for member in members])
    refused = [] if stop or len(members) > 1 else ["fewer than two nodes take chunks: there is nowhere to move any"]
    repair = understood(progress.load, service.store)
    runs = repair is not None and any(tour.kind is TourKind.REBALANCE for tour in repair.tours)
    orders = progress.load_orders(service.store)
    ordered = orders.rebalance_at > 0 or (runs and not orders.stop_rebalance_at)
    changed = False
    if not plan and refused:
        raise Refused("rebalancing is refused", details={"reasons": refused})
    if not plan and stop:
        changed, ordered = ordered and stop_rebalance(service.store, service.now()), False
    elif not plan:
        changed, ordered = not ordered and order_rebalance(service.store, service.now()), True
    answer = {
        "planned": plan,
        "changed": changed,
        "ordered": ordered,
        "refused": refused,
        "bytes": moved,
        "seconds": moved / (service.settings.repair_mbps * 1e6),
        "nodes": [_share(member, members) for member in members],
    }
    return Response.json(200, answer)


def _share(member: MemberState, members: list[MemberState]) -> dict[str, Any]:
    """What a node uses, and what would be its share."""
    total = sum(each.info.used_bytes for each in members)
    weights = sum(weight_of(each.info) for each in members)
    info = member.info
    return {"node_id": info.node_id, "used_bytes": info.used_bytes, "share_bytes": total * weight_of(info) // weights}


def _node_id(text: str) -> str:
    if not is_node_id(text):
        raise BadRequest(f"{text[:80]!r} cannot name a node")
    return text


def _length(request: Request) -> int:
    """The query parameter `for`, in ms."""
    text = request.query.get("for")
    if not text:
        raise BadRequest("the query parameter for is missing: how long the maintenance lasts, such as 15m")
    try:
        return int(parse_time(text) * 1000)
    except ValueError as error:
        raise BadRequest(f"the query parameter for must be {error}, not {text[:40]!r}") from None
