"""The volumes of a store, and the numbers that are given out: of volumes, and of records."""

from __future__ import annotations

import threading

from dfs.store.volume import Ending, Volume


class Volumes:
    """Every volume file that is part of the store, by number."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._all: dict[int, Volume] = {}
        self._bytes = 0
        self._number = 0
        self._sequence = 0
        self.last: Ending | None = None
        """The volume appended to before the next one that is made."""

    def add(self, volume: Volume) -> None:
        """A volume joined the store."""
        with self._lock:
            self._all[volume.number] = volume
            self._bytes += volume.end
            self._number = max(self._number, volume.number)

    def grow(self, number: int, end: int) -> None:
        """Volume `number` is durable up to `end`."""
        with self._lock:
            volume = self._all[number]
            self._bytes += end - volume.end
            volume.end = end

    def remove(self, number: int) -> None:
        """A volume left the store."""
        with self._lock:
            volume = self._all.pop(number, None)
            if volume is not None:
                self._bytes -= volume.end

    def get(self, number: int) -> Volume | None:
        """Volume `number`, if it is part of the store."""
        return self._all.get(number)

    def all(self) -> list[Volume]:
        """All volumes in the order of their numbers."""
        with self._lock:
            return [self._all[number] for number in sorted(self._all)]

    @property
    def total_bytes(self) -> int:
        """Bytes in all volumes."""
        return self._bytes

    def start_from(self, number: int, sequence: int) -> None:
        """Give out only numbers above these."""
        with self._lock:
            self._number = max(self._number, number)
            self._sequence = max(self._sequence, sequence)

    def next_number(self) -> int:
        """A volume number never used before."""
        with self._lock:
            self._number += 1
            return self._number

    def next_sequence(self, count: int = 1) -> int:
        """The first of `count` sequence numbers never used before."""
        with self._lock:
            first = self._sequence + 1
            self._sequence += count
            return first

    @property
    def sequence(self) -> int:
        """The highest sequence given out."""
        return self._sequence
