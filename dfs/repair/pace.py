"""How fast repair copies: one rate that all workers share."""

from __future__ import annotations

import threading
from collections.abc import Callable

LEAST_CHUNK = 1_000_000
"""What a small chunk counts for: it costs calls and commits rather than bytes, and would otherwise be
copied as fast as the processors allow, at the expense of clients."""

LEAST_MOVED = 2_500_000
"""The same for a chunk that has all its copies and only moves: nothing is at risk while it waits."""

_BURST = 1.0
"""Seconds of idleness that may be made up for."""


def worth(chunks: int, size: float, least: int = LEAST_CHUNK) -> float:
    """For how many bytes so many chunks of `size` bytes together count, at least."""
    return max(size, chunks * least)


class Pace:
    """A token bucket of bytes. Thread-safe.

    Whoever takes bytes waits until those taken before would have passed at `bytes_per_second`: a chunk
    larger than a second's worth is not refused, the next one waits for it. `clock` is monotonic seconds;
    `wait(seconds)` returns True as soon as the work is to end (`threading.Event.wait`).
    """

    def __init__(
        self, bytes_per_second: float, clock: Callable[[], float], wait: Callable[[float], bool]
    ) -> None:
        if bytes_per_second <= 0:
            raise ValueError(f"a rate is above 0, not {bytes_per_second}")
        self._rate = bytes_per_second
        self._clock = clock
        self._wait = wait
        self._lock = threading.Lock()
        self._free_at = float("-inf")

    def take(self, count: int) -> bool:
        """Wait for one's turn to copy `count` bytes; False when the work is to end instead."""
        with self._lock:
            now = self._clock()
            mine = max(self._free_at, now - _BURST)
            self._free_at = mine + count / self._rate
        return not self._wait(max(0.0, mine - now))
