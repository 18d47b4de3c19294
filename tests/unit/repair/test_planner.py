"""The planner: what must hold for any chunk, and the cases worth a name."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dfs.repair.planner import ChunkPlan, Holder, plan
from tests.support.sweep import scaled

A, B, C, D, E = "abcde"
GOOD, AWAY, LEAVING, BAD, LOST = Holder
NODES = "abcdefgh"


@dataclass(frozen=True)
class Case:
    holders: dict[str, Holder]
    factor: int
    preferred: list[str]
    zones: dict[str, str | None]
    gone: set[str]
    trim: bool

    def plan(self, holders: dict[str, Holder] | None = None, ideal: Collection[str] | None = None) -> ChunkPlan:
        return plan(
            self.holders if holders is None else holders,
            factor=self.factor,
            preferred=self.preferred,
            zones=self.zones,
            gone=self.gone,
            trim=self.trim,
            ideal=ideal,
        )

    def good(self, holders: dict[str, Holder]) -> set[str]:
        """Good copies on nodes that stay."""
        return {node for node, kind in holders.items() if kind is GOOD and node not in self.gone}


@st.composite
def cases(draw: Any) -> Case:
    holders = draw(st.dictionaries(st.sampled_from(NODES), st.sampled_from(list(Holder)), max_size=6))
    # What is away, lost or leaving takes no chunks; a good or bad holder may (or be full).
    able = [node for node in NODES if holders.get(node, GOOD) in (GOOD, BAD)]
    preferred = draw(st.lists(st.sampled_from(able), unique=True)) if able else []
    lost = [node for node, kind in holders.items() if kind is LOST]
    return Case(
        holders=holders,
        factor=draw(st.integers(1, 4)),
        preferred=preferred,
        zones=draw(st.fixed_dictionaries({node: st.sampled_from(["x", "y", "z", None]) for node in NODES})),
        gone=set(draw(st.lists(st.sampled_from(lost)))) if lost else set(),
        trim=draw(st.booleans()),
    )


def applied(holders: dict[str, Holder], planned: ChunkPlan) -> dict[str, Holder]:
    left = {node: kind for node, kind in holders.items() if node not in (*planned.drops, *planned.forget)}
    return left | dict.fromkeys(planned.copies, GOOD)


many = settings(max_examples=scaled(150, 20_000))


@many
@given(cases())
def test_nothing_is_dropped_or_forgotten_unless_enough_good_copies_stay(case: Case) -> None:
    planned = case.plan()
    if planned.drops or planned.forget:
        assert len(case.good(case.holders) - set(planned.drops)) >= case.factor
        assert not planned.copies
    assert not set(planned.drops) & set(planned.forget)
    assert set(planned.forget) <= case.gone
    assert all(case.holders[node] is not LOST for node in planned.drops)


@many
@given(cases())
def test_after_two_steps_nothing_is_left_to_do(case: Case) -> None:
    holders = applied(case.holders, case.plan())
    holders = applied(holders, case.plan(holders))
    assert case.plan(holders).empty
    kinds = set(holders.values())
    if len(case.good(holders)) >= case.factor:
        assert kinds <= {GOOD, AWAY, LOST} and not case.gone & set(holders)
        assert not case.trim or len(case.good(holders)) == case.factor


@many
@given(cases())
def test_copies_go_to_nodes_that_take_chunks_and_have_none(case: Case) -> None:
    planned = case.plan()
    assert len(set(planned.copies)) == len(planned.copies)
    for node in planned.copies:
        assert node in case.preferred
        assert case.holders.get(node, BAD) is BAD
    assert not planned.copies or planned.sources
    assert all(case.holders[node] in (GOOD, LEAVING) for node in planned.sources)


@many
@given(cases())
def test_no_more_copies_than_are_missing_and_no_fewer_than_can_be(case: Case) -> None:
    planned = case.plan()
    good = case.good(case.holders)
    away = {node for node, kind in case.holders.items() if kind is AWAY}
    missing = max(0, case.factor - len(good) - len(away))
    new = [node for node in planned.copies if node not in case.holders]
    room = [node for node in case.preferred if case.holders.get(node, BAD) is BAD]
    assert len(good) + len(planned.copies) <= max(case.factor, len(good))
    assert len(new) <= missing
    if planned.sources:
        assert len(planned.copies) >= min(missing, len(room))
        assert planned.short_after == max(0, missing - len(planned.copies))
    else:
        assert planned.short_after == missing


@many
@given(cases())
def test_bad_copies_are_healed_where_they_are_before_other_nodes_are_used(case: Case) -> None:
    planned = case.plan()
    new = [node for node in planned.copies if node not in case.holders]
    bad = {node for node, kind in case.holders.items() if kind is BAD and node in case.preferred}
    if new:
        assert bad <= set(planned.copies)
    healed = [node for node in planned.copies if node in case.holders]
    assert list(planned.copies) == healed + new


@many
@given(cases())
def test_targets_in_zones_without_a_copy_come_first_then_placement_order(case: Case) -> None:
    planned = case.plan()
    used = {case.zones[node] for node, kind in case.holders.items() if kind in (GOOD, AWAY) and node not in case.gone}
    free = [node for node in case.preferred if node not in case.holders]
    for node in planned.copies:
        if node in free:
            fresh = [other for other in free if case.zones[other] not in used]
            assert node == (fresh or free)[0]
            free.remove(node)
        used.add(case.zones[node])


@many
@given(cases())
def test_unrecoverable_means_no_source_and_nothing_that_may_come_back(case: Case) -> None:
    kinds = set(case.holders.values())
    assert case.plan().unrecoverable == (not kinds & {GOOD, LEAVING, AWAY})


@many
@given(cases(), st.lists(st.sampled_from(NODES), unique=True))
def test_moving_towards_ideal_nodes_comes_to_an_end(case: Case, wanted: Sequence[str]) -> None:
    if not case.trim:
        return
    ideal = set(wanted[: case.factor])
    holders = case.holders
    for _ in range(2 * case.factor + 3):
        planned = case.plan(holders, ideal)
        assert len(case.good(applied(holders, planned))) >= min(case.factor, len(case.good(holders)))
        if planned.empty:
            break
        holders = applied(holders, planned)
    else:
        raise AssertionError("it moves for ever")
    if len(case.good(holders)) >= case.factor:
        able = {node for node in ideal & set(case.preferred) if node not in holders}
        assert not able or case.good(holders) <= ideal


def planned(holders: dict[str, Holder], factor: int = 2, **more: Any) -> ChunkPlan:
    options: dict[str, Any] = {"preferred": [A, B, C, D, E], "zones": {}}
    return plan(holders, factor=factor, **(options | more))


def test_a_whole_chunk_needs_nothing() -> None:
    found = planned({A: GOOD, B: GOOD})
    assert found.empty and not found.unrecoverable and found.short_after == 0


def test_a_lost_node_is_replaced_and_its_row_stays() -> None:
    assert planned({A: GOOD, B: LOST}).copies == (C,)
    assert planned({A: GOOD, B: LOST, C: GOOD}).empty


def test_a_node_that_is_away_counts_as_a_copy() -> None:
    assert planned({A: GOOD, B: AWAY}).empty
    assert planned({A: GOOD, B: AWAY}, factor=3).copies == (C,)
    found = planned({A: AWAY, B: LOST})
    assert (found.copies, found.unrecoverable, found.short_after) == ((), False, 1)


def test_a_returned_node_makes_the_copy_that_comes_last_surplus() -> None:
    assert planned({A: GOOD, B: GOOD, C: GOOD}).drops == (C,)
    assert planned({A: GOOD, B: GOOD, C: GOOD}, trim=False).empty
    assert planned({A: GOOD, B: GOOD, C: GOOD}, zones={A: "x", B: "x", C: "y"}).drops == (B,)


def test_a_full_node_is_the_first_to_lose_what_is_too_much() -> None:
    assert planned({A: GOOD, B: GOOD, C: GOOD}, preferred=[B, C]).drops == (A,)


def test_a_draining_node_is_a_source_and_drops_its_copy_at_the_end() -> None:
    found = planned({A: LEAVING, B: GOOD}, preferred=[B, C])
    assert (found.copies, found.sources, found.drops) == ((C,), (B, A), ())
    assert planned({A: LEAVING, B: GOOD, C: GOOD}, preferred=[B, C]).drops == (A,)
    assert planned({A: LEAVING, B: GOOD, C: AWAY}, preferred=[B]).drops == ()


def test_a_bad_copy_is_healed_in_place_even_while_another_is_away() -> None:
    assert planned({A: GOOD, B: BAD}).copies == (B,)
    assert planned({A: GOOD, B: BAD, C: AWAY}).copies == (B,)
    assert planned({A: GOOD, B: BAD}, preferred=[A, C]).copies == (C,)
    assert planned({A: GOOD, B: BAD, C: GOOD}).drops == (B,)


def test_rows_of_nodes_that_are_gone_are_forgotten_when_enough_others_are_good() -> None:
    assert planned({A: GOOD, E: LOST}, gone=[E]).forget == ()
    assert planned({A: GOOD, B: GOOD, E: LOST}, gone=[E]).forget == (E,)


def test_too_few_nodes_leave_the_chunk_short() -> None:
    found = planned({A: GOOD}, factor=3, preferred=[A, B])
    assert (found.copies, found.short_after) == ((B,), 1)


@pytest.mark.parametrize("holders", [{}, {A: BAD}, {A: LOST, B: BAD}])
def test_no_copy_left_is_unrecoverable_and_nothing_is_touched(holders: dict[str, Holder]) -> None:
    found = planned(holders)
    assert found.unrecoverable and found.empty and found.short_after == 2


def test_one_copy_moves_at_a_time() -> None:
    ideal = {C, D}
    first = planned({A: GOOD, B: GOOD}, ideal=ideal)
    assert first.copies == (C,) and not first.drops
    assert planned({A: GOOD, B: GOOD, C: GOOD}, ideal=ideal).drops == (B,)
    assert planned({A: GOOD, C: GOOD}, ideal=ideal).copies == (D,)
    assert planned({C: GOOD, D: GOOD}, ideal=ideal).empty
