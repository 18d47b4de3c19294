"""Going through the chunks of one node: page by page, resumable, in passes.

The index by node is eventually consistent and rows may come late, so one pass proves nothing: a tour ends
with a pass that found nothing to do. Until then pass follows pass; one that found only chunks that wait
for something is followed by a rest as long as itself, or by a change among the nodes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum

from dfs.metadata.contract import MetadataStore
from dfs.repair.mend import Mended, Outcome
from dfs.repair.progress import Tour, TourKind

PAGE = 200
"""Chunks asked for at once."""

MOST_PASSES = 8
"""Of a rebalance: if placement itself keeps changing, it is ordered again later."""

LONGEST_REST = 600.0
"""Seconds between passes that find nothing but chunks that wait."""

Key = tuple[str, int]


class Next(StrEnum):
    """What follows a pass."""

    PASS = "pass"
    REST = "rest"
    INVENTORY = "inventory"
    END = "end"


def after_pass(tour: Tour) -> Next:
    """What follows the pass over rows that `tour` has just ended."""
    if tour.kind is TourKind.REBALANCE and tour.passes + 1 >= MOST_PASSES:
        return Next.END
    if tour.found:
        return Next.PASS
    if tour.waiting and tour.kind is not TourKind.REBALANCE:
        return Next.REST  # for that one every copy is in its place or another's work; nobody else looks for surplus
    return Next.INVENTORY if tour.kind is TourKind.DRAIN else Next.END


class Walk:
    """A tour under way. `tour` is what the next leader needs to go on; its cursor only passes chunks that
    are done with. `scene` is what the nodes were like, in whatever form, when the pass began."""

    def __init__(self, tour: Tour, store: MetadataStore, clock: Callable[[], float], scene: object = None) -> None:
        self.tour = replace(tour, waits_for="")
        self.scene = scene
        self.blocked = ""  # why it cannot go on at all, for now
        self.rest_until = float("-inf")
        self.rested = False  # since the pass that is over; its figures are shown until the next begins
        self._store = store
        self._clock = clock
        self._began: float | None = None
        self._read_to = tour.cursor
        self._read_all = False
        self._ahead: deque[Key] = deque()
        self._out: deque[Key] = deque()
        self._done: set[Key] = set()

    @property
    def key(self) -> tuple[TourKind, str]:
        """By which it is known: there is one tour of a kind and node."""
        return self.tour.kind, self.tour.node_id

    @property
    def over(self) -> bool:
        """Whether the pass over rows has ended."""
        return self._read_all and not self._ahead and not self._out

    def next(self) -> Key | None:
        """The next chunk of the pass; None when there is no more to hand out. Raises errors.Unavailable."""
        if self._began is None:
            self._began = self._clock()
        if not self._ahead and not self._read_all:
            page = self._store.node_chunks(self.tour.node_id, after=self._read_to, limit=PAGE)
            self._ahead.extend(page)
            if page:
                self._read_to = page[-1]
            else:
                self._read_all = True
        if not self._ahead:
            return None
        key = self._ahead.popleft()
        self._out.append(key)
        return key

    def give_back(self, key: Key) -> None:
        """It is not its turn after all: the last one handed out is the next again."""
        assert self._out.pop() == key
        self._ahead.appendleft(key)

    def done(self, key: Key, mended: Mended) -> None:
        """What became of a chunk that was handed out."""
        tour = self.tour
        first = not tour.passes
        waits = mended.outcome in (Outcome.WAITING, Outcome.UNRECOVERABLE)
        self._done.add(key)
        cursor = tour.cursor
        while self._out and self._out[0] in self._done:
            cursor = self._out.popleft()
            self._done.discard(cursor)
        done = tour.chunks_done + first
        total = max(tour.chunks_total, done)
        self.tour = replace(
            tour,
            cursor=cursor,
            found=tour.found + (mended.outcome is Outcome.MENDED),
            waiting=tour.waiting + waits,
            chunks_done=done,
            chunks_total=total,
            bytes_done=tour.bytes_total * done // total if done else 0,
            copied_bytes=tour.copied_bytes + mended.copied_bytes,
            waits_for=mended.reason or str(mended.outcome) if waits else tour.waits_for,
        )

    def begin_pass(self, scene: object) -> None:
        """Begin at the first row again."""
        self._restart(scene)
        self.tour = replace(
            self.tour,
            bytes_done=self.tour.bytes_total,
            cursor=None,
            passes=self.tour.passes + 1,
            found=0,
            waiting=0,
            in_inventory=False,
            sequence=0,
            left=0,
            waits_for="",
        )

    def begin_inventory(self, scene: object) -> None:
        """Go on with the node's own inventory, from its beginning."""
        self._restart(scene)
        self.tour = replace(self.tour, cursor=None, found=0, waiting=0, in_inventory=True, sequence=0, left=0)

    def read_inventory(self, following: int | None, seen: int, removed: int, waits_for: str) -> None:
        """A page of the inventory is done with: it had `seen` records, of which `removed` are gone now."""
        tour = self.tour
        self.tour = replace(
            tour,
            sequence=tour.sequence if following is None else following,
            left=tour.left + seen,
            found=tour.found + removed,
            waiting=tour.waiting + seen - removed,
            waits_for=waits_for or tour.waits_for,
        )

    def rest(self, seconds: float) -> None:
        """Stand still for so long."""
        self.rest_until = self._clock() + seconds

    def rest_after_pass(self, least: float) -> None:
        """Stand still for as long as the pass took, but at least `least` seconds."""
        took = 0.0 if self._began is None else self._clock() - self._began
        self.rest(min(LONGEST_REST, max(least, took)))
        self.rested = True

    def resting(self, scene: object) -> bool:
        """Whether it is too early to go on, with the nodes as they are in `scene`."""
        return self._clock() < self.rest_until and scene == self.scene

    def shown(self) -> Tour:
        """The tour as it is shown: with what it waits for now."""
        return replace(self.tour, waits_for=self.blocked) if self.blocked else self.tour

    def _restart(self, scene: object) -> None:
        self.scene = scene
        self.rested = False
        self._began = None
        self._read_to, self._read_all = None, False
        self._ahead.clear()
