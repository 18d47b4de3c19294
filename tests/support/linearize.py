"""Is a concurrent history explained by some order of atomic operations?

The search of Wing and Gong ("Testing and verifying concurrent objects", 1993) with the memory of
Lowe ("Testing for linearizability", 2017): try every operation that no other finished one
precedes, and remember the pairs (operations done, state) that led nowhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

State = TypeVar("State", bound=Hashable)


@dataclass(frozen=True)
class Event:
    """One operation: called at `start`, answered at `end` (infinity: never, or with "unknown").

    `result` None means the outcome is not known: the operation may have happened at any time after
    its start, or not at all.
    """

    start: float
    end: float
    action: tuple[object, ...]
    result: object = None

    @property
    def certain(self) -> bool:
        return self.end != math.inf


def explains(
    events: Iterable[Event], initial: State, step: Callable[[State, Event], Iterable[State]]
) -> bool:
    """Whether some linear order of `events`, starting at `initial`, is allowed by `step`.

    `step(state, event)` gives the states after the event if its result is possible in `state`,
    nothing if not. An uncertain event (end = infinity) may also be left out.
    """
    ordered: Sequence[Event] = sorted(events, key=lambda event: event.start)
    must = sum(1 << number for number, event in enumerate(ordered) if event.certain)
    failed: set[tuple[int, State]] = set()
    stack: list[tuple[int, State]] = [(0, initial)]
    while stack:
        done, state = stack.pop()
        if done & must == must:
            return True
        if (done, state) in failed:
            continue
        failed.add((done, state))
        waiting = [event for number, event in enumerate(ordered) if not done >> number & 1]
        horizon = min(event.end for event in waiting)
        for number, event in enumerate(ordered):
            if event.start > horizon:
                break
            if done >> number & 1:
                continue
            stack.extend((done | 1 << number, after) for after in step(state, event))
    return False
