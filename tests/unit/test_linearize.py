"""The checker must accept what is linearizable and reject what is not."""

from __future__ import annotations

import math
from collections.abc import Iterable

from tests.support.linearize import Event, explains


def register(state: int, event: Event) -> Iterable[int]:
    name, value = event.action[0], event.action[-1]
    if name == "write":
        return [int(str(value))]
    return [state] if event.result == state else []


def write(start: float, end: float, value: int) -> Event:
    return Event(start, end, ("write", value), "ok")


def read(start: float, end: float, value: int) -> Event:
    return Event(start, end, ("read", None), value)


def test_a_sequential_history_is_explained() -> None:
    assert explains([write(0, 1, 5), read(2, 3, 5)], 0, register)


def test_a_stale_read_after_the_write_ended_is_rejected() -> None:
    assert not explains([write(0, 1, 5), read(2, 3, 0)], 0, register)


def test_overlapping_operations_may_take_either_order() -> None:
    assert explains([write(0, 4, 5), read(1, 2, 0), read(2.5, 3, 5)], 0, register)


def test_a_value_that_flips_back_is_rejected() -> None:
    assert not explains([write(0, 9, 5), read(1, 2, 5), read(3, 4, 0)], 0, register)


def test_an_unknown_write_may_have_happened_or_not() -> None:
    maybe = Event(0, math.inf, ("write", 5))
    assert explains([maybe, read(2, 3, 0)], 0, register)
    assert explains([maybe, read(2, 3, 5)], 0, register)
    assert explains([maybe, read(2, 3, 0), read(4, 5, 5)], 0, register)
    assert not explains([maybe, read(2, 3, 5), read(4, 5, 0)], 0, register)


def test_a_value_nobody_wrote_is_rejected() -> None:
    assert not explains([write(0, 1, 5), read(2, 3, 7)], 0, register)
