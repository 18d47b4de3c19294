"""The request for the next chunk goes out before this one has been passed on: what may become of it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from dfs import errors
from dfs.cluster.calls import PIECE
from dfs.cluster.readahead import FRESH_SECONDS
from dfs.cluster.slots import Slots
from dfs.wire.client import ConnectionLost, PeerTimeout
from tests.unit.cluster.fakes import FILE, Answer, Begun
from tests.unit.cluster.test_read import CHUNK, Stored, taken

COUNT = 4


@pytest.fixture
def stored(tmp_path: Path, rng: random.Random) -> Iterator[Stored]:
    """A file of four chunks of three pieces."""
    made = Stored(tmp_path, rng.randbytes(COUNT * CHUNK), "a", "b", "c")
    yield made
    assert all(answer.closed for answer in made.cluster.network.answers)
    made.source.close()
    made.store.close()


def begun(stored: Stored) -> list[Begun]:
    return stored.cluster.network.begun


def gets(stored: Stored) -> list[str]:
    return [pieces for name in "abc" for pieces in stored.cluster[name].pieces_asked]


def at_the_end_of_the_first(stored: Stored) -> tuple[bytes, Iterator[memoryview]]:
    """What a reader has who has just been given the last piece of chunk 0, and the rest of the stream."""
    stream = stored.source.stream(FILE, len(stored.data), CHUNK)
    return b"".join(bytes(next(stream)) for _ in range(3)), stream


def rest(had: tuple[bytes, Iterator[memoryview]]) -> bytes:
    return had[0] + b"".join(bytes(piece) for piece in had[1])


def test_every_chunk_but_the_first_is_asked_for_ahead_and_once(stored: Stored) -> None:
    assert stored.all() == stored.data
    assert len(begun(stored)) == COUNT - 1
    assert all(each.waited for each in begun(stored))
    assert gets(stored) == ["0-2"] * COUNT
    assert stored.cluster.suspects() == set()


def test_it_is_asked_for_before_the_last_piece_is_passed_on_and_not_earlier(stored: Stored) -> None:
    stream = stored.source.stream(FILE, len(stored.data), CHUNK)
    counts = []
    for _ in range(4):
        next(stream)
        counts.append(len(begun(stored)))
    stream.close()
    assert counts == [0, 0, 1, 1]


def test_no_more_than_the_range_is_asked_for(stored: Stored) -> None:
    assert stored.all(CHUNK - 1, CHUNK + PIECE) == stored.data[CHUNK - 1 : CHUNK + PIECE + 1]
    assert sorted(gets(stored)) == ["0-1", "2-2"]
    assert stored.all(0, CHUNK - 1) == stored.data[:CHUNK]
    assert len(begun(stored)) == 1


def test_a_reader_that_leaves_takes_what_was_asked_for_with_it(stored: Stored) -> None:
    _, stream = at_the_end_of_the_first(stored)
    (ahead,) = begun(stored)
    assert isinstance(ahead.outcome, Answer) and not ahead.outcome.closed
    stream.close()  # type: ignore[attr-defined]
    assert ahead.outcome.closed and not ahead.waited


def test_without_an_idle_connection_nothing_is_asked_for_ahead(stored: Stored) -> None:
    stored.cluster.network.idle = False
    assert stored.all() == stored.data
    assert begun(stored) == []
    assert gets(stored) == ["0-2"] * COUNT


def test_a_chunk_whose_rows_are_not_known_is_not_asked_for_ahead(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dfs.cluster.rows.PAGE", 2)
    assert stored.all() == stored.data
    assert len(begun(stored)) == COUNT // 2


def test_a_lost_connection_costs_nothing_and_nobody_is_blamed(stored: Stored) -> None:
    had = at_the_end_of_the_first(stored)
    (ahead,) = begun(stored)
    assert isinstance(ahead.outcome, Answer)
    ahead.outcome.close()
    ahead.outcome = ConnectionLost("reset")
    assert rest(had) == stored.data
    assert (stored.cluster.suspects(), stored.bad) == (set(), [])


def test_a_node_that_dies_meanwhile_is_replaced(stored: Stored) -> None:
    had = at_the_end_of_the_first(stored)
    (ahead,) = begun(stored)
    assert isinstance(ahead.outcome, Answer)
    ahead.outcome.close()
    ahead.outcome = ConnectionLost("reset")
    dead = stored.first_asked(1)
    stored.cluster[dead].down = True
    assert rest(had) == stored.data
    assert stored.cluster.suspects() == {dead}


def test_a_node_that_hangs_is_not_waited_for_twice(stored: Stored) -> None:
    had = at_the_end_of_the_first(stored)
    (ahead,) = begun(stored)
    assert isinstance(ahead.outcome, Answer)
    ahead.outcome.close()
    ahead.outcome = PeerTimeout("no byte moved")
    hung = stored.first_asked(1)
    asked = len(stored.cluster[hung].pieces_asked)
    had = had[0] + bytes(next(had[1])), had[1]
    assert len(stored.cluster[hung].pieces_asked) == asked
    assert stored.cluster.suspects() == {hung}
    assert rest(had) == stored.data


def test_what_cannot_be_waited_for_is_given_up(stored: Stored) -> None:
    had = at_the_end_of_the_first(stored)
    (ahead,) = begun(stored)
    calls, busy = stored.cluster.calls, stored.first_asked(1)
    calls._stall = 0.0
    calls._slots[busy] = Slots(busy, 0)  # others wait on this node, as many as may
    assert rest(had) == stored.data
    assert not ahead.waited
    assert isinstance(ahead.outcome, Answer) and ahead.outcome.closed
    assert (stored.cluster.suspects(), stored.bad) == (set(), [])


@pytest.mark.parametrize("trouble", ["cut", "flip", "missing"])
def test_what_is_wrong_with_the_answer_is_found_as_ever(stored: Stored, trouble: str) -> None:
    node = stored.cluster[stored.first_asked(1)]
    stream = stored.source.stream(FILE, len(stored.data), CHUNK)
    found = bytes(next(stream)) + bytes(next(stream))
    if trouble == "missing":
        del node.chunks[FILE, 1]
    else:
        setattr(node, trouble, PIECE + 5)
    assert rest((found, stream)) == stored.data
    assert stored.bad == ([] if trouble == "cut" else [(FILE, 1)])
    assert (node.node_id in stored.cluster.suspects()) == (trouble == "cut")


def test_what_was_asked_for_too_long_ago_is_not_used(stored: Stored) -> None:
    had = at_the_end_of_the_first(stored)
    stored.clock.now += FRESH_SECONDS + 0.1
    (ahead,) = begun(stored)
    assert rest(had) == stored.data
    assert not ahead.waited
    assert isinstance(ahead.outcome, Answer) and ahead.outcome.closed


def test_another_node_is_asked_when_the_one_asked_ahead_falls_ill(stored: Stored) -> None:
    had = at_the_end_of_the_first(stored)
    ill = stored.first_asked(1)
    stored.cluster.membership.report_failure(ill, "reset")
    (ahead,) = begun(stored)
    assert rest(had) == stored.data
    assert not ahead.waited
    assert isinstance(ahead.outcome, Answer) and ahead.outcome.closed


def test_a_small_last_chunk_is_not_asked_for_ahead(tmp_path: Path, rng: random.Random) -> None:
    stored = Stored(tmp_path, rng.randbytes(CHUNK + 77), "a", "b", "c")
    assert stored.all() == stored.data
    assert begun(stored) == []


def test_when_no_node_is_left_to_ask_nothing_is_asked_for_ahead(stored: Stored) -> None:
    had = at_the_end_of_the_first(stored)
    for _ in range(2):  # up to the last piece of chunk 1
        had = had[0] + bytes(next(had[1])), had[1]
    stored.cluster.registry.nodes.clear()
    stored.cluster.clock.now += 10
    stored.cluster.membership.refresh()
    had = had[0] + bytes(next(had[1])), had[1]
    assert had[0] == stored.data[: 2 * CHUNK]
    assert len(begun(stored)) == 1
    with pytest.raises(errors.NoReplica, match="chunk 2"):
        next(had[1])


def test_a_single_chunk_is_read_without_looking_ahead(stored: Stored) -> None:
    assert taken(stored.source.read(FILE, 0)) == stored.data[:CHUNK]
    assert begun(stored) == []
