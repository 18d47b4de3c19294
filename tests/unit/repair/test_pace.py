"""The pace of repair: one rate for all, by a clock that the test turns."""

from __future__ import annotations

import pytest

from dfs.repair.pace import LEAST_CHUNK, Pace, worth
from tests.unit.cluster.fakes import Clock


class Waits:
    def __init__(self, clock: Clock, stopping: bool = False) -> None:
        self.clock = clock
        self.stopping = stopping
        self.waited: list[float] = []

    def __call__(self, seconds: float) -> bool:
        self.waited.append(seconds)
        self.clock.now += seconds
        return self.stopping


def test_over_time_no_more_passes_than_the_rate_and_one_burst() -> None:
    clock = Clock()
    waits = Waits(clock)
    pace = Pace(100.0, clock, waits)
    began = clock.now
    assert all(pace.take(50) for _ in range(20))
    assert clock.now - began == pytest.approx((20 * 50 - 50) / 100 - 1.0)


def test_idleness_is_made_up_for_by_one_second_at_most() -> None:
    clock = Clock()
    waits = Waits(clock)
    pace = Pace(100.0, clock, waits)
    assert pace.take(100)
    clock.now += 1000
    assert pace.take(100)
    assert pace.take(100)
    assert pace.take(100)
    assert waits.waited == [0.0, 0.0, 0.0, 1.0]


def test_a_chunk_larger_than_a_seconds_worth_passes_and_the_next_waits_for_it() -> None:
    clock = Clock()
    waits = Waits(clock)
    pace = Pace(100.0, clock, waits)
    assert pace.take(1000) and pace.take(1)
    assert waits.waited == [0.0, 9.0]


def test_a_stop_is_told_at_once() -> None:
    clock = Clock()
    assert not Pace(1.0, clock, Waits(clock, stopping=True)).take(1)


def test_a_rate_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="above 0"):
        Pace(0, Clock(), lambda seconds: False)


def test_a_small_chunk_counts_for_more_than_its_bytes() -> None:
    assert worth(3, 10) == 3 * LEAST_CHUNK
    assert worth(3, 10 * LEAST_CHUNK) == 10 * LEAST_CHUNK
    assert worth(0, 0) == 0
