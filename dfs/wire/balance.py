"""Sharing out connections among processes that accept from one listening socket.

Each process has a seat in a piece of shared memory. It writes there how many connections it holds,
whether it could take more, and a count of its turns; the others only read. A process takes its share
of what waits (`share`) and leaves the rest: while it holds more than its share it does not listen.
Nobody relies on another's being well. Who is held back looks at the queue now and then; when
something still waits at a second look it takes it, and no longer reckons with those that have not
moved in between, until they move again.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass

_WORDS = 8
"""Words of eight bytes a seat: a cache line, so that two processes do not write to the same one."""
_HELD, _ABLE, _LISTENING, _TURNS = range(4)

LOOK_SECONDS = 0.5
"""Between two looks at the queue of one who listens: a wake-up may have gone to one who then hung."""
HELD_BACK_SECONDS = 0.05
"""Between two looks at the queue of one who is held back."""


def share(mine: int, total: int, processes: int, queued: int) -> int:
    """How many of `queued` connections one may take who holds `mine` of the `total` of all `processes`.

    As many as make the average of all, rounded up, and an eighth more: exact where a few connections
    stay for long, and without much waiting for each other where many come and go.
    """
    average = -(-(total + queued) // processes)
    return max(0, min(queued, average + average // 8 - mine))


class Balance:
    """The seats of `count` processes. Make it before they are forked; it lasts as long as the process."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._words = memoryview(mmap.mmap(-1, count * _WORDS * 8)).cast("Q")  # zeros: nobody is there
        self._pokes = [os.pipe() for _ in range(count)]
        for ends in self._pokes:
            for end in ends:
                os.set_blocking(end, False)

    def seat(self, number: int) -> Seat:
        """The seat of process `number` (from 0), for that process."""
        return Seat(number, self._words, self._pokes)

    def vacate(self, number: int) -> None:
        """Process `number` is gone: nobody waits for it any more."""
        self._words[number * _WORDS + _ABLE] = 0


@dataclass(frozen=True, slots=True)
class Other:
    """What another process wrote."""

    number: int
    held: int
    listening: bool
    turns: int


class Seat:
    """One process's view of all."""

    def __init__(self, number: int, words: memoryview[int], pokes: Sequence[tuple[int, int]]) -> None:
        self.number = number
        self._words = words
        self._pokes = pokes
        self._mine = number * _WORDS
        self._others = [(other, other * _WORDS) for other in range(len(pokes)) if other != number]

    def fileno(self) -> int:
        """Readable after somebody's `poke`, until `heard`."""
        return self._pokes[self.number][0]

    def heard(self) -> None:
        """Forget the pokes so far."""
        try:
            os.read(self.fileno(), 4096)
        except BlockingIOError:
            pass  # those of a predecessor in this seat were read already

    def tell(self, held: int, *, able: bool, listening: bool) -> None:
        """Write that this process holds `held` connections, and that it turns."""
        words, at = self._words, self._mine
        words[at + _HELD] = held
        words[at + _LISTENING] = listening
        words[at + _TURNS] = (words[at + _TURNS] + 1) & 0xFFFFFFFF
        words[at + _ABLE] = able

    def leave(self) -> None:
        """This process takes no more."""
        self._words[self._mine + _ABLE] = 0

    def others(self) -> list[Other]:
        """The other processes that take connections."""
        words = self._words
        return [
            Other(number, words[at + _HELD], bool(words[at + _LISTENING]), words[at + _TURNS])
            for number, at in self._others
            if words[at + _ABLE]
        ]

    def poke(self, number: int) -> None:
        """Have process `number` look at the queue."""
        try:
            os.write(self._pokes[number][1], b"p")
        except BlockingIOError:
            pass  # full of pokes already


class Fairness:
    """Decides for the process in `seat`: how much to take, and when to stop leaving it to others."""

    def __init__(self, seat: Seat) -> None:
        self.seat = seat
        self.next_look = 0.0
        self._doubted: dict[int, int] = {}
        self._left: dict[int, int] | None = None

    def share(self, held: int, queued: int) -> int:
        """How many of `queued` connections to take now."""
        others = self._trusted()
        return share(held, held + sum(other.held for other in others), len(others) + 1, queued)

    def looked(self, queued: bool, listening: bool, now: float) -> bool:
        """A look at the queue has come due: was something there? True: take one of it in any case."""
        self.next_look = now + (LOOK_SECONDS if listening else HELD_BACK_SECONDS)
        before, self._left = self._left, None
        if listening or not queued:
            return listening and queued
        turns = {other.number: other.turns for other in self._trusted()}
        if before is None:
            self._left = turns
            return False
        self._doubted.update({number: count for number, count in turns.items() if before.get(number) == count})
        return True

    def pass_on(self, held: int, queued: int) -> None:
        """This process takes no more for now, with `queued` left: wake those whose turn it is."""
        others = self._trusted()
        total = held + sum(other.held for other in others)
        for other in others:
            awake = other.listening and not queued
            if not awake and share(other.held, total, len(others) + 1, max(1, queued)):
                self.seat.poke(other.number)

    def _trusted(self) -> list[Other]:
        others = self.seat.others()
        if self._doubted:
            self._doubted = {o.number: o.turns for o in others if self._doubted.get(o.number) == o.turns}
            others = [other for other in others if other.number not in self._doubted]
        return others
