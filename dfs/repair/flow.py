"""How much repair has copied, and how fast lately."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

WINDOW = 10
"""Seconds that `rate` looks back."""


class Flow:
    """Counters, going on from where an earlier leader left them. For one thread."""

    def __init__(self, clock: Callable[[], float], chunks: int, count: int) -> None:
        self.chunks = chunks
        self.bytes = count
        self._clock = clock
        self._lately: deque[tuple[int, int]] = deque(maxlen=WINDOW + 1)  # second, bytes in it

    def add(self, chunks: int, count: int) -> None:
        """So much was copied now."""
        if not chunks:
            return
        self.chunks += chunks
        self.bytes += count
        second = int(self._clock())
        if self._lately and self._lately[-1][0] == second:
            second, before = self._lately.pop()
            count += before
        self._lately.append((second, count))

    def rate(self) -> float:
        """Bytes a second in the last WINDOW seconds."""
        since = self._clock() - WINDOW
        return sum(count for second, count in self._lately if second >= since) / WINDOW
