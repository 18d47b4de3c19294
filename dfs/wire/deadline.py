"""A point in monotonic time by which something must be done."""

from __future__ import annotations

import time
from collections.abc import Callable


class Deadline:
    """`seconds` from now, by a clock that never goes back."""

    __slots__ = ("_at", "_clock")

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._at = clock() + seconds

    def remaining(self) -> float:
        """Seconds left, never below 0."""
        left = self._at - self._clock()
        return left if left > 0.0 else 0.0

    def expired(self) -> bool:
        """True once no time is left."""
        return self._clock() >= self._at

    def sooner(self, seconds: float) -> float:
        """`seconds`, or what is left when that is less."""
        left = self._at - self._clock()
        if left <= 0.0:
            return 0.0
        return seconds if seconds < left else left
