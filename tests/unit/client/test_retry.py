from __future__ import annotations

import random

from dfs import errors
from dfs.client.failures import Unreachable
from dfs.client.retry import Patience, RetryPolicy


def delays(policy: RetryPolicy, error: errors.DfsError, retry_after: float | None = None) -> list[float]:
    patience = Patience(policy, random.Random(7))
    found = []
    while (delay := patience.next_delay(error, retry_after)) is not None:
        found.append(delay)
    return found


def test_delays_grow_twofold_with_jitter_up_to_the_cap() -> None:
    found = delays(RetryPolicy(attempts=8, base=1.0, cap=4.0, total=1000), errors.Busy("b"))
    assert len(found) == 7
    for delay, step in zip(found, [1, 2, 4, 4, 4, 4, 4], strict=True):
        assert step / 2 <= delay <= step


def test_waiting_ends_with_the_total() -> None:
    found = delays(RetryPolicy(attempts=1000, base=1.0, cap=1.0, total=10.0), errors.Busy("b"))
    assert 9.0 <= sum(found) <= 10.0


def test_unreachable_servers_are_given_up_sooner() -> None:
    policy = RetryPolicy(attempts=1000, base=1.0, cap=1.0, total=30.0, unreachable=3.0)
    assert sum(delays(policy, Unreachable("u"))) <= 3.0


def test_retry_after_is_the_least_that_is_waited() -> None:
    found = delays(RetryPolicy(attempts=3, base=0.1, total=100.0), errors.Busy("b"), 20.0)
    assert found == [20.0, 20.0]


def test_a_retry_after_beyond_the_rest_is_not_waited_for() -> None:
    assert delays(RetryPolicy(total=30.0), errors.ClusterFull("f"), 60.0) == []


def test_what_will_fail_again_is_not_tried_again() -> None:
    assert delays(RetryPolicy(), errors.NotFound("n")) == []


def test_progress_begins_the_count_anew() -> None:
    patience = Patience(RetryPolicy(attempts=2, base=0.0), random.Random(7))
    for _ in range(10):
        assert patience.next_delay(errors.Busy("b")) is not None
        patience.progress()
    assert patience.next_delay(errors.Busy("b")) is not None
    assert patience.next_delay(errors.Busy("b")) is None


def test_no_time_means_one_attempt() -> None:
    assert delays(RetryPolicy().limited(0.0), errors.Busy("b")) == []
    assert RetryPolicy().limited(2.0).unreachable == 2.0
