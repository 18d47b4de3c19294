"""Which tours there are, given the nodes; pure."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dfs.cluster.view import MemberState, View
from dfs.model import AdminState
from dfs.repair import itinerary
from dfs.repair.progress import Tour, TourKind
from dfs.repair.tours import MOST_PASSES, Next, after_pass
from tests.unit.cluster.fakes import info

LOST, RETURNED, DRAIN, FORGET, REBALANCE = (
    TourKind.LOST,
    TourKind.RETURNED,
    TourKind.DRAIN,
    TourKind.FORGET,
    TourKind.REBALANCE,
)


def view(**states: tuple[AdminState, bool]) -> View:
    """Nodes a, b, c: active and healthy unless said otherwise."""
    every = dict.fromkeys("abc", (AdminState.ACTIVE, True)) | states
    return View(1, [MemberState(info(n, admin_state=s), ok, not ok) for n, (s, ok) in sorted(every.items())])


@pytest.mark.parametrize(
    ("kind", "state", "healthy", "lost", "becomes"),
    [
        (LOST, AdminState.ACTIVE, False, True, LOST),
        (LOST, AdminState.ACTIVE, True, False, RETURNED),
        (LOST, AdminState.MAINTENANCE, False, False, LOST),
        (LOST, AdminState.DECOMMISSIONED, False, False, FORGET),
        (RETURNED, AdminState.ACTIVE, True, False, RETURNED),
        (RETURNED, AdminState.ACTIVE, False, False, RETURNED),
        (RETURNED, AdminState.ACTIVE, False, True, LOST),
        (DRAIN, AdminState.DRAINING, True, False, DRAIN),
        (DRAIN, AdminState.ACTIVE, True, False, None),
        (DRAIN, AdminState.DRAINED, True, False, None),
        (DRAIN, AdminState.DECOMMISSIONED, True, False, FORGET),
        (FORGET, AdminState.DECOMMISSIONED, False, False, FORGET),
        (FORGET, AdminState.ACTIVE, True, False, None),
        (REBALANCE, AdminState.ACTIVE, True, False, REBALANCE),
        (REBALANCE, AdminState.DRAINED, True, False, None),
        (REBALANCE, AdminState.DECOMMISSIONED, True, False, None),
    ],
)
def test_what_becomes_of_a_tour(
    kind: TourKind, state: AdminState, healthy: bool, lost: bool, becomes: TourKind | None
) -> None:
    begun = Tour(kind, "a", 1, chunks_done=7)
    revised = itinerary.revise([begun], (), view(a=(state, healthy)), {"a"} if lost else (), (), 5)
    assert [tour.kind for tour in revised.tours] == ([] if becomes is None else [becomes])
    if becomes is kind:
        assert revised.tours == (begun,)


def test_a_node_that_is_not_registered_any_more_is_forgotten() -> None:
    gone = Tour(LOST, "zz", 1)
    assert itinerary.revise([gone], ["zz"], view(), (), (), 5).tours == (Tour(FORGET, "zz", 5),)


def test_absent_nodes_stay_repaired_until_they_live_or_are_ours_no_more() -> None:
    away = (AdminState.ACTIVE, False)
    seen = view(a=away, b=away, c=(AdminState.DECOMMISSIONED, False))
    revised = itinerary.revise((), "abc", seen, "ab", (), 5)
    assert revised.repaired == {"a", "b"} and not revised.tours
    revised = itinerary.revise((), "ab", view(b=away), "b", (), 5)
    assert revised.repaired == {"b"} and [tour.kind for tour in revised.tours] == [RETURNED]


def test_what_is_most_pressing_comes_first() -> None:
    tours = [Tour(REBALANCE, "b", 1), Tour(FORGET, "zz", 1)]
    seen = view(a=(AdminState.ACTIVE, False), c=(AdminState.DRAINING, True))
    assert [t.kind for t in itinerary.revise(tours, (), seen, "a", (), 5).tours] == [LOST, DRAIN, FORGET, REBALANCE]


def test_what_a_tour_waits_for() -> None:
    away, absent = (AdminState.MAINTENANCE, False), (AdminState.ACTIVE, False)
    assert "maintenance" in itinerary.waits_for(Tour(LOST, "a", 1), view(a=away), ())
    assert not itinerary.waits_for(Tour(LOST, "a", 1), view(a=absent), "a")
    assert "does not answer" in itinerary.waits_for(Tour(RETURNED, "a", 1), view(a=absent), ())
    assert "lost" in itinerary.waits_for(Tour(DRAIN, "a", 1), view(a=(AdminState.DRAINING, False)), "a")
    assert "b is away" in itinerary.waits_for(Tour(REBALANCE, "a", 1), view(b=away), ())
    assert not itinerary.waits_for(Tour(REBALANCE, "a", 1), view(b=(AdminState.DRAINED, False)), ())


def test_a_rebalance_goes_from_the_fullest_to_the_emptiest() -> None:
    members = [MemberState(info(n, capacity=100, used_bytes=u), True, False) for n, u in zip("abc", (5, 90, 40), strict=True)]
    begun = Tour(REBALANCE, "c", 1)
    assert [tour.node_id for tour in itinerary.rebalance(View(1, members), [begun], 5)] == ["b", "a"]


def test_what_follows_a_pass() -> None:
    def follows(kind: TourKind, **figures: int) -> Next:
        return after_pass(replace(Tour(kind, "a", 1), **figures))  # type: ignore[arg-type]

    assert {kind: follows(kind) for kind in TourKind} == dict.fromkeys(TourKind, Next.END) | {DRAIN: Next.INVENTORY}
    assert {follows(kind, found=1, waiting=1) for kind in TourKind} == {Next.PASS}
    assert {kind for kind in TourKind if follows(kind, waiting=1) is Next.REST} == {LOST, RETURNED, DRAIN, FORGET}
    assert follows(REBALANCE, found=9, passes=MOST_PASSES - 1) is Next.END, "it is ordered again, if need be"
