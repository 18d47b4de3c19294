"""The end of a drain: the node's own inventory, until it is empty.

An index may lag and rows may be lost; only the node itself knows whether anything is left on it. It must
know that it is draining first, or it would take more; what it had begun to take by then gets time to end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from dfs import logs
from dfs.model import AdminState, NodeInfo
from dfs.repair.crew import Job
from dfs.repair.parts import Parts
from dfs.repair.progress import Tour
from dfs.repair.strays import FEW, SHARE, Judged, Verdict
from dfs.repair.tours import Walk
from dfs.wire.deadline import Deadline

GUARD = "nodes"
"""The document by which operators' commands on nodes exclude each other."""

_CALL_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Page:
    """What came of a page of the inventory; `told` is False when the node did not know that it is draining."""

    told: bool
    judged: Judged | None = None
    removed: int = 0


class Emptying:
    """The second phase of the drain that `walk` is. For one thread, but for the calls it makes in jobs.

    `ended` is called when the node has been declared drained."""

    def __init__(self, walk: Walk, parts: Parts, ended: Callable[[], None]) -> None:
        self._walk = walk
        self._parts = parts
        self._ended = ended
        self._told_at: float | None = None
        self._counts = False
        self._erased = 0
        self._empty = False

    def job(self, node: NodeInfo, scene: object) -> Job:
        """The next thing to do."""
        key = ("inventory", node.node_id)
        if self._empty:
            self._empty = False
            return Job(key, lambda: declare_drained(self._parts, node.node_id), lambda said: self._said(said, scene))
        tour = self._walk.tour
        if tour.sequence == 0:
            settled = self._parts.clock() - self._parts.policy.settle
            self._counts = self._told_at is not None and self._told_at <= settled
        erased = self._erased
        return Job(key, lambda: self._read(node, tour, erased), lambda page: self._have_read(page, scene))

    # --- in a thread of the crew ---

    def _read(self, node: NodeInfo, tour: Tour, erased: int) -> Page:
        parts = self._parts
        if tour.sequence == 0:
            state = parts.upkeep.look(node, deadline=Deadline(_CALL_SECONDS))
            if state != AdminState.DRAINING:
                return Page(told=False)
        judged = parts.rule.read(
            node,
            tour.sequence,
            surplus_ms=round(2000 * parts.policy.write_seconds),
            unknown_ms=round(1000 * parts.policy.upload_ttl),
        )
        doomed = judged.doomed
        unknown = [key for key, verdict in doomed.items() if verdict is Verdict.ERASE]
        if erased + len(unknown) > max(FEW, SHARE * tour.chunks_total):
            # Metadata that know nothing of so much are not believed.
            logs.warning("drain.unknown_records", node_id=node.node_id, records=len(unknown), before=erased)
            doomed = {key: verdict for key, verdict in doomed.items() if verdict is not Verdict.ERASE}
        return Page(told=True, judged=judged, removed=parts.rule.remove(node, doomed) if doomed else 0)

    # --- in the leader's ---

    def _have_read(self, page: Page | Exception, scene: object) -> None:
        walk, interval = self._walk, self._parts.policy.interval
        if isinstance(page, Exception) or page.judged is None:
            walk.blocked = str(page) if isinstance(page, Exception) else "the node does not know yet that it is draining"
            walk.rest(interval)
            return
        if self._told_at is None:
            self._told_at = self._parts.clock()
        walk.blocked = ""
        self._erased += page.judged.verdicts[Verdict.ERASE]
        walk.read_inventory(page.judged.next, page.judged.seen, page.removed, _words(page.judged))
        if page.judged.next is not None:
            return
        tour = walk.tour
        if tour.left == 0 and self._counts:
            self._empty = True
        elif tour.left == 0:
            walk.begin_inventory(scene)
            walk.rest(self._parts.policy.settle)
        elif tour.found == tour.left:
            walk.begin_inventory(scene)
        else:
            why = tour.waits_for
            walk.begin_pass(scene)
            walk.rest(interval)
            walk.tour = replace(walk.tour, waits_for=why)

    def _said(self, said: bool | Exception, scene: object) -> None:
        if said is True:
            self._ended()
            return
        self._walk.blocked = str(said) if isinstance(said, Exception) else "another command on nodes came between"
        self._walk.begin_inventory(scene)
        self._walk.rest(self._parts.policy.interval)


def declare_drained(parts: Parts, node_id: str) -> bool:
    """Set a draining node's state to drained; False when something else changed meanwhile. Raises
    OutcomeUnknown, errors.Unavailable."""
    guard = parts.store.read_document(GUARD)
    for info in parts.store.list_nodes():
        if info.node_id == node_id and info.admin_state is AdminState.DRAINING and parts.fence() is not None:
            return parts.store.set_admin_state(
                info, AdminState.DRAINED, at=parts.now_ms(), until=0, guard=guard, guard_name=GUARD
            )
    return False


def end_maintenance(parts: Parts) -> None:
    """Make nodes active whose maintenance is over. Raises errors.Unavailable, OutcomeUnknown."""
    for info in parts.store.list_nodes():
        now_ms = parts.now_ms()
        if info.state_at(now_ms) == info.admin_state:
            continue
        guard = parts.store.read_document(GUARD)
        if parts.store.set_admin_state(
            info, AdminState.ACTIVE, at=now_ms, until=0, guard=guard, guard_name=GUARD
        ):
            logs.event("node.maintenance_over", node_id=info.node_id)


def _words(judged: Judged) -> str:
    counts = judged.verdicts
    words = {
        Verdict.FINE: "have a row",
        Verdict.YOUNG: "have no row and are too young to judge",
        Verdict.HELD: "belong to files that are being uploaded or deleted",
        Verdict.DROP: "are surplus",
        Verdict.ERASE: "belong to no file",
    }
    return "; ".join(f"{counts[verdict]} records {text}" for verdict, text in words.items() if counts[verdict])
