"""How probable it is to lose a chunk for good: by a formula, and by virtual time to check the formula.

A node that fails takes its copies with it for ever; failures are independent, at a constant rate. What was on it
has its copy again after a time w (the delay and the copying). Something is lost when all R nodes of a set that holds
chunks fail within w. With a rate l a node, that is R * l**R * w**(R - 1) a set and year: the first
failure at R*l; given it, each of the other R - 1 falls into the window with l*w, in any order, and the window
is that of the first, because a chunk that is repaired gets all its copies at once. In a large cluster nearly every
placement group has a set of nodes of its own, in a small one many share it.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

HOURS = 3600.0
YEAR = 365.25 * 24 * HOURS


def sets_lost_a_year(sets: int, factor: int, failures_a_year: float, window: float) -> float:
    """Expected number of sets of nodes that fail together in a year. `window` in seconds."""
    rate = failures_a_year / YEAR
    return sets * factor * rate**factor * window ** (factor - 1) * YEAR


def mean_window(done_at: Sequence[float], factor: int) -> float:
    """The window that gives the formula the mean of w**(R - 1) over chunks."""
    if factor == 1:
        return 0.0
    power = factor - 1
    return float((sum(seconds**power for seconds in done_at) / len(done_at)) ** (1 / power))


@dataclass(frozen=True, slots=True)
class Timeline:
    """What happened in virtual time."""

    years: float
    failures: int
    sets_lost: int


def sets_of(layout: Iterable[Iterable[str]]) -> list[tuple[str, ...]]:
    """The different sets of nodes that hold something together."""
    return sorted({tuple(sorted(holders)) for holders in layout})


def run(
    sets: Sequence[tuple[str, ...]],
    *,
    years: float,
    failures_a_year: float,
    window: float,
    source: random.Random,
) -> Timeline:
    """Nodes fail at random and are replaced by new ones at once, whose sets are without that copy for
    `window` seconds. A set that loses its last copy is counted, and begins anew."""
    nodes = sorted({node_id for holders in sets for node_id in holders})
    of_node: dict[str, list[int]] = {node_id: [] for node_id in nodes}
    for place, holders in enumerate(sets):
        for node_id in holders:
            of_node[node_id].append(place)
    missing: dict[int, set[str]] = {}
    mends: list[tuple[float, int]] = []
    until: dict[int, float] = {}
    lost = failures = 0
    now = source.expovariate(len(nodes) * failures_a_year / YEAR)
    while now < years * YEAR:
        failures += 1
        while mends and mends[0][0] <= now:
            at, place = heapq.heappop(mends)
            if until.get(place) == at:
                del missing[place], until[place]
        victim = source.choice(nodes)
        for place in of_node[victim]:
            away = missing.setdefault(place, set())
            if not away:
                until[place] = now + window
                heapq.heappush(mends, (until[place], place))
            away.add(victim)
            if len(away) == len(sets[place]):
                lost += 1
                del missing[place], until[place]
        now += source.expovariate(len(nodes) * failures_a_year / YEAR)
    return Timeline(years, failures, lost)
