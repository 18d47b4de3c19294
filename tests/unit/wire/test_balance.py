"""dfs.wire.balance: who takes a connection when several processes could. Seats of one process stand in
for the processes."""

from __future__ import annotations

import random
import select

import pytest

from dfs.wire.balance import HELD_BACK_SECONDS, LOOK_SECONDS, Balance, Fairness, share


@pytest.mark.parametrize(
    ("mine", "total", "processes", "queued", "taken"),
    [
        (0, 0, 1, 5, 5),  # alone
        (0, 0, 2, 1, 1),
        (1, 1, 2, 1, 0),  # the other has none
        (1, 2, 2, 1, 1),
        (4, 7, 2, 1, 0),
        (3, 7, 2, 1, 1),
        (0, 0, 2, 64, 36),  # half, and an eighth of that
        (36, 36, 2, 28, 0),
        (0, 36, 2, 28, 28),
        (0, 0, 4, 8, 2),
        (100, 200, 2, 1, 1),  # an eighth more than the average is no imbalance
        (113, 200, 2, 1, 0),
    ],
)
def test_share(mine: int, total: int, processes: int, queued: int, taken: int) -> None:
    assert share(mine, total, processes, queued) == taken


def test_connections_that_come_one_by_one_end_up_evenly() -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chooser = random.Random(seed)
    for processes in (2, 3, 4, 7):
        held = [0] * processes
        for count in range(1, 8 * processes + 1):
            takers = [n for n in range(processes) if share(held[n], sum(held), processes, 1)]
            assert takers, "somebody always listens"
            held[chooser.choice(takers)] += 1
            if count <= 7 * processes:
                assert max(held) <= -(-count // processes), held


def fairnesses(count: int) -> list[Fairness]:
    balance = Balance(count)
    return [Fairness(balance.seat(number)) for number in range(count)]


def poked(fairness: Fairness) -> bool:
    found = bool(select.select([fairness.seat], [], [], 0)[0])
    fairness.seat.heard()
    return found


def test_only_those_who_can_take_connections_count() -> None:
    balance = Balance(3)
    one, two, three = (Fairness(balance.seat(number)) for number in range(3))
    assert one.share(5, 1) == 1, "nobody else is there yet"
    two.seat.tell(0, able=True, listening=True)
    assert one.share(5, 1) == 0
    three.seat.tell(5, able=True, listening=True)
    assert one.share(5, 1) == 0
    two.seat.tell(0, able=False, listening=False)
    assert one.share(5, 1) == 1
    two.seat.tell(0, able=True, listening=True)
    balance.vacate(1)
    assert one.share(5, 1) == 1
    three.seat.leave()
    assert [other.number for other in one.seat.others()] == []


def test_who_stops_listening_wakes_those_whose_turn_it_is() -> None:
    one, two, three = fairnesses(3)
    two.seat.tell(0, able=True, listening=True)
    three.seat.tell(1, able=True, listening=False)
    one.pass_on(1, 0)
    assert (poked(two), poked(three)) == (False, False), "two listens, three has its share"
    two.seat.tell(0, able=True, listening=False)
    one.pass_on(1, 0)
    assert (poked(two), poked(three)) == (True, False)
    two.seat.tell(0, able=True, listening=True)
    one.pass_on(1, 9)
    assert (poked(two), poked(three)) == (True, True), "the wake-up for what is left may have been ours"


def test_pokes_never_block_and_are_forgotten_at_once() -> None:
    one, two = fairnesses(2)
    for _ in range(70_000):
        one.seat.poke(1)
    while poked(two):
        pass
    two.seat.heard()


def test_what_others_leave_is_taken_at_the_second_look_and_the_hung_are_no_longer_reckoned_with() -> None:
    one, two, three = fairnesses(3)
    two.seat.tell(0, able=True, listening=True)
    three.seat.tell(0, able=True, listening=True)
    assert not one.looked(True, listening=False, now=10.0), "it may have come this very moment"
    assert one.next_look == 10.0 + HELD_BACK_SECONDS
    three.seat.tell(0, able=True, listening=True)
    assert one.looked(True, listening=False, now=11.0)
    assert one.share(2, 1) == 0, "three moved"
    assert one.share(0, 1) == 1
    three.seat.tell(3, able=True, listening=True)
    assert one.share(2, 1) == 1, "two did not move, and is not counted"
    one.pass_on(4, 5)
    assert (poked(two), poked(three)) == (False, True)
    two.seat.tell(0, able=True, listening=True)
    assert one.share(2, 1) == 0, "two moves again"


def test_an_empty_queue_between_two_looks_is_nobodys_fault() -> None:
    one, two = fairnesses(2)
    two.seat.tell(0, able=True, listening=True)
    for waits in (True, False, True):
        assert not one.looked(waits, listening=False, now=1.0)
    assert one.looked(True, listening=False, now=1.0)


def test_who_listens_takes_what_it_finds_at_a_look() -> None:
    one, _ = fairnesses(2)
    assert one.looked(True, listening=True, now=1.0)
    assert not one.looked(False, listening=True, now=1.0)
    assert one.next_look == 1.0 + LOOK_SECONDS
