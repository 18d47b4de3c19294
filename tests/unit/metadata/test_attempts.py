"""Tries end, pauses grow, doubt is never reported as failure."""

from __future__ import annotations

from typing import Any

import pytest

from dfs.errors import Busy, Unavailable, Unknown
from dfs.metadata.attempts import PATIENCE, TRIES, Attempts
from dfs.metadata.contract import OutcomeUnknown, StepsRefused
from dfs.metadata.steps import CheckFile

STEPS = [CheckFile("f", frozenset())]


class Store:
    def __init__(self, *errors: Exception | None) -> None:
        self.errors = list(errors)

    def transact(self, steps: Any) -> None:
        error = self.errors.pop(0)
        if error is not None:
            raise error


def attempts(*errors: Exception | None, **options: Any) -> Attempts:
    return Attempts(Store(*errors), pause=lambda seconds: None, **options)  # type: ignore[arg-type]


def test_what_a_transaction_is_known_to_have_done() -> None:
    tries = attempts(None, StepsRefused(), Busy(""), OutcomeUnknown(""))
    assert tries.send(STEPS)
    assert not tries.send(STEPS) and not tries.send(STEPS) and not tries.in_doubt
    assert not tries.send(STEPS) and tries.in_doubt


def test_tries_pause_at_random_and_end_busy() -> None:
    pauses: list[float] = []
    tries = Attempts(Store(), pause=pauses.append)  # type: ignore[arg-type]
    with pytest.raises(Busy):
        list(tries)
    assert len(pauses) == TRIES - 1 and max(pauses) <= 0.25


def test_a_process_that_stood_still_does_not_go_on() -> None:
    times = iter([0.0, 1.0, PATIENCE + 2])
    tries = attempts(clock=lambda: next(times))
    seen = []
    with pytest.raises(Busy):
        for number in tries:
            seen.append(number)
    assert seen == [0, 1]


def test_doubt_turns_unavailable_into_unknown() -> None:
    with pytest.raises(Unavailable) as sure, attempts() as tries:
        raise Unavailable("down")
    assert sure.value.code == "unavailable"
    with pytest.raises(Unknown), attempts(OutcomeUnknown("")) as tries:
        tries.send(STEPS)
        raise Unavailable("down")
    with pytest.raises(Unknown, match="already"), attempts(OutcomeUnknown("")) as tries:
        tries.send(STEPS)
        raise Unknown("already")
    with pytest.raises(KeyError), attempts(OutcomeUnknown("")) as tries:
        tries.send(STEPS)
        raise KeyError
