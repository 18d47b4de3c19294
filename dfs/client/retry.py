"""When to try again, and after how long. Pure: no clock, no sleep."""

from __future__ import annotations

import random
from dataclasses import dataclass

from dfs.client.failures import Unreachable
from dfs.errors import DfsError


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff with jitter. Times are seconds.

    `attempts` bounds the rounds over the API servers, `total` the time spent waiting between them.
    Servers that cannot be reached at all are given up after `unreachable` seconds of waiting: a
    mistyped URL should not take half a minute to be noticed.
    """

    attempts: int = 12
    base: float = 0.25
    cap: float = 5.0
    total: float = 30.0
    unreachable: float = 8.0

    def limited(self, total: float) -> RetryPolicy:
        """This policy with `total` seconds of waiting at most."""
        attempts = self.attempts if total > 0 else 1
        return RetryPolicy(attempts, self.base, self.cap, total, min(self.unreachable, total))


class Patience:
    """How much of a policy one operation has used up."""

    def __init__(self, policy: RetryPolicy, rng: random.Random) -> None:
        self._policy = policy
        self._rng = rng
        self._failures = 0
        self._waited = 0.0

    def next_delay(self, error: DfsError, retry_after: float | None = None) -> float | None:
        """Seconds to wait before the next round, None when it is time to give up.

        `retry_after` (what a server asked for) is the least that is waited; when that is more than
        what is left, there is no sense in waiting at all.
        """
        self._failures += 1
        if not error.retryable or self._failures >= self._policy.attempts:
            return None
        step = min(self._policy.cap, self._policy.base * 2 ** (self._failures - 1))
        delay = max(self._rng.uniform(step / 2, step), retry_after or 0.0)
        limit = self._policy.unreachable if isinstance(error, Unreachable) else self._policy.total
        if self._waited + delay > limit:
            return None
        self._waited += delay
        return delay

    def progress(self) -> None:
        """Something was achieved: begin counting anew."""
        self._failures = 0
        self._waited = 0.0
