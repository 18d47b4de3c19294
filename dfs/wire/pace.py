"""How long a peer may keep us waiting.

`Pace` is the server's rule for bodies and answers: never `stall_seconds` without a byte, and not
below `min_rate` over the last `rate_window` seconds of waiting while others wait. Only time spent
waiting for the peer counts, not what our own handler takes. The window moves on in steps of a tenth:
whoever has been slow for long goes within a step of the moment when others begin to wait. `Due` is the client's rule: a deadline for the whole
exchange and a limit for standing still.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

from dfs.wire.deadline import Deadline

STEPS = 10
"""Steps of a rate window."""

LONGEST_WAIT = 1.0
"""Seconds after which a client looks up from waiting: a signal that comes just before the wait does
not interrupt it, and Ctrl-C must not have to wait for a stalled peer."""


class TooSlow(Exception):
    """The peer was waited for as long as it may be."""


class Patience(Protocol):
    """What a `Link` asks before and after each wait."""

    def next_wait(self) -> float:
        """Seconds the next wait may take, more than 0; raises TooSlow when there are none."""
        ...

    def waited(self, seconds: float) -> None:
        """`seconds` were spent waiting; raises TooSlow when that was too long."""
        ...

    def moved(self, count: int, seconds: float = 0.0) -> None:
        """`count` bytes came or went, which took `seconds`; raises TooSlow when that was too slow."""
        ...


class Pace:
    """The server's patience with one connection; `pressed()` says whether others wait."""

    __slots__ = ("_bytes", "_min_rate", "_past", "_pressed", "_stall", "_step", "_still", "_waited", "_window")

    def __init__(self, stall: float, min_rate: float, window: float, pressed: Callable[[], bool]) -> None:
        self._stall = stall
        self._min_rate = min_rate
        self._window = window
        self._step = window / STEPS
        self._pressed = pressed
        self._still = 0.0
        self._waited = 0.0
        self._bytes = 0
        self._past: list[tuple[float, int]] = []  # seconds and bytes of the steps before this one

    def restart(self) -> None:
        """Forget the past: a new request begins."""
        self._still = 0.0
        self._waited = 0.0
        self._bytes = 0
        if self._past:
            self._past.clear()

    def next_wait(self) -> float:
        """Up to whichever comes first: the stall limit or the end of the step."""
        if self._still >= self._stall:
            raise TooSlow(f"no byte moved in {self._stall:g} s")
        return min(self._stall - self._still, self._step - self._waited)

    def waited(self, seconds: float) -> None:
        """Count `seconds`; raises TooSlow at the stall limit, or at the end of a slow window."""
        self._still += seconds
        self._waited += seconds
        if self._still >= self._stall:
            raise TooSlow(f"no byte moved in {self._stall:g} s")
        if self._waited >= self._step:
            self._end_step()

    def _end_step(self) -> None:
        past = self._past
        past.append((self._waited, self._bytes))
        self._waited = 0.0
        self._bytes = 0
        seconds = math.fsum(step[0] for step in past)
        while seconds - past[0][0] >= self._window:
            seconds -= past.pop(0)[0]
        if (
            seconds >= self._window
            and sum(step[1] for step in past) < self._min_rate * seconds
            and self._pressed()
        ):
            raise TooSlow(
                f"less than {self._min_rate:g} bytes/s over {self._window:g} s while others wait"
            )

    def moved(self, count: int, seconds: float = 0.0) -> None:
        """Count `count` bytes of progress and `seconds`; raises TooSlow at the end of a slow window."""
        self._still = 0.0
        self._bytes += count
        self._waited += seconds
        if self._waited >= self._step:
            self._end_step()


class Due:
    """The client's patience with one exchange."""

    __slots__ = ("_deadline", "_stall", "_still")

    def __init__(self, deadline: Deadline, stall: float) -> None:
        self._deadline = deadline
        self._stall = stall
        self._still = 0.0

    def next_wait(self) -> float:
        """What is left until the deadline or the stall limit; raises TooSlow when nothing is."""
        left = self._deadline.sooner(self._stall - self._still)
        if left <= 0.0:
            raise TooSlow("the deadline has passed")
        return min(left, LONGEST_WAIT)

    def waited(self, seconds: float) -> None:
        """Count `seconds`; raises TooSlow at the stall limit or the deadline."""
        self._still += seconds
        if self._still >= self._stall:
            raise TooSlow(f"no byte moved in {self._stall:g} s")
        if self._deadline.expired():
            raise TooSlow("the deadline has passed")

    def moved(self, count: int, seconds: float = 0.0) -> None:
        """A byte resets the stall limit, never the deadline (a dripping peer does not stop it)."""
        self._still = 0.0
        if self._deadline.expired():
            raise TooSlow("the deadline has passed")
