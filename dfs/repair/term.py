"""One term of the leader of repair: what is to be done, and what has come of it.

Everything here runs in the leader's thread, except the jobs it hands to the crew. A look, every few
seconds, decides what there is to do; between looks jobs are handed out one by one: marked chunks first, then
what nodes report bad, then tours, the most pressing first; but every fourth is one of a tour's if there is
any, so that marks that cannot be helped hold nothing up.
"""

from __future__ import annotations

from collections.abc import Iterator

from dfs import logs
from dfs.cluster.view import MemberState, View
from dfs.metadata.contract import GcEntry
from dfs.model import AdminState
from dfs.repair import auditresult
from dfs.repair.absence import Absence
from dfs.repair.backlog import Backlog, Healed, Key, heal
from dfs.repair.badlists import PAGE as BAD_PAGE
from dfs.repair.badlists import BadLists, cure
from dfs.repair.crew import Job
from dfs.repair.emptying import end_maintenance
from dfs.repair.flow import Flow
from dfs.repair.later import Later
from dfs.repair.marks import mark_short
from dfs.repair.mend import Mended, Outcome
from dfs.repair.parts import Parts
from dfs.repair.progress import ORDERS, Orders, RepairStatus, Tour, TourKind
from dfs.repair.strays import Judged, Strays, Verdict
from dfs.repair.touring import Touring
from dfs.wire.deadline import Deadline

_CALL_SECONDS = 10.0
_FORGET_EVERY = 12
"""Intervals between looks for rows of a decommissioned node."""


