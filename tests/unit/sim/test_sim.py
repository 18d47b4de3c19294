"""The simulation at a size at which its answers can be told without it."""

from __future__ import annotations

import random

import pytest

from dfs.cluster.placement import GROUPS, group_of
from tests.sim.__main__ import main
from tests.sim.layout import GIB, Places, balance, chunks_of_each_group, nodes_of
from tests.sim.losing import YEAR, mean_window, run, sets_lost_a_year, sets_of
from tests.sim.mending import mend

Layout = list[list[str]]


@pytest.fixture(scope="module")
def places() -> Places:
    return Places(nodes_of(12, 3))


@pytest.fixture(scope="module")
def layout(places: Places) -> Layout:
    return [places.order(group)[:2] for group in range(GROUPS)]


def test_every_chunk_falls_into_a_group_and_is_counted_once() -> None:
    counts = chunks_of_each_group(100_000, random.Random(1))
    assert len(counts) == GROUPS and sum(counts) == 100_000
    assert 0 <= group_of("f", 0) < GROUPS


def test_placement_is_balanced_by_capacity_and_keeps_copies_in_different_zones(
    places: Places, layout: Layout
) -> None:
    counts = [10] * GROUPS
    even = balance(places, layout, counts, 3)
    assert even.shared_zone == 0
    assert 0.95 < even.least <= 1 <= even.most < 1.05
    mixed = Places(nodes_of(12, 3, (100 * GIB, 200 * GIB)))
    by_capacity = balance(mixed, [mixed.order(group)[:2] for group in range(GROUPS)], counts, 3)
    assert 0.9 < by_capacity.least <= 1 <= by_capacity.most < 1.1


def test_one_zone_less_than_copies_is_told() -> None:
    two = Places(nodes_of(4, 1))
    layout = [two.order(group)[:2] for group in range(GROUPS)]
    assert balance(two, layout, [1] * GROUPS, 1).shared_zone == 0, "there is only one"
    assert balance(two, layout, [1] * GROUPS, 2).shared_zone == GROUPS


def test_a_lost_node_is_copied_once_and_the_rate_decides_how_long_that_takes(
    places: Places, layout: Layout
) -> None:
    counts = [3] * GROUPS
    victim = places.nodes[0].node_id
    held = 3 * sum(victim in holders for holders in layout)
    work = {"factor": 2, "chunk_bytes": 1_000_000, "node_megabytes_a_second": 1e9, "delay": 600.0}
    slow = mend(places, layout, counts, {victim}, megabytes_a_second=10, **work)
    fast = mend(places, layout, counts, {victim}, megabytes_a_second=1000, **work)
    assert (slow.chunks, slow.unrecoverable) == (held, 0)
    assert slow.seconds - 600 == pytest.approx(held / 10)
    assert slow.seconds - 600 == pytest.approx(100 * (fast.seconds - 600))
    assert max(slow.done_at.values()) == pytest.approx(slow.seconds)
    assert len(slow.done_at) == sum(victim in holders for holders in layout)


def test_a_slow_disk_bounds_the_time_to_repair(places: Places, layout: Layout) -> None:
    done = mend(
        places,
        layout,
        [3] * GROUPS,
        {places.nodes[0].node_id},
        factor=2,
        chunk_bytes=1_000_000,
        megabytes_a_second=1e9,
        node_megabytes_a_second=1.0,
        delay=0.0,
    )
    assert done.chunks / 11 < done.seconds < done.chunks


def test_chunks_of_which_both_nodes_are_lost_are_counted_as_lost(places: Places, layout: Layout) -> None:
    first, second = layout[0]
    done = mend(
        places,
        layout,
        [1] * GROUPS,
        {first, second},
        factor=2,
        chunk_bytes=1,
        megabytes_a_second=1,
        node_megabytes_a_second=1,
        delay=0,
    )
    both = sum({first, second} == set(holders) for holders in layout)
    assert done.unrecoverable == both > 0
    assert places.order(0)[0] == first, "the nodes live again afterwards"


def test_the_formula_agrees_with_virtual_time() -> None:
    source = random.Random(7)
    nodes = [f"n{number}" for number in range(40)]
    for factor, window in ((1, 0.0), (2, 3600.0), (3, 20_000.0)):
        sets = sets_of(source.sample(nodes, factor) for _ in range(2000))
        rate = 20.0
        seen = run(sets, years=5, failures_a_year=rate, window=window, source=source)
        expected = sets_lost_a_year(len(sets), factor, rate, window) * 5
        assert seen.sets_lost == pytest.approx(expected, rel=0.25), factor
        assert seen.failures == pytest.approx(40 * rate * 5, rel=0.1)


def test_windows_of_the_formula() -> None:
    assert sets_of([["b", "a"], ["a", "b"], ["c", "a"]]) == [("a", "b"), ("a", "c")]
    assert mean_window([1.0, 2.0], 1) == 0
    assert mean_window([1.0, 3.0], 2) == 2
    assert mean_window([3.0, 3.0], 3) == pytest.approx(3)
    assert sets_lost_a_year(10, 1, 0.5, 0) == pytest.approx(5)
    assert sets_lost_a_year(1, 2, 1.0, YEAR) == pytest.approx(2)


def test_the_command_prints_every_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--nodes", "9", "--chunks", "20000", "--checked-failures", "50"]) == 0
    said = capsys.readouterr().out
    headings = [line for line in said.splitlines() if line.startswith("### ")]
    assert headings == [
        "### Balance of placement",
        "### Time to repair",
        "### Probability of losing anything",
        "### The formula against virtual time",
    ]
    assert "9 nodes in 3 zones, 20,000 chunks of 1 MiB, seed 1." in said
