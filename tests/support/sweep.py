"""How much of a sweep to run, and what to print when a case of it fails.

`STORE_SWEEP=N` multiplies the figures of `make test`; `make test-long` (LONG=1) runs those of
docs/testing.md unless STORE_SWEEP says otherwise.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from typing import TypeVar

SEED = int(os.environ.get("SEED", "1"))

T = TypeVar("T")


def scaled(count: int, long: int) -> int:
    """`count` cases in `make test`, `long` in `make test-long`."""
    factor = os.environ.get("STORE_SWEEP")
    if factor is not None:
        return max(1, int(count * float(factor)))
    return long if os.environ.get("LONG") == "1" else count


def seeded(*parts: object) -> random.Random:
    """A random source that depends on SEED and on `parts` alone."""
    return random.Random(":".join(str(part) for part in (SEED, *parts)))


def shrink(case: Sequence[T], fails: Callable[[Sequence[T]], bool]) -> list[T]:
    """The shortest list found by leaving steps of a failing `case` out, still failing."""
    kept = list(case)
    step = max(1, len(kept) // 2)
    while step:
        at = 0
        while at < len(kept):
            shorter = kept[:at] + kept[at + step :]
            if fails(shorter):
                kept = shorter
            else:
                at += step
        step //= 2
    return kept
