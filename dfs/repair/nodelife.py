"""The life of a node: looking at the cluster, deciding by `noderules`, and one conditional write.

Every state an operator gives a node is written together with the guard document `nodes`, on the condition
that neither has changed since the decision was taken: of two operators who look at the same moment only one
is granted what only one may have, the other looks again and is told why not.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, TypeVar

from dfs import logs
from dfs.cluster.membership import Membership
from dfs.cluster.upkeep import UpkeepCalls
from dfs.cluster.view import View
from dfs.errors import BadRequest, Busy, DfsError, Refused
from dfs.metadata.contract import GcKind, MetadataStore, OutcomeUnknown
from dfs.model import AdminState, Document, NodeInfo, NodeStatus
from dfs.repair import progress
from dfs.repair.noderules import MOST_MAINTENANCE_MS, STATE_AFTER, Action, Reason, Situation, reasons
from dfs.repair.ordering import order_repair
from dfs.repair.pace import LEAST_CHUNK, LEAST_MOVED, worth
from dfs.wire.deadline import Deadline

GUARD = "nodes"

_TRIES = 8
_PROBERS = 64
"""A zone of a thousand nodes that is down is asked within the time that an operator's command waits."""
_MOST_COUNTED = 10_000
_PAGE = 1000
_SHORT_PAGE = 100
_LOOK_SECONDS = 2.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided on a node, or (`planned`) would be.

    `state` is what it was before, `to` what it is then, `until` the end of a maintenance (ms, else 0).
    `changed`: something was written. `refused` lists why it is not done; `risks` what force overrode.
    `bytes` and `chunks` are what the node says it holds, `room` the bytes the others would take, `others` how
    many nodes those are; `seconds` how long copying takes at DFS_REPAIR_MBPS (None: nothing is copied).
    """

    node_id: str
    action: Action
    state: AdminState | None
    to: AdminState | None
    until: int
    planned: bool
    changed: bool
    refused: tuple[str, ...]
    risks: tuple[str, ...]
    bytes: int
    chunks: int
    room: int
    others: int
    factor: int
    seconds: float | None

    def to_json(self) -> dict[str, Any]:
        """As it is answered."""
        return {name: getattr(self, name) for name in self.__slots__} | {
            "refused": list(self.refused),
            "risks": list(self.risks),
            "fits": self.bytes <= self.room,
        }


@dataclass(frozen=True, slots=True)
class _Looked:
    """A situation, and the documents and rows it was judged by."""

    situation: Situation
    guard: Document | None
    why: list[Reason] = field(default_factory=list)


class NodeLife:
    """Decides and writes. Thread-safe; keeps nothing."""

    def __init__(
        self,
        store: MetadataStore,
        *,
        factor: int,
        bytes_per_second: float,
        view: Callable[[], View],
        probe: Callable[[NodeInfo], bool],
        changed: Callable[[NodeInfo], None],
        now_ms: Callable[[], int],
    ) -> None:
        """`probe` says whether that very node answers now; `changed` is told of a row that was written, to
        make it known sooner. Neither raises."""
        self._store = store
        self._factor = factor
        self._rate = bytes_per_second
        self._view = view
        self._probe = probe
        self._changed = changed
        self._now = now_ms

    def decide(
        self, action: Action, node_id: str, *, for_ms: int = 0, force: bool = False, plan: bool = False
    ) -> Decision:
        """Do `action` on the node, or say what it would do (`plan`). `for_ms`: length of a maintenance.

        Raises Refused (details `reasons`) when it is not granted and no plan; with `force` only for what force
        cannot help. BadRequest for a length that is not allowed, Busy when others keep changing nodes,
        Unavailable when metadata cannot be read.
        """
        if action is Action.MAINTENANCE and not 0 < for_ms <= MOST_MAINTENANCE_MS:
            raise BadRequest("a maintenance lasts longer than 0 seconds and at most 24 hours")
        at = self._now()
        until = at + for_ms if action is Action.MAINTENANCE else 0
        in_doubt = False
        for _ in range(_TRIES):
            looked = self._look(action, node_id)
            node = looked.situation.nodes.get(node_id)
            if in_doubt and node is not None and _is_ours(node, action, at, until):
                return self._granted(looked, node, action, until, force)  # it had been done
            helpless = action is Action.OK_TO_STOP  # which asks whether force would be needed
            standing = [reason for reason in looked.why if reason.final or helpless or not force]
            if plan:
                return self._decision(looked, node_id, action, until, standing, planned=True)
            if standing or node is None:
                if in_doubt and not self._fenced(looked.guard):
                    continue
                raise Refused(_refusal(action, node_id), details={"reasons": [reason.text for reason in standing]})
            to = STATE_AFTER.get(action)
            if to is None or _is_there(node, action):
                return self._decision(looked, node_id, action, until, standing)
            try:
                done = self._store.set_admin_state(
                    node, to, at=at, until=until, guard=looked.guard, guard_name=GUARD
                )
            except OutcomeUnknown:
                in_doubt = True
                continue  # the row tells
            if done:
                return self._granted(looked, node, action, until, force)
        raise Busy("other operators, or repair, keep changing the states of nodes: try again")

    def repair_now(self, node_id: str, *, force: bool = False, plan: bool = False) -> Decision:
        """Have the chunks of a node that does not answer copied elsewhere at once, unless they are; raises like
        `decide`."""
        found = self.decide(Action.REPAIR, node_id, force=force, plan=plan)
        repair = understood(progress.load, self._store)
        if plan or (repair is not None and node_id in repair.repaired):
            return found
        return replace(found, changed=order_repair(self._store, node_id, self._now()))

    def _fenced(self, guard: Document | None) -> bool:
        """Make a write that may still be on its way fail, before it is said that nothing was done."""
        try:
            return self._store.write_document(GUARD, {} if guard is None else guard.value, guard) is not None
        except OutcomeUnknown:
            return False

    # --- looking ---

    def _look(self, action: Action, node_id: str) -> _Looked:
        """The guard first: whatever is read after it and changed since makes the write fail."""
        guard = self._store.read_document(GUARD)
        nodes = {node.node_id: node for node in self._store.list_nodes()}
        repair = understood(progress.load, self._store)
        short, short_more = count_short(self._store)
        now = self._now()
        answering = self._answering(list(nodes.values()))
        rows, rows_more = 0, False
        if action is Action.DECOMMISSION and node_id in nodes:
            rows, rows_more = self._count_rows(node_id)
        situation = Situation(
            now=now,
            factor=self._factor,
            nodes=nodes,
            answering=answering,
            writable=self._writable(list(nodes.values()), answering, now),
            repair=repair,
            short=short,
            short_more=short_more,
            rows=rows,
            rows_more=rows_more,
        )
        return _Looked(situation, guard, reasons(action, situation, node_id))

    def _answering(self, nodes: list[NodeInfo]) -> frozenset[str]:
        """Who answers now: a node may have died since its last heartbeat."""
        asked = [node for node in nodes if node.admin_state is not AdminState.DECOMMISSIONED]
        if not asked:
            return frozenset()
        with ThreadPoolExecutor(min(_PROBERS, len(asked)), thread_name_prefix="dfs-ask") as pool:
            answers = list(pool.map(self._probe, asked))
        return frozenset(node.node_id for node, answered in zip(asked, answers, strict=True) if answered)

    def _writable(self, nodes: list[NodeInfo], answering: frozenset[str], now: int) -> frozenset[str]:
        view = self._view()
        found = set()
        for node in nodes:
            member = view.get(node.node_id)
            refusing = member is not None and member.refusing is not None
            if (
                node.node_id in answering
                and not refusing
                and node.state_at(now) is AdminState.ACTIVE
                and node.status is NodeStatus.ACTIVE
            ):
                found.add(node.node_id)
        return frozenset(found)

    def _count_rows(self, node_id: str) -> tuple[int, bool]:
        """How many rows name the node, and whether there may be more."""
        count, after = 0, None
        while count < _MOST_COUNTED:
            page = self._store.node_chunks(node_id, after=after, limit=_PAGE)
            if not page:
                return count, False
            count += len(page)
            after = page[-1]
        return count, True

    # --- saying ---

    def _granted(self, looked: _Looked, node: NodeInfo, action: Action, until: int, force: bool) -> Decision:
        to = STATE_AFTER[action]
        risks = [reason.text for reason in looked.why] if force else []
        logs.event("node.state_set", node_id=node.node_id, was=node.admin_state, now=to, until=until, risks=risks or None)
        self._changed(node)
        return self._decision(looked, node.node_id, action, until, [], changed=True)

    def _decision(
        self,
        looked: _Looked,
        node_id: str,
        action: Action,
        until: int,
        standing: list[Reason],
        *,
        planned: bool = False,
        changed: bool = False,
    ) -> Decision:
        situation = looked.situation
        node = situation.nodes.get(node_id)
        state = None if node is None else situation.state(node_id)
        used, chunks = (0, 0) if node is None else (node.used_bytes, node.chunks)
        copies = action is Action.REPAIR or (action is Action.DRAIN and state is not AdminState.DRAINED) or (
            action is Action.DECOMMISSION and bool(looked.why)
        )
        least = LEAST_MOVED if action is Action.DRAIN else LEAST_CHUNK
        after = state if node is None or _is_there(node, action) else STATE_AFTER.get(action, state)
        return Decision(
            node_id=node_id,
            action=action,
            state=state,
            to=after,
            until=until,
            planned=planned,
            changed=changed,
            refused=tuple(reason.text for reason in standing),
            risks=tuple(reason.text for reason in looked.why if reason not in standing),
            bytes=used,
            chunks=chunks,
            room=situation.room(node_id),
            others=len(situation.writable_others(node_id)),
            factor=self._factor,
            seconds=worth(chunks, used, least) / self._rate if copies else None,
        )


def announcing(membership: Membership, upkeep: UpkeepCalls) -> Callable[[NodeInfo], None]:
    """For `NodeLife(changed=)`: the node is told to look at its row, and this server reads the registry."""

    def announce(node: NodeInfo) -> None:
        try:
            upkeep.look(node, deadline=Deadline(_LOOK_SECONDS))
        except DfsError as error:  # its next heartbeat tells it
            logs.event("node.not_told", node_id=node.node_id, reason=error.message)
        membership.refresh()

    return announce


def understood(load: Callable[[MetadataStore], T | None], store: MetadataStore) -> T | None:
    """The shared document that `load` reads; None, which promises nothing, when a later release has written it
    in a way that this one cannot read. Raises Unavailable."""
    try:
        return load(store)
    except (ValueError, TypeError, KeyError) as error:
        logs.warning("document.not_understood", error=error)
        return None


def count_short(store: MetadataStore) -> tuple[int, bool]:
    """How many chunks are marked as short of a copy, from the index alone, and whether there may be more (it
    stops counting early: one is enough to refuse)."""
    count, more = 0, False
    for partition in store.gc_partitions(GcKind.SHORT):
        found = len(list(islice(store.gc_entries(partition, limit=_SHORT_PAGE), _SHORT_PAGE)))
        count += found
        more = more or found == _SHORT_PAGE
    return count, more


def _is_ours(node: NodeInfo, action: Action, at: int, until: int) -> bool:
    """Whether the row is as this very command writes it."""
    return (node.admin_state, node.admin_at, node.admin_until) == (STATE_AFTER.get(action), at, until)


def _is_there(node: NodeInfo, action: Action) -> bool:
    """Whether nothing is to be written. A maintenance that is asked for again is extended."""
    if action is Action.DRAIN and node.admin_state is AdminState.DRAINED:
        return True
    return action is not Action.MAINTENANCE and node.admin_state is STATE_AFTER.get(action)


def _refusal(action: Action, node_id: str) -> str:
    if action is Action.OK_TO_STOP:
        return f"{node_id} must not be stopped now"
    return f"{action} of {node_id} is refused"
