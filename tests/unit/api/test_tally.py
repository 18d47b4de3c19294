from __future__ import annotations

import random

import pytest

from dfs.api.tally import count_copies
from dfs.errors import ChunkConflict, Incomplete
from dfs.model import ChunkReplica


def row(index: int, node: str = "a", checksum: str = "1", length: int = 10) -> ChunkReplica:
    return ChunkReplica("f", index, node, checksum, length, "primary", 0)


def test_what_is_missing() -> None:
    rows = [row(1), row(1, "b"), row(2), row(4, "b"), row(4, "c"), row(4, "d")]
    tally = count_copies(rows, 60, 10, 6)
    assert list(tally.copies) == [0, 2, 1, 0, 3, 0]
    assert list(tally.missing(1)) == [(0, 0), (3, 3), (5, 5)]
    assert list(tally.missing(2)) == [(0, 0), (2, 3), (5, 5)]
    assert tally.fewest() == 0
    with pytest.raises(Incomplete, match="4 of 6") as raised:
        tally.check(2)
    assert raised.value.details == {"missing": [[0, 0], [2, 3], [5, 5]], "missing_chunks": 4}


def test_nothing_missing() -> None:
    rows = [row(0), row(0, "b"), row(1, length=3), row(1, "b", length=3)]
    tally = count_copies(rows, 13, 10, 2)
    tally.check(2)
    assert (tally.fewest(), tally.first_checksum) == (2, "1")


def test_an_empty_file_has_one_row_of_nothing() -> None:
    tally = count_copies([row(0, length=0)], 0, 1024, 0)
    tally.check(2)
    assert tally.first_checksum == "1"


@pytest.mark.parametrize(
    ("rows", "size", "chunks"),
    [
        ([row(0), row(0, "b", checksum="2")], 10, 1),
        ([row(0), row(0, "b", length=9)], 10, 1),
        ([row(0, length=9)], 10, 1),
        ([row(0), row(1)], 10, 1),
        ([row(0, length=1)], 0, 0),
        ([row(0, length=0), row(1, length=0)], 0, 0),
    ],
)
def test_rows_that_do_not_fit(rows: list[ChunkReplica], size: int, chunks: int) -> None:
    tally = count_copies(rows, size, 10, chunks)
    assert tally.conflicts == 1
    with pytest.raises(ChunkConflict):
        tally.check(1)


def test_the_list_in_an_error_is_bounded() -> None:
    with pytest.raises(Incomplete) as raised:
        count_copies([row(index) for index in range(0, 10_000, 2)], 100_000, 10, 10_000).check(1)
    assert len(raised.value.details["missing"]) == 1000
    assert raised.value.details["missing_chunks"] == 5000


def test_ranges_say_what_the_counts_say(rng: random.Random) -> None:
    for _ in range(100):
        counts = [rng.randrange(3) for _ in range(rng.randrange(30))]
        rows = [row(index, str(copy)) for index, copies in enumerate(counts) for copy in range(copies)]
        tally = count_copies(rows, 10 * len(counts), 10, len(counts))
        missing = {index for first, last in tally.missing(2) for index in range(first, last + 1)}
        assert missing == {index for index, copies in enumerate(counts) if copies < 2}
