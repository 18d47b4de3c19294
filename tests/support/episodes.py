"""Episodes of trouble under load, one after the other: each kind once, then any."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from tests.support.load import Load


class Troubled(Protocol):
    """A cluster under load that has trouble."""

    load: Load

    def is_back(self) -> None:
        """Wait until all is well again; fails the test when that takes too long."""


S = TypeVar("S", bound=Troubled)


def play(stage: S, kinds: Sequence[Callable[[S, random.Random], None]], *, seed: object, episodes: int) -> None:
    """Play the episodes, wait after each until the service is back, and stop the load at the end."""
    print(f"replay: SEED={seed} EPISODES={episodes}")
    for number in range(episodes):
        chooser = random.Random(f"{seed}/{number}")
        kind = kinds[number] if number < len(kinds) else chooser.choice(kinds)
        began = time.monotonic()
        stage.load.mark()
        kind(stage, chooser)
        over = time.monotonic()
        stage.is_back()
        ended = time.monotonic()
        print(f"{kind.__name__}: {over - began:.1f} s, back after {ended - over:.1f} s; {stage.load.summary()}")
    stage.load.stop()
