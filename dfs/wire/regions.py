"""Memory itself: each reservation a mapping of its own, kept for the next one of its size.

A mapping is contiguous whatever else is lent out, so reservations of mixed sizes cannot fragment the
pool: what its books say is free can be had. Sizes are rounded up to four steps an octave, so that a
kept mapping fits many reservations and at most a fifth of it is unused.
"""

from __future__ import annotations

import mmap

TINY = 4096
"""Up to this size a reservation is made afresh each time: that costs less than keeping it."""

_MAPPED = 128 * 1024
"""From this size on a mapping instead of the heap, which might not give it back."""

_ALIGN = 64


def rounded(size: int) -> int:
    """The bytes that a reservation of `size` takes up."""
    if size <= TINY:
        return -(-size // _ALIGN) * _ALIGN
    step = 1 << (size - 1).bit_length() - 3  # a quarter of the power of two at or below it
    return -(-size // step) * step


class Regions:
    """Regions that are kept for the next use. Not thread-safe: its pool holds a lock."""

    def __init__(self) -> None:
        self._kept: dict[int, list[memoryview]] = {}
        self.kept_bytes = 0

    def take(self, need: int) -> memoryview:
        """A region of `need` bytes, whatever they hold. Raises MemoryError, OSError."""
        kept = self._kept.get(need)
        if kept:
            self.kept_bytes -= need
            return kept.pop()
        if need < _MAPPED:
            return memoryview(bytearray(need))
        return memoryview(mmap.mmap(-1, need, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))

    def give(self, region: memoryview) -> None:
        """Keep `region`, which nobody uses any more."""
        need = len(region)
        self.kept_bytes += need
        kept = self._kept.get(need)
        if kept is None:
            kept = self._kept[need] = []
        kept.append(region)

    def shrink(self, limit: int) -> None:
        """Let go of kept regions until they have `limit` bytes at most, sizes least recently begun first."""
        while self.kept_bytes > limit:
            need, kept = next(iter(self._kept.items()))
            while kept and self.kept_bytes > limit:
                kept.pop()
                self.kept_bytes -= need
            if not kept:
                del self._kept[need]