class Term:
    """One term, going on with `status` and `strays` as the last leader left them. `lost` may be read by any
    thread: the nodes whose chunks are copied from others."""

    def __init__(self, parts: Parts, status: RepairStatus, strays: Strays) -> None:
        self._parts = parts
        self._old = status
        self.strays = strays
        self.flow = Flow(parts.clock, status.copied_chunks, status.copied_bytes)
        self.lost: frozenset[str] = frozenset()
        beats = {member.info.node_id: member.info.heartbeat_seq for member in parts.membership.view().members}
        # A heart that has beaten since was alive between two leaders: what is known of it is void, and what was
        # copied by then is too much.
        same = {node_id for node_id in status.absent if beats.get(node_id) == status.beats.get(node_id)}
        tours, lived = [], {node_id for node_id in status.repaired if node_id in status.absent and node_id not in same}
        for tour in status.tours:
            if tour.kind is TourKind.LOST and tour.node_id not in same:
                lived.add(tour.node_id)
            else:
                tours.append(tour)
        self.absence = Absence({node_id: status.absent[node_id] for node_id in same})
        self._later = Later(parts.policy.interval, parts.clock)
        self._bad_later = Later(parts.policy.interval, parts.clock)
        self._hopeless = Later(parts.policy.interval, parts.clock)
        self._backlog = Backlog(
            parts.store, self._later, unrecoverable=status.unrecoverable, chunks=status.unrecoverable_chunks
        )
        self._bad = BadLists(self._bad_later)
        self._condemned: dict[str, tuple[float, dict[Key, Verdict]]] = {}  # when they go, and which
        self._scene: object = None
        self._ordered: Orders | None = None
        self._turn = 0
        self._trouble_at = parts.now_ms()
        # Marks and tours tell nothing of chunks that were whole by a smaller replication factor.
        self._factor = min(status.factor or parts.policy.factor, parts.policy.factor)
        self._whole_at = status.whole_at if self._factor == parts.policy.factor else 0
        self._touring = Touring(
            parts,
            tours,
            [node_id for node_id in status.repaired if node_id not in lived],
            status.rebalanced_at,
            mend=self._mend,
            told=self._count,
            lived=lived,
        )

    @property
    def urgent(self) -> bool:
        """Whether something has begun or ended since `written`."""
        return self._touring.changed

    def written(self) -> None:
        """The state has been written. Raises errors.Unavailable, OutcomeUnknown (orders are cleared later)."""
        self._touring.changed = False
        self._clear_orders()

    # --- looking ---

    def look(self) -> None:
        """See what there is to do. Raises errors.Unavailable, OutcomeUnknown: look again."""
        parts = self._parts
        now_ms = parts.now_ms()
        view = parts.membership.view()
        before = self.absence.seconds()
        self.absence.look(view, parts.membership.read_age(), parts.clock())
        if not self.absence.readable:
            self._trouble_at = now_ms
            return
        self._tell_absence(before, view)
        scene = tuple((m.info.node_id, m.healthy, m.writable, m.admin_state) for m in view.members)
        if scene != self._scene:
            self._scene = scene
            self._later.clear()
            self._bad_later.clear()
        if any(member.maintained for member in view.members):
            end_maintenance(parts)
        orders = self._orders()
        self.lost = self._lost_ones(view, orders)
        if orders.stop_rebalance_at:
            self._touring.stop_rebalance()
        self._touring.revise(view, self.lost, scene, rebalance=orders.rebalance_at > 0)
        self._note_orders(view, orders)
        self._backlog.begin(now_ms)
        self._bad.look(view)
        self._feed_strays(view, now_ms)
        self._judge_whole(view, now_ms)

    def _tell_absence(self, before: dict[str, float], view: View) -> None:
        absent = self.absence.seconds()
        for node_id in sorted(absent.keys() - before.keys()):
            logs.warning("repair.node_absent", node_id=node_id, repaired_after=self._parts.policy.delay)
        for node_id in sorted(before.keys() - absent.keys()):
            member = view.get(node_id)
            if member is not None and member.healthy:
                logs.event("repair.node_returned", node_id=node_id, absent_for=round(before[node_id], 1))

    def _orders(self) -> Orders:
        document = self._parts.store.read_document(ORDERS)
        return Orders() if document is None else Orders.from_json(document.value)

    def _lost_ones(self, view: View, orders: Orders) -> frozenset[str]:
        delay = self._parts.policy.delay
        lost = {node_id for node_id, seconds in self.absence.seconds().items() if seconds >= delay}
        for node_id, at in orders.repair_now.items():
            member = view.get(node_id)
            if member is not None and _obeys(member, at):
                lost.add(node_id)
        return frozenset(lost)

    def _note_orders(self, view: View, orders: Orders) -> None:
        """Which orders are carried out as soon as the state is written."""
        members = {member.info.node_id: member for member in view.members}
        done = {n: at for n, at in orders.repair_now.items() if n not in members or members[n].healthy}
        if orders.rebalance_at or orders.stop_rebalance_at or done:
            self._ordered = Orders(orders.rebalance_at, done, orders.stop_rebalance_at)
            self._touring.changed = True

    def _judge_whole(self, view: View, now_ms: int) -> None:
        """Say that all is well if a whole round of looks found nothing else."""
        missing = [
            m.info.node_id
            for m in view.members
            if not m.healthy
            and m.admin_state is not AdminState.DECOMMISSIONED
            and m.info.node_id not in self._touring.repaired
        ]
        if missing or self._touring.shown() or self._bad.count:
            self._trouble_at = now_ms
        elif self._backlog.clean_since > self._trouble_at and self._is_known(self._parts.policy.factor):
            self._whole_at = self._backlog.clean_since

    def _is_known(self, factor: int) -> bool:
        """Whether nothing but what is marked lacks copies by this factor: until an audit by it has found every
        chunk whole, that is so only if it has not been raised."""
        if self._factor < factor:
            audit = auditresult.load_last(self._parts.store)
            if audit is not None and audit.verdict is auditresult.Verdict.WHOLE and audit.factor >= factor:
                self._factor = factor
        return self._factor == factor

    def _clear_orders(self) -> None:
        if self._ordered is None:
            return
        document = self._parts.store.read_document(ORDERS)
        if document is not None:
            orders = Orders.from_json(document.value)
            left = Orders(
                0 if orders.rebalance_at == self._ordered.rebalance_at else orders.rebalance_at,
                {n: at for n, at in orders.repair_now.items() if self._ordered.repair_now.get(n) != at},
                0 if orders.stop_rebalance_at == self._ordered.stop_rebalance_at else orders.stop_rebalance_at,
            )
            self._parts.store.write_document(ORDERS, left.to_json(), document)
        self._ordered = None

    # --- handing out ---

    def feed(self) -> bool:
        """Hand out one job, or make a step that needs none; False when there is nothing to do for now. Raises
        errors.Unavailable."""
        if not self.absence.readable:
            return False
        self._turn += 1
        makers = [self._feed_marks, self._feed_bad, self._touring.feed]
        if self._turn % 4 == 0:
            makers.insert(0, makers.pop())
        return any(maker() for maker in makers)

    def _feed_marks(self) -> bool:
        mark = self._backlog.next(self._parts.crew.busy)
        if mark is None:
            return False
        parts, young_ms = self._parts, round(1000 * self._parts.policy.write_seconds)

        def then(healed: Healed | Exception, mark: GcEntry = mark) -> None:
            self._backlog.done(mark, healed)
            if isinstance(healed, Healed):
                self._count(healed.mended, (mark.id, mark.chunk_index or 0))

        key = (mark.id, mark.chunk_index or 0)
        parts.crew.put(Job(key, lambda: heal(parts.store, parts.mender, mark, parts.now_ms(), young_ms), then))
        return True

    def _feed_bad(self) -> bool:
        parts, crew = self._parts, self._parts.crew
        bad = self._bad.next(crew.busy)
        if bad is not None:
            mark_at = None if self._bad.known(bad) else parts.now_ms()

            def then(mended: Mended | Exception) -> None:
                self._bad.done(bad, mended)
                if isinstance(mended, Mended):
                    self._count(mended, bad.key)

            call = lambda: cure(parts.store, parts.membership, parts.upkeep, parts.mender, parts.fence, bad, mark_at)  # noqa: E731
            crew.put(Job(bad.key, call, then))
            return True
        asked = self._bad.ask()
        member = None if asked is None else parts.membership.view().get(asked[0])
        if asked is None or member is None or crew.busy(("bad", asked[0])):
            return False
        info, after = member.info, asked[1]
        crew.put(
            Job(
                ("bad", info.node_id),
                lambda: parts.upkeep.bad_chunks(info, after=after, limit=BAD_PAGE, deadline=Deadline(_CALL_SECONDS)),
                # A node that does not answer is asked again at the next look.
                lambda page: None if isinstance(page, Exception) else self._bad.answered(info.node_id, page),
            )
        )
        return True

    def _feed_strays(self, view: View, now_ms: int) -> None:
        """One page of some node's inventory a look, if there is somebody to read it, or what was condemned goes.

        How old a record is, two clocks say, of which one may be wrong: so it goes only when any write that was
        under way as it was judged has ended too."""
        parts = self._parts
        if parts.crew.busy("strays") or not parts.crew.room():
            return
        for node_id, (due, condemned) in self._condemned.items():
            if parts.clock() >= due:
                del self._condemned[node_id]
                self._remove_strays(node_id, condemned)
                return
        nodes = [m.info for m in view.members if m.healthy and m.admin_state in (AdminState.ACTIVE, AdminState.MAINTENANCE)]
        found = self.strays.next(nodes, [member.info.node_id for member in view.members], now_ms)
        if found is None:
            return
        node, after = found
        ttl_ms = round(1000 * parts.policy.upload_ttl)

        def then(page: Judged | Exception) -> None:
            doomed = {} if isinstance(page, Exception) else self.strays.judged(node.node_id, page, parts.now_ms())
            if doomed:
                self._condemned[node.node_id] = parts.clock() + 2 * parts.policy.write_seconds, doomed

        parts.crew.put(
            Job("strays", lambda: parts.rule.read(node, after, surplus_ms=ttl_ms, unknown_ms=ttl_ms), then)
        )

    def _remove_strays(self, node_id: str, doomed: dict[Key, Verdict]) -> None:
        member = self._parts.membership.view().get(node_id)
        if member is not None:
            info = member.info
            # What fails is found again by the next walk.
            self._parts.crew.put(Job("strays", lambda: self._parts.rule.remove(info, doomed), lambda _: None))

    # --- what has come of it ---

    def _mend(self, key: Key, kind: TourKind) -> Mended:
        """For a thread of the crew: one chunk of a tour."""
        mended = self._parts.mender.mend(*key, rebalance=kind is TourKind.REBALANCE)
        if mended.outcome is Outcome.UNRECOVERABLE and key not in self._hopeless:
            mark_short(self._parts.store, *key, self._parts.now_ms())
        return mended

    def _count(self, mended: Mended, key: Key) -> None:
        self.flow.add(mended.copied_chunks, mended.copied_bytes)
        if mended.outcome is not Outcome.UNRECOVERABLE:
            self._hopeless.drop(key)
        elif key not in self._hopeless:
            self._hopeless.put(key)
            logs.warning("repair.unrecoverable", file_id=key[0], chunk_index=key[1], reason=mended.reason)

    # --- showing ---

    def status(self, leader: str, generation: int, number: int) -> RepairStatus:
        """The state of repair now."""
        view = self._parts.membership.view()
        absent = self.absence.seconds()
        tours = self._touring.shown()
        backlog = self._backlog
        members = {member.info.node_id: member.info for member in view.members}
        return RepairStatus(
            at=self._parts.now_ms(),
            leader=leader,
            generation=generation,
            fence=number,
            short=backlog.short,
            short_more=backlog.more,
            bad=self._bad.count,
            absent=absent,
            repaired=tuple(sorted(self._touring.repaired)),
            tours=tours,
            unrecoverable=backlog.unrecoverable,
            unrecoverable_chunks=backlog.unrecoverable_chunks,
            waiting=backlog.waiting + sum(tour.waiting for tour in tours),
            copied_chunks=self.flow.chunks,
            copied_bytes=self.flow.bytes,
            bytes_per_second=self.flow.rate(),
            whole_at=self._whole_at,
            rebalanced_at=self._touring.rebalanced_at,
            beats={node_id: members[node_id].heartbeat_seq for node_id in absent if node_id in members},
            problems=tuple(self._problems(tours)),
            factor=self._factor,
        )

    def _problems(self, tours: tuple[Tour, ...]) -> Iterator[str]:
        if not self.absence.readable:
            yield "the registry of nodes cannot be read: nothing is repaired and nobody is declared lost"
        if self._factor < self._parts.policy.factor:
            yield (
                f"the replication factor was raised from {self._factor} to {self._parts.policy.factor}: an audit finds "
                "the chunks that need more copies, and a second one that all have them"
            )
        if self._backlog.unrecoverable:
            yield f"{self._backlog.unrecoverable} chunks have no copy that can be read"
        for tour in tours:
            if tour.waits_for:
                yield f"{tour.kind} of node {tour.node_id}: {tour.waits_for}"
        yield from self.strays.problems.values()


def _obeys(member: MemberState, at: int) -> bool:
    """Whether an order to repair a node now, given at `at` (ms), is to be followed: not if the node answers,
    nor if it was sent into maintenance after that."""
    if member.healthy or member.admin_state is AdminState.DECOMMISSIONED:
        return False
    return member.admin_state is not AdminState.MAINTENANCE or at >= member.info.admin_at
