"""Leases are judged by the reader's own clock."""

from __future__ import annotations

from typing import Any

import pytest

from dfs.metadata.contract import OutcomeUnknown
from dfs.metadata.lease import LeaseHolder
from dfs.model import Lease


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Row:
    """A lease row in memory; `lose` makes the next write's answer get lost after ("applied") or
    before ("dropped") it is applied, or applied at the next read ("late")."""

    def __init__(self) -> None:
        self.lease: Lease | None = None
        self.lose = ""
        self.late: Lease | None = None

    def read_lease(self, name: str) -> Lease | None:
        return self.lease

    def write_lease(self, new: Lease, seen: Lease | None) -> bool:
        lose, self.lose = self.lose, ""
        if lose == "late":
            self.late = new
        elif lose != "dropped":
            if self.lease != seen:
                return False
            self.lease = new
        if lose:
            raise OutcomeUnknown("lost")
        return True


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def row() -> Row:
    return Row()


def holder(row: Row, owner: str, clock: Clock, store: Any = None) -> LeaseHolder:
    return LeaseHolder(store or row, "eraser", owner, 10.0, clock)  # type: ignore[arg-type]


def test_a_free_lease_is_taken_kept_and_released(row: Row, clock: Clock) -> None:
    mine = holder(row, "a", clock)
    assert mine.fence is None and not mine.renew()
    lease = mine.try_acquire()
    assert lease == Lease("eraser", "a", 1, 1) and mine.fence == 1
    assert mine.try_acquire() == lease
    clock.now += 9
    assert mine.renew()
    clock.now += 9
    assert mine.fence == 1
    mine.release()
    assert mine.fence is None
    mine.release()
    other = holder(row, "b", clock).try_acquire()
    assert other is not None and (other.owner, other.fence) == ("b", 2)


def test_another_waits_until_it_has_seen_nothing_for_the_whole_time(row: Row, clock: Clock) -> None:
    mine, other = holder(row, "a", clock), holder(row, "b", clock)
    mine.try_acquire()
    assert other.try_acquire() is None
    clock.now += 9.9
    assert other.try_acquire() is None
    assert mine.renew()
    clock.now += 9.9
    assert other.try_acquire() is None
    assert mine.fence == 1
    clock.now += 10
    assert mine.fence is None and not mine.renew()
    lease = other.try_acquire()
    assert lease is not None and lease.fence == 2
    assert mine.try_acquire() is None


def test_the_watch_begins_when_the_row_was_read_not_before(row: Row, clock: Clock) -> None:
    """The holder renews while a slow reader's read is on its way."""
    mine = holder(row, "a", clock)
    mine.try_acquire()

    class Slow:
        write_lease = row.write_lease

        @staticmethod
        def read_lease(name: str) -> Lease | None:
            clock.now += 5
            assert mine.renew()
            return row.lease

    other = holder(row, "b", clock, Slow())
    assert other.try_acquire() is None
    clock.now += 9
    assert mine.fence == 1
    other._store = row  # type: ignore[assignment]
    assert other.try_acquire() is None


def test_of_two_takers_one_gets_it(row: Row, clock: Clock) -> None:
    class Racing:
        read_lease = row.read_lease

        @staticmethod
        def write_lease(new: Lease, seen: Lease | None) -> bool:
            holder(row, "b", clock).try_acquire()
            return row.write_lease(new, seen)

    assert holder(row, "a", clock, Racing()).try_acquire() is None


@pytest.mark.parametrize("lose", ["applied", "dropped"])
def test_a_lost_answer_is_resolved_by_reading(row: Row, clock: Clock, lose: str) -> None:
    mine = holder(row, "a", clock)
    row.lose = lose
    assert (mine.try_acquire() is not None) == (lose == "applied")
    mine.try_acquire()
    row.lose = lose
    assert mine.renew()
    assert mine.fence == (1 if lose == "applied" or row.lease is None else row.lease.fence)
    row.lose = lose
    mine.release()
    assert mine.fence is None


def test_a_renewal_that_arrives_late_is_adopted(row: Row, clock: Clock) -> None:
    mine = holder(row, "a", clock)
    mine.try_acquire()
    row.lose = "late"
    assert mine.renew()  # The second write within renew succeeds.
    assert row.late is not None
    row.lease = Lease("eraser", "a", 1, 7)  # What arrived late, from this owner and fence.
    assert mine.renew() and row.lease.beat == 8


def test_a_lease_taken_by_another_is_lost(row: Row, clock: Clock) -> None:
    mine = holder(row, "a", clock)
    mine.try_acquire()
    row.lease = Lease("eraser", "b", 2, 5)
    assert not mine.renew() and mine.fence is None
