"""Placement: spread, balance, stability. Pure, so these are properties of values."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from dfs.cluster import placement
from dfs.cluster.placement import GROUPS, Placement, group_of, order
from dfs.model import NodeInfo
from tests.unit.cluster.fakes import FILE, GIB, info, view_of

groups = st.integers(0, GROUPS - 1)
some_nodes = st.lists(
    st.tuples(st.integers(0, 40), st.sampled_from(["a", "b", "c", None]), st.integers(1, 64)),
    min_size=1,
    max_size=9,
    unique_by=lambda drawn: drawn[0],
).map(lambda drawn: [info(f"n{n}", zone=zone, capacity=size * GIB) for n, zone, size in drawn])


def test_known_values_never_change_because_stored_data_lies_by_them() -> None:
    nodes = [info(name) for name in "abcde"]
    assert [group_of(FILE, index) for index in range(4)] == KNOWN_GROUPS
    assert ["".join(order(group, nodes)) for group in (0, 1, 2, 65_535)] == KNOWN_ORDERS


KNOWN_GROUPS = [52375, 27356, 25414, 63516]
KNOWN_ORDERS = ["cdabe", "debca", "adecb", "acbde"]


@given(groups, some_nodes, st.randoms())
def test_the_order_does_not_depend_on_how_the_nodes_are_listed(group: int, nodes: list[NodeInfo], random: object) -> None:
    expected = order(group, nodes)
    assert sorted(expected) == sorted(node.node_id for node in nodes)
    random.shuffle(nodes)  # type: ignore[attr-defined]
    assert order(group, nodes) == expected


@given(groups, some_nodes, st.integers(1, 4))
def test_the_first_r_span_as_many_zones_as_they_can(group: int, nodes: list[NodeInfo], factor: int) -> None:
    zone_of = {node.node_id: node.zone for node in nodes}
    first = order(group, nodes)[:factor]
    assert len({zone_of[node_id] for node_id in first}) == min(len(first), len(set(zone_of.values())))


@given(groups, some_nodes, st.integers(1, 3), st.data())
def test_a_node_that_leaves_moves_only_what_it_held(
    group: int, nodes: list[NodeInfo], factor: int, data: st.DataObject
) -> None:
    before = order(group, nodes)
    gone = data.draw(st.sampled_from([node.node_id for node in nodes]))
    after = order(group, [node for node in nodes if node.node_id != gone])
    if gone not in before[:factor]:
        assert after[:factor] == before[:factor]


@given(groups, some_nodes)
def test_without_zones_the_others_keep_their_order_when_a_node_leaves(group: int, nodes: list[NodeInfo]) -> None:
    flat = [info(node.node_id, capacity=node.capacity_bytes) for node in nodes]
    before = order(group, flat)
    assert order(group, [node for node in flat if node.node_id != before[0]]) == before[1:]


def test_first_places_are_shared_by_weight() -> None:
    sizes = {"a": 1, "b": 2, "c": 4, "d": 8, "e": 1}
    view = view_of(*(info(name, capacity=size * 64 * GIB) for name, size in sizes.items()))
    table = placement._Table(view.writable, placement._Columns())
    got = Counter(table.ids[table.first(group)] for group in range(GROUPS))
    for name, size in sizes.items():
        assert abs(got[name] / GROUPS - size / 16) < 0.01, got


def test_chunks_of_one_file_fall_into_groups_evenly() -> None:
    view = view_of(*(info(name) for name in "abcd"))
    firsts = Counter(node.node_id for node in Placement().firsts(FILE, 20_000, view))
    assert all(abs(count - 5_000) < 500 for count in firsts.values()), firsts


@given(some_nodes, st.integers(0, 500))
@settings(max_examples=30)
def test_cached_and_uncached_ways_agree(nodes: list[NodeInfo], index: int) -> None:
    view, cached = view_of(*nodes), Placement()
    expected = order(group_of(FILE, index), nodes)
    for _ in range(2):
        assert tuple(node.node_id for node in cached.nodes_for(FILE, index, view)) == expected
        first = cached.first_for(FILE, index, view)
        assert first is not None and first.node_id == expected[0]
    assert [node.node_id for node in cached.firsts(FILE, 3, view)] == [
        order(group_of(FILE, chunk), nodes)[0] for chunk in range(3)
    ]


def test_nodes_come_with_the_view_asked_even_when_the_ranking_is_cached() -> None:
    cached = Placement()
    cached.nodes_for(FILE, 0, view_of(info("a"), info("b")))
    moved = view_of(info("a", port=9), info("b", port=9))
    assert {node.port for node in cached.nodes_for(FILE, 0, moved)} == {9}


def test_rankings_of_old_views_and_columns_of_gone_nodes_are_forgotten() -> None:
    cached = Placement()
    for epoch in range(1, 6):
        cached.nodes_for(FILE, 0, view_of(info(f"n{epoch}"), info("stays"), epoch=epoch))
    assert sorted(cached._tables) == [4, 5]
    assert set(cached._columns._columns) == {"n5", "stays"}


def test_the_cache_of_rankings_is_bounded() -> None:
    view = view_of(*(info(name) for name in "abc"))
    table = placement._Table(view.writable, placement._Columns())
    table._limit = 10
    for group in range(50):
        table.order(group)
    assert len(table._orders) == 10
    assert list(table.order(49)) == list(table._rank(49))


def test_nobody_to_place_on() -> None:
    assert Placement().first_for(FILE, 0, view_of()) is None
    assert Placement().nodes_for(FILE, 0, view_of()) == ()


def test_free_space_that_moves_a_little_moves_no_data() -> None:
    nodes = [info(name, capacity=100 * GIB) for name in "abcdef"]
    wobbling = [info(name, capacity=100 * GIB - n * 1_000_000) for n, name in enumerate("abcdef")]
    assert all(order(group, nodes) == order(group, wobbling) for group in range(200))
