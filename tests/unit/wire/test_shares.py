"""Who gets memory and who is next, by a clock of the test's own: no threads."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field

import pytest

from dfs.wire.pace import Pace, TooSlow
from dfs.wire.shares import Shares, Ticket

KIB, MIB = 1 << 10, 1 << 20
TOTAL = 96 * MIB


def fill(shares: Shares, size: int) -> int:
    """Lend as many reservations of `size` as there is room for."""
    count = 0
    share = shares.share_of(size)
    while shares.admits(share, size):
        shares.take(share, size)
        count += 1
    return count


def take_now(shares: Shares, size: int) -> bool:
    """Whether a newcomer gets `size` bytes at once."""
    share = shares.share_of(size)
    if not shares.admits(share, size):
        return False
    shares.take(share, size)
    return True


@pytest.mark.parametrize("order", [(KIB, MIB, 16 * MIB), (16 * MIB, MIB, KIB), (MIB, 16 * MIB, KIB)])
def test_reservations_of_one_size_leave_room_for_the_others(order: tuple[int, ...]) -> None:
    shares = Shares(TOTAL)
    counts = {size: fill(shares, size) for size in order}
    assert counts[KIB] >= 6 * 1024 and counts[MIB] >= 12 and counts[16 * MIB] >= 3, counts
    assert shares.lent <= TOTAL


@pytest.mark.parametrize("total", [MIB + 1, 2 * MIB, 33 * MIB, TOTAL])
def test_a_chunk_of_half_the_pool_can_always_be_had_beside_small_ones(total: int) -> None:
    shares = Shares(total)
    fill(shares, KIB)
    assert take_now(shares, total // 2)


def test_a_small_one_goes_ahead_of_large_ones_that_wait() -> None:
    shares = Shares(TOTAL)
    fill(shares, 16 * MIB)
    for _ in range(200):
        shares.queue(shares.share_of(16 * MIB), 16 * MIB, 0.0)
    assert all(take_now(shares, KIB) for _ in range(6000))
    assert all(take_now(shares, MIB) for _ in range(12))


def test_a_large_one_gets_what_comes_free_though_small_ones_keep_coming() -> None:
    shares = Shares(TOTAL)
    small = shares.share_of(64 * KIB)
    assert fill(shares, 64 * KIB) == 36 * 16
    assert fill(shares, 4 * MIB) == 12
    waiting = shares.queue(shares.share_of(16 * MIB), 16 * MIB, 0.0)
    freed = 0
    while not waiting.granted and freed < 1000:
        shares.give(small, 64 * KIB)
        freed += 1
        shares.serve(0.0)
        if not waiting.granted:
            take_now(shares, 64 * KIB)  # somebody new wants it
    assert waiting.granted and freed <= 600, freed


def test_a_reservation_that_needs_what_is_reserved_for_others_is_served_alone() -> None:
    shares = Shares(TOTAL)
    assert take_now(shares, KIB)
    whole = shares.queue(shares.share_of(TOTAL), TOTAL, 0.0)
    assert not take_now(shares, KIB), "nobody overtakes it, or it would never be served"
    shares.give(shares.share_of(KIB), KIB)
    assert shares.serve(0.0) is whole and shares.lent == TOTAL
    assert not take_now(shares, 1), "nothing is left, reserved or not"
    shares.give(whole.share, TOTAL)
    assert take_now(shares, KIB) and shares.serve(0.0) is None


def test_the_common_bytes_go_to_whoever_came_first() -> None:
    shares = Shares(TOTAL)
    fill(shares, MIB)
    fill(shares, 64 * KIB)
    first = shares.queue(shares.share_of(64 * KIB), 64 * KIB, 0.0)
    second = shares.queue(shares.share_of(MIB), MIB, 0.0)
    shares.take(shares.share_of(2 * MIB), 2 * MIB)  # of what is reserved for large ones
    shares.give(shares.share_of(MIB), MIB)
    shares.give(shares.share_of(MIB), MIB)
    served = []
    while (ticket := shares.serve(0.0)) is not None:
        served.append(ticket)
    assert served == [first, second]


def test_the_books_never_lend_more_than_there_is_and_end_even(rng: random.Random) -> None:
    shares = Shares(TOTAL)
    sizes = [KIB, 20 * KIB, 64 * KIB, 300 * KIB, MIB, 4 * MIB, 16 * MIB, TOTAL]
    held: list[int] = []
    queued: deque[Ticket] = deque()
    for _ in range(20_000):
        if held and rng.random() < 0.52:
            size = held.pop(rng.randrange(len(held)))
            shares.give(shares.share_of(size), size)
        elif queued and rng.random() < 0.1:
            shares.leave(queued.popleft())
        else:
            size = rng.choice(sizes)
            if take_now(shares, size):
                held.append(size)
            elif len(queued) < 20:
                queued.append(shares.queue(shares.share_of(size), size, 0.0))
        while (ticket := shares.serve(0.0)) is not None:
            queued.remove(ticket)
            held.append(ticket.need)
        assert shares.lent == sum(held) <= TOTAL
        assert shares.waiting == len(queued)
    while held or queued:
        if held:
            size = held.pop()
            shares.give(shares.share_of(size), size)
        while (ticket := shares.serve(0.0)) is not None:
            queued.remove(ticket)
            held.append(ticket.need)
    assert shares.lent == 0
    assert take_now(shares, TOTAL)


def test_the_wait_is_expected_by_what_was_served_lately() -> None:
    shares = Shares(TOTAL)
    size = 4 * MIB
    share = shares.share_of(size)
    fill(shares, size)
    assert share.expected_wait(size, 100.0) is None
    for _ in range(4):
        shares.queue(share, size, 100.0)
    assert share.expected_wait(size, 104.0) is None, "too early to say"
    assert share.expected_wait(size, 106.0) == pytest.approx(30.0), "five of them, one due now, in 6 s"
    for second in range(107, 207):  # one a second
        shares.give(share, size)
        assert shares.serve(float(second)) is not None
        shares.queue(share, size, float(second))
    assert share.expected_wait(size, 206.0) == pytest.approx(5.0, rel=0.2)
    while shares.waiting:
        shares.give(share, size)
        shares.serve(207.0)
    assert share.expected_wait(size, 207.0) is None


@dataclass
class Dripper:
    """An upload that sends `rate` bytes a second and holds `size` bytes of memory."""

    size: int
    pace: Pace
    rate: int = 100
    gone: bool = field(default=False)

    def second(self) -> None:
        self.pace.moved(self.rate)
        try:
            self.pace.waited(1.0)
        except TooSlow:
            self.gone = True


@pytest.mark.parametrize("age", [0, 1, 9, 10, 60])
@pytest.mark.parametrize("size", [KIB, 64 * KIB, MIB, 4 * MIB, 16 * MIB])
def test_a_good_upload_gets_memory_within_a_window_of_a_pool_full_of_dripping_ones(age: int, size: int) -> None:
    """The rule of `Limits`: 16 KiB/s over 10 s; `age` is how long they have been dripping."""
    shares = Shares(TOTAL)
    share = shares.share_of(size)
    drippers = [
        Dripper(size, Pace(300.0, 16384.0, 10.0, lambda: shares.waiting > 0)) for _ in range(fill(shares, size))
    ]
    for _ in range(age):
        for each in drippers:
            each.second()
    assert not any(each.gone for each in drippers), "nobody waits"
    good = shares.queue(share, size, 0.0)
    seconds = 0
    while not good.granted:
        seconds += 1
        assert seconds <= 11
        for each in drippers:
            each.second()
            if each.gone and not good.granted:
                shares.give(share, size)
                shares.serve(float(seconds))
    assert seconds == max(1, 10 - age)
