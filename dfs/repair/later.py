"""When to look again at what could not be helped. Bounded: what does not fit is simply tried again."""

from __future__ import annotations

from collections.abc import Callable, Hashable

MOST = 10_000
SLOWEST = 600.0
"""Seconds between looks at what cannot be helped until something changes."""


class Later:
    """Things that are tried again, after `first` seconds, then twice as long each time."""

    def __init__(self, first: float, clock: Callable[[], float]) -> None:
        self._first = first
        self._clock = clock
        self._known: dict[Hashable, tuple[float, float]] = {}  # when, and how long it waited for that

    def __contains__(self, key: Hashable) -> bool:
        return key in self._known

    def due(self, key: Hashable) -> bool:
        """Whether it may be tried now."""
        known = self._known.get(key)
        return known is None or self._clock() >= known[0]

    def put(self, key: Hashable, *, slowly: bool = False) -> None:
        """It was tried, in vain; `slowly`: nothing but a change of the cluster can help it."""
        known = self._known.pop(key, None)
        gap = SLOWEST if slowly else self._first if known is None else min(SLOWEST, 2 * known[1])
        while len(self._known) >= MOST:
            del self._known[next(iter(self._known))]
        self._known[key] = (self._clock() + gap, gap)

    def drop(self, key: Hashable) -> None:
        """It needs nothing any more."""
        self._known.pop(key, None)

    def clear(self) -> None:
        """Something has changed: try everything again."""
        self._known.clear()
