"""What one chunk needs: copies, drops, rows to be forgotten. Pure.

Two rules come before all others. A chunk that has fewer than R copies is copied from any node that
has a good one; and nothing is dropped or forgotten unless R good copies, on nodes that stay, exist
already. So a plan that copies drops nothing: when the copies are there the next plan does.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Holder(StrEnum):
    """What a node that has a row for the chunk is to it.

    GOOD: it answers and, as far as known, holds a good copy. AWAY: it does not answer but may well come
    back (in maintenance, or absent for less than the repair delay); counts as a copy, is no source.
    LEAVING: it answers and holds a good copy, but is draining; a source, no copy to count on. BAD: it
    answers, and its copy is corrupt or missing. LOST: absent too long, decommissioned or not registered.
    """

    GOOD = "good"
    AWAY = "away"
    LEAVING = "leaving"
    BAD = "bad"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class ChunkPlan:
    """What to do for one chunk, by node id.

    `sources` have a good copy now. `copies` are to get one, most wanted first; holders of a bad copy among
    them are healed in place. `drops` lose their row, then their bytes; `forget` lose their row only.
    `unrecoverable`: no source, and nothing that may well come back. `short_after`: copies that will still
    be missing when the plan is done, for want of targets or sources.
    """

    sources: tuple[str, ...]
    copies: tuple[str, ...]
    drops: tuple[str, ...]
    forget: tuple[str, ...]
    unrecoverable: bool
    short_after: int

    @property
    def empty(self) -> bool:
        """Nothing is to be done."""
        return not (self.copies or self.drops or self.forget)


def plan(
    holders: Mapping[str, Holder],
    *,
    factor: int,
    preferred: Sequence[str],
    zones: Mapping[str, str | None],
    gone: Collection[str] = (),
    trim: bool = True,
    ideal: Collection[str] | None = None,
) -> ChunkPlan:
    """The plan for a chunk that `holders` have rows for.

    `preferred`: the writable nodes in placement order. `zones`: of nodes, where known (nodes without one
    share a zone). `gone`: holders that never come back (decommissioned, not registered); their rows are
    forgotten once R others are good. Rows of nodes that are only lost stay: their bytes are probably
    there, and when such a node returns what is too much is trimmed (with `trim`), those copies staying
    that are in zones of their own, then those that come first in placement order. With `ideal` a chunk
    that lacks nothing is moved towards those nodes, one copy a call.
    """
    rank = {node_id: place for place, node_id in enumerate(preferred)}
    ordered = sorted(holders, key=lambda node_id: (rank.get(node_id, len(rank)), node_id))

    def are(*kinds: Holder, staying: bool = True) -> list[str]:
        return [node for node in ordered if holders[node] in kinds and not (staying and node in gone)]

    good, away, bad = are(Holder.GOOD), are(Holder.AWAY), are(Holder.BAD)
    sources = are(Holder.GOOD, staying=False) + are(Holder.LEAVING, staying=False)
    healed: list[str] = []
    copies: list[str] = []
    if sources:
        # A bad copy is healed even where a node that is away would do: its row promises bytes to readers.
        healed = [node for node in bad if node in rank][: max(0, factor - len(good))]
        missing = max(0, factor - len(good) - len(away) - len(healed))
        used = [zones.get(node) for node in (*good, *away, *healed)]
        candidates = [node for node in preferred if node not in holders and node not in gone]
        copies = healed + _spread(candidates, missing, zones, used)
    drops: list[str] = []
    forget: list[str] = []
    if len(good) >= factor:
        kept = _kept(good, factor, zones, ideal) if trim else good
        drops = [node for node in good if node not in kept] + are(Holder.LEAVING) + bad
        forget = [node for node in ordered if node in gone]
        if ideal is not None and not drops:
            copies = _move(good, holders, ideal, preferred, gone)
    return ChunkPlan(
        sources=tuple(sources),
        copies=tuple(copies),
        drops=tuple(drops),
        forget=tuple(forget),
        unrecoverable=not sources and not away,
        short_after=max(0, factor - len(good) - len(away) - len(copies)),
    )


def _spread(
    candidates: Sequence[str], count: int, zones: Mapping[str, str | None], used: Sequence[str | None]
) -> list[str]:
    """The first `count` candidates, those in zones that nobody before them uses coming first."""
    seen = set(used)
    leaders: list[str] = []
    rest: list[str] = []
    for node in candidates:
        zone = zones.get(node)
        (rest if zone in seen else leaders).append(node)
        seen.add(zone)
    return (leaders + rest)[:count]


def _kept(
    good: Sequence[str], factor: int, zones: Mapping[str, str | None], ideal: Collection[str] | None
) -> list[str]:
    """The copies that stay when there are more than `factor`.

    Ideal ones come before those in zones of their own: a copy that was just moved must not go again."""
    first = [node for node in good if ideal is not None and node in ideal][:factor]
    others = [node for node in good if node not in first]
    return first + _spread(others, factor - len(first), zones, [zones.get(node) for node in first])


def _move(
    good: Sequence[str],
    holders: Mapping[str, Holder],
    ideal: Collection[str],
    preferred: Sequence[str],
    gone: Collection[str],
) -> list[str]:
    """The next node that is to get the copy of one that is not ideal; at most one."""
    if all(node in ideal for node in good):
        return []
    wanted = (node for node in preferred if node in ideal and node not in holders and node not in gone)
    return [node for node in (next(wanted, None),) if node is not None]
