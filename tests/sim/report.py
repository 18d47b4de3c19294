"""The whole simulation, as the tables of docs/durability.md."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.sim.layout import GIB, Balance, Places, balance, chunks_of_each_group, nodes_of
from tests.sim.losing import mean_window, run, sets_lost_a_year, sets_of
from tests.sim.mending import Mending, mend

MIB = 1 << 20
FACTORS = (1, 2, 3)


@dataclass(frozen=True, slots=True)
class Size:
    """How large the simulated cluster is, and how it repairs. Rates in MB/s, times in seconds."""

    nodes: int = 1000
    zones: int = 3
    chunks: int = 10_000_000
    chunk_bytes: int = MIB
    cluster_rates: tuple[int, ...] = (50, 200, 1000)
    node_rate: float = 100.0
    delay: float = 600.0
    failures_a_year: tuple[float, ...] = (0.002, 0.02, 0.05)
    """Shares of nodes that are lost in a year, by which losses are reckoned."""
    checked_failures: int = 4000
    seed: int = 1


def tables(size: Size) -> Iterator[str]:
    """Lines of markdown, as they are found."""
    source = random.Random(size.seed)
    counts = chunks_of_each_group(size.chunks, source)
    places = Places(nodes_of(size.nodes, size.zones))
    full = [places.order(group)[: max(FACTORS)] for group in range(len(counts))]
    layouts = {factor: [order[:factor] for order in full] for factor in FACTORS}
    yield f"{size.nodes:,} nodes in {size.zones} zones, {size.chunks:,} chunks of {size.chunk_bytes / MIB:g} MiB, seed {size.seed}."
    yield from _balance_table(size, places, layouts, counts)
    mendings = yield from _mending_table(size, places, layouts, counts)
    sets = {factor: sets_of(layout) for factor, layout in layouts.items()}
    yield from _loss_table(size, mendings, sets)
    yield from _check(size, sets, mendings, source)


def _balance_table(
    size: Size, places: Places, layouts: dict[int, list[list[str]]], counts: Sequence[int]
) -> Iterator[str]:
    yield from ("", "### Balance of placement", "")
    yield "| nodes | copies | fullest / mean | emptiest / mean | groups with two copies in one zone |"
    yield "| --- | --- | --- | --- | --- |"
    for factor, layout in layouts.items():
        yield _balance_row("all alike", factor, balance(places, layout, counts, size.zones))
    mixed = Places(nodes_of(size.nodes, size.zones, (100 * GIB, 200 * GIB)))
    layout = [mixed.order(group)[:2] for group in range(len(counts))]
    yield _balance_row("half of them twice as large (shares by capacity)", 2, balance(mixed, layout, counts, size.zones))
    places.without({places.nodes[0].node_id})
    layout = [places.order(group)[:2] for group in range(len(counts))]
    yield _balance_row("one lost", 2, balance(places, layout, counts, size.zones))
    moved = sum(
        count * len(set(after) - set(before))
        for before, after, count in zip(layouts[2], layout, counts, strict=True)
    )
    held = sum(
        count for holders, count in zip(layouts[2], counts, strict=True) if places.nodes[0].node_id in holders
    )
    places.without(())
    yield ""
    yield f"The node that was lost held {held:,} replicas; {moved:,} have another place after it: nothing else moves."


def _balance_row(name: str, factor: int, found: Balance) -> str:
    return f"| {name} | {factor} | {found.most:.3f} | {found.least:.3f} | {found.shared_zone} |"


def _mending_table(
    size: Size, places: Places, layouts: dict[int, list[list[str]]], counts: Sequence[int]
) -> Iterator[str]:
    yield from ("", "### Time to repair", "")
    yield (
        "| lost | copies | DFS_REPAIR_MBPS | chunks copied | GB | read from | written to | "
        "minutes (delay included) | chunks without a copy |"
    )
    yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    one = {places.nodes[0].node_id}
    zone = {node.node_id for node in places.nodes if node.zone == places.nodes[0].zone}
    two_zones = {places.nodes[0].node_id, next(n.node_id for n in places.nodes if n.zone != places.nodes[0].zone)}
    found: dict[tuple[int, int], Mending] = {}
    for factor in FACTORS[1:]:
        for rate in size.cluster_rates:
            for name, lost in (("one node", one), ("two nodes, of two zones", two_zones), ("a zone", zone)):
                done = mend(
                    places,
                    layouts[factor],
                    counts,
                    lost,
                    factor=factor,
                    chunk_bytes=size.chunk_bytes,
                    megabytes_a_second=rate,
                    node_megabytes_a_second=size.node_rate,
                    delay=size.delay,
                )
                if lost is one:
                    found[factor, rate] = done
                yield (
                    f"| {name} | {factor} | {rate} | {done.chunks:,} | {done.gigabytes:,.1f} | {done.sources} | "
                    f"{done.targets} | {done.seconds / 60:,.0f} | {done.unrecoverable:,} |"
                )
    return found


def _loss_table(
    size: Size, mendings: dict[tuple[int, int], Mending], sets: dict[int, list[tuple[str, ...]]]
) -> Iterator[str]:
    yield from ("", "### Probability of losing anything", "")
    yield "| copies | nodes that fail in a year | DFS_REPAIR_MBPS | losing any chunk within a year | losing a given chunk within a year |"
    yield "| --- | --- | --- | --- | --- |"
    for factor in FACTORS:
        for failures in size.failures_a_year:
            for rate in size.cluster_rates if factor > 1 else (0,):
                done = list(mendings[factor, rate].done_at.values()) if factor > 1 else [0.0]
                # Of chunks that share their nodes the last one to be repaired counts.
                anything = -math.expm1(-sets_lost_a_year(len(sets[factor]), factor, failures, max(done)))
                given = -math.expm1(-sets_lost_a_year(1, factor, failures, mean_window(done, factor)))
                yield (
                    f"| {factor} | {failures:.1%} | {rate or ''} | {_probability(anything)} | {_probability(given)} |"
                )


def _probability(value: float) -> str:
    return f"{value:.1%}" if value > 0.001 else f"{value:.1e}"


def _check(
    size: Size,
    sets: dict[int, list[tuple[str, ...]]],
    mendings: dict[tuple[int, int], Mending],
    source: random.Random,
) -> Iterator[str]:
    yield from ("", "### The formula against virtual time", "")
    yield "| copies | nodes that fail in a year | virtual years | failures | sets of nodes lost | the formula's expectation |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for factor, failures_a_year in ((2, 2.0), (3, 200.0)):
        window = statistics.fmean(mendings[factor, size.cluster_rates[0]].done_at.values())
        years = size.checked_failures / (size.nodes * failures_a_year)
        seen = run(
            sets[factor], years=years, failures_a_year=failures_a_year, window=window, source=source
        )
        expected = sets_lost_a_year(len(sets[factor]), factor, failures_a_year, window) * years
        yield (
            f"| {factor} | {failures_a_year:.0%} | {years:.2f} | {seen.failures:,} | {seen.sets_lost:,} | {expected:,.1f} |"
        )
