"""Whether a store may take more bytes, without asking the file system every time.

While there is plenty, a measurement is good for a moment, less what was written since. Close to the
reserve it is measured for every store. So the reserve can be undercut by no more than what others
write to the disk within that moment beyond the slack.
"""

from __future__ import annotations

from collections.abc import Callable

from dfs import logs
from dfs.errors import NodeFull
from dfs.store.disk import Disk, Space

_TIGHT = 1.25
"""Below this many times the reserve, space is worth work that it would not be worth otherwise."""

_GOOD_FOR_MS = 250
_SLACK = 64 << 20


class Room:
    """The space of the file system that holds `directory`, of which `reserve` bytes are kept free."""

    def __init__(self, disk: Disk, directory: str, reserve: int, now: Callable[[], int]) -> None:
        self._disk = disk
        self._directory = directory
        self._now = now
        self.reserve = reserve
        self._spare = 0
        """Bytes that may be written before measuring again."""
        self._measured_at = 0

    def measure(self) -> Space:
        """The space now. Raises OSError."""
        self._spare = 0
        space = self._disk.space(self._directory)
        self._spare = space.free - self.reserve - _SLACK
        self._measured_at = self._now()
        return space

    def tight(self) -> int | None:
        """How many bytes are free, when that is so little that stores are, or will soon be, refused; None
        when there is more, or nobody can tell."""
        try:
            free = self.measure().free
        except OSError as error:
            logs.warning("store.space_unknown", error=error)
            return None
        return free if free <= _TIGHT * self.reserve else None

    def check(self, size: int) -> None:
        """Raise NodeFull when `size` more bytes would go below the reserve, or nobody can tell."""
        if self._spare >= size and 0 <= self._now() - self._measured_at < _GOOD_FOR_MS:
            self._spare -= size  # threads may race here: the slack is there for more than that
            return
        try:
            free = self.measure().free
        except OSError as error:
            raise NodeFull(f"the free space of this disk cannot be told: {error.strerror}") from error
        if free - size < self.reserve or free <= self.reserve:
            raise NodeFull(f"this disk has {free} bytes free and keeps {self.reserve} in reserve")
