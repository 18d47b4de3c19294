"""What a name may show, by what its one writer was told: versions, and contents that tell them apart."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

SIZES = (100, 3_000, 20_000, 70_000, 300_000)
"""Bytes of a file, about: one of these is drawn for each version."""

Result = Literal["pending", "done", "refused", "unsure"]


def content_of(path: str, number: int, sizes: Sequence[int] = SIZES) -> bytes:
    """The bytes of version `number` of `path`, which no other has."""
    source = random.Random(f"{path}#{number}")
    return source.randbytes(source.choice(sizes) + source.randrange(50))


@dataclass
class State:
    """What one operation makes of a name: version `number` (as file `file_id`), or None: deleted."""

    number: int | None
    file_id: str
    result: Result = "pending"


@dataclass
class Name:
    """A path and its states, in the order in which its one writer asked for them."""

    path: str
    states: list[State] = field(default_factory=list)
    given_up: bool = False

    def settled(self) -> int:
        """The place of the last state that is known to have come about; -1: none has."""
        for place in range(len(self.states) - 1, -1, -1):
            if self.states[place].result == "done":
                return place
        return -1

    def possible(self, settled: int) -> set[int | None]:
        """Versions that may show now to a reader who began when `settled` was the last sure one."""
        numbers = {state.number for state in self.states[max(0, settled) :] if state.result != "refused"}
        return numbers if settled >= 0 else numbers | {None}
