"""All tours of one term: which there are, whose turn it is, what follows from what became of their chunks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from dfs import logs
from dfs.cluster.view import View
from dfs.model import AdminState
from dfs.repair import itinerary
from dfs.repair.backlog import Key
from dfs.repair.crew import Job
from dfs.repair.emptying import Emptying
from dfs.repair.mend import Mended, Outcome
from dfs.repair.parts import Parts
from dfs.repair.progress import Tour, TourKind
from dfs.repair.tours import Next, Walk, after_pass

_FORGET_EVERY = 12
"""Intervals between looks for rows of a decommissioned node."""


class Touring:
    """For one thread, but for `mend`, which is called by the crew's with a chunk and the tour's kind. `told`
    hears what became of each chunk. `lived`: nodes that were lost and lived again while nobody looked; they are
    gone through as if they returned now. `changed` is set when something began or ended."""

    def __init__(
        self,
        parts: Parts,
        tours: Collection[Tour],
        repaired: Collection[str],
        rebalanced_at: int,
        *,
        mend: Callable[[Key, TourKind], Mended],
        told: Callable[[Mended, Key], None],
        lived: Collection[str] = (),
    ) -> None:
        self._parts = parts
        self._mend = mend
        self._told = told
        self._walks = {(tour.kind, tour.node_id): Walk(tour, parts.store, parts.clock) for tour in tours}
        view = parts.membership.view()
        for node_id in sorted(lived):
            returned = itinerary.new_tour(TourKind.RETURNED, node_id, view.get(node_id), parts.now_ms())
            self._walks.setdefault((returned.kind, node_id), Walk(returned, parts.store, parts.clock))
        self._emptying: dict[str, Emptying] = {}
        self._drained: dict[str, int] = {}
        self._forget_at: dict[str, float] = {}
        self._scene: object = None
        self._lost: frozenset[str] = frozenset()
        self._turn = 0
        self.repaired = frozenset(repaired)
        self.rebalanced_at = rebalanced_at
        self.changed = True

    def shown(self) -> tuple[Tour, ...]:
        """The tours as they are shown."""
        return tuple(walk.shown() for walk in self._walks.values())

    # --- which there are ---

    def revise(self, view: View, lost: frozenset[str], scene: object, *, rebalance: bool) -> None:
        """Begin and end tours as the nodes require it, and all of a rebalance if it is ordered. Raises
        errors.Unavailable."""
        self._scene, self._lost = scene, lost
        now_ms = self._parts.now_ms()
        tours = [walk.tour for walk in self._walks.values()]
        if rebalance:
            tours += itinerary.rebalance(view, tours, now_ms)
        revised = itinerary.revise(tours, self.repaired, view, lost, self._forgotten(view), now_ms)
        self.repaired = revised.repaired
        walks: dict[tuple[TourKind, str], Walk] = {}
        for tour in revised.tours:
            walks[tour.kind, tour.node_id] = self._walks.get((tour.kind, tour.node_id)) or self._begun(tour)
        for key in self._walks.keys() - walks.keys():
            if self._drained.pop(key[1], None) is None or key[0] is not TourKind.DRAIN:
                self._tell_end(self._walks[key].tour, "overtaken")
        self._walks = walks
        self._emptying = {n: found for n, found in self._emptying.items() if (TourKind.DRAIN, n) in walks}

    def stop_rebalance(self) -> None:
        """End the tours of a rebalance where they are: every chunk is whole at every moment of one."""
        for key in [key for key in self._walks if key[0] is TourKind.REBALANCE]:
            self._tell_end(self._walks.pop(key).tour, "stopped")
            self.changed = True

    def _begun(self, tour: Tour) -> Walk:
        self.changed = True
        logs.event(
            "repair.tour_began",
            kind=tour.kind,
            node_id=tour.node_id,
            chunks=tour.chunks_total,
            bytes=tour.bytes_total,
        )
        return Walk(tour, self._parts.store, self._parts.clock, self._scene)

    def _forgotten(self, view: View) -> list[str]:
        """Decommissioned nodes that still have rows; asked for now and then."""
        gone = [m.info.node_id for m in view.members if m.admin_state is AdminState.DECOMMISSIONED]
        found = []
        now = self._parts.clock()
        for node_id in gone:
            if (TourKind.FORGET, node_id) in self._walks or now < self._forget_at.get(node_id, now):
                continue
            self._forget_at[node_id] = now + _FORGET_EVERY * self._parts.policy.interval
            if self._parts.store.node_chunks(node_id, limit=1):
                found.append(node_id)
        return found

    # --- whose turn it is ---

    def feed(self) -> bool:
        """Hand out one job, or make a step that needs none; False when there is nothing to do for now. Raises
        errors.Unavailable."""
        self._turn += 1
        view = self._parts.membership.view()
        return any(self._feed_tour(walk, view) for walk in self._in_turn())

    def _in_turn(self) -> Iterator[Walk]:
        """Walks, the most pressing kind first, those of a kind by turns; of a rebalance only the first."""
        for kind in itinerary.ORDER:
            walks = [walk for walk in self._walks.values() if walk.tour.kind is kind]
            if kind is TourKind.REBALANCE:
                yield from walks[:1]
            elif walks:
                first = self._turn % len(walks)
                yield from walks[first:] + walks[:first]

    def _feed_tour(self, walk: Walk, view: View) -> bool:
        tour = walk.tour
        why = itinerary.waits_for(tour, view, self._lost)
        if why or walk.resting(self._scene):
            walk.blocked = why or walk.blocked
            return False
        if tour.in_inventory:
            return self._feed_inventory(walk, view)
        walk.blocked = ""
        if walk.over and walk.rested:
            walk.begin_pass(self._scene)
        if walk.over:
            self._pass_over(walk)
            return True
        key = walk.next()
        if key is None:
            return walk.over
        if self._parts.crew.busy(key):
            walk.give_back(key)
            return False
        kind = tour.kind
        self._parts.crew.put(
            Job(key, lambda: self._mend(key, kind), lambda mended: self._mended(walk, key, mended))
        )
        return True

    def _feed_inventory(self, walk: Walk, view: View) -> bool:
        node_id = walk.tour.node_id
        member = view.get(node_id)
        if member is None or self._drained.get(node_id) == member.info.admin_at:
            return False  # it has been declared drained; the view does not show it yet
        if self._drained.pop(node_id, None) is not None:
            del self._emptying[node_id]  # it is to be drained once more
            walk.begin_pass(self._scene)
            return True
        if not member.healthy:
            walk.blocked = f"node {node_id} does not answer"
            return False
        if self._parts.crew.busy(("inventory", node_id)):
            return False
        admin_at = member.info.admin_at
        emptying = self._emptying.get(node_id)
        if emptying is None:
            emptying = Emptying(walk, self._parts, lambda: self._is_drained(walk, admin_at))
            self._emptying[node_id] = emptying
        self._parts.crew.put(emptying.job(member.info, self._scene))
        return True

    # --- what follows ---

    def _mended(self, walk: Walk, key: Key, mended: Mended | Exception) -> None:
        if isinstance(mended, Exception):
            mended = Mended(Outcome.WAITING, reason=str(mended))
        self._told(mended, key)
        walk.done(key, mended)

    def _pass_over(self, walk: Walk) -> None:
        match after_pass(walk.tour):
            case Next.END:
                self._end(walk)
            case Next.INVENTORY:
                walk.begin_inventory(self._scene)
            case Next.REST:
                walk.rest_after_pass(self._parts.policy.interval)
                walk.blocked = f"{walk.tour.waiting} chunks wait: {walk.tour.waits_for}"
            case Next.PASS:
                walk.begin_pass(self._scene)

    def _is_drained(self, walk: Walk, admin_at: int) -> None:
        self._drained[walk.tour.node_id] = admin_at
        self._tell_end(walk.tour, "done")
        self.changed = True

    def _end(self, walk: Walk) -> None:
        tour = walk.tour
        del self._walks[walk.key]
        if tour.kind is TourKind.LOST:
            self.repaired |= {tour.node_id}
        elif tour.kind is TourKind.REBALANCE:
            self.rebalanced_at = self._parts.now_ms()
        elif tour.kind is TourKind.FORGET:
            self._forget_at[tour.node_id] = self._parts.clock() + _FORGET_EVERY * self._parts.policy.interval
        self.changed = True
        self._tell_end(tour, "done")

    def _tell_end(self, tour: Tour, how: str) -> None:
        logs.event(
            "repair.tour_ended",
            kind=tour.kind,
            node_id=tour.node_id,
            how=how,
            passes=tour.passes + 1,
            chunks=tour.chunks_done,
            copied_bytes=tour.copied_bytes,
            seconds=round((self._parts.now_ms() - tour.began_at) / 1000, 1),
        )

