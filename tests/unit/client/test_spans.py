from __future__ import annotations

import itertools
import random

import pytest

from dfs.client.spans import FIRST, MIB, Spans, portions


def test_spans_join_and_say_what_is_missing() -> None:
    spans = Spans()
    assert (spans.prefix(), spans.end(), spans.total(), spans.gaps(10)) == (0, 0, 0, [(0, 10)])
    spans.add(4, 6)
    spans.add(8, 8)
    assert (spans.prefix(), spans.end(), spans.gaps(10)) == (0, 6, [(0, 4), (6, 10)])
    spans.add(0, 4)
    spans.add(9, 10)
    assert list(spans) == [(0, 6), (9, 10)] and spans.prefix() == 6 and spans.total() == 7
    assert spans.gaps(10) == [(6, 9)] and spans.gaps(8) == [(6, 8)] and spans.gaps(20) == [(6, 9), (10, 20)]
    assert list(spans.cut(5)) == [(0, 5)]
    spans.add(2, 9)
    assert list(spans) == [(0, 10)] and spans.gaps(10) == []


def test_spans_are_a_set_of_bytes(rng: random.Random) -> None:
    for _ in range(300):
        spans, there = Spans(), set[int]()
        for _ in range(rng.randrange(1, 12)):
            start = rng.randrange(60)
            end = start + rng.randrange(10)
            spans.add(start, end)
            there |= set(range(start, end))
        assert {byte for start, end in spans for byte in range(start, end)} == there
        assert {byte for start, end in spans.gaps(70) for byte in range(start, end)} == set(range(70)) - there
        listed = list(spans)
        assert all(first[1] < second[0] for first, second in itertools.pairwise(listed))


@pytest.mark.parametrize("jobs", [2, 4, 64])
@pytest.mark.parametrize("size", [FIRST + 1, 40 * MIB, 64 * MIB, 1 << 30, 1 << 36])
def test_portions_cover_the_gaps_in_order(size: int, jobs: int) -> None:
    gaps = [(FIRST, size)]
    found = list(portions(gaps, size, jobs))
    assert found[0][0] == FIRST and found[-1][1] == size
    assert all(one[1] == other[0] for one, other in itertools.pairwise(found))
    assert all(end - start <= 32 * MIB for start, end in found)
    assert all((end - start) % MIB == 0 and end - start >= 4 * MIB for start, end in found[:-1])
