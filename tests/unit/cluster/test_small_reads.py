"""Small chunks are read whole and kept for a while: what a hit may leave out, and what it never does."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dfs import errors
from dfs.cluster.chunkcache import LARGEST
from dfs.cluster.read import ChunkSource
from dfs.metadata.steps import ChangeFile, RemoveReplica
from dfs.model import FileState
from tests.unit.cluster.fakes import FILE, sha
from tests.unit.cluster.test_read import Stored, taken

KEEP = 30.0


def with_cache(stored: Stored, keep: float = KEEP, cache_bytes: int = 1 << 20) -> Stored:
    stored.source = ChunkSource(
        stored.cluster.membership,
        stored.cluster.calls,
        stored.store,
        keep_rows=keep,
        on_bad=lambda file_id, index: stored.bad.append((file_id, index)),
        cache_bytes=cache_bytes,
        clock=stored.clock,
    )
    return stored


def made(path: Path, data: bytes, chunk_size: int) -> Stored:
    return with_cache(Stored(path, data, "a", "b", "c", chunk_size=chunk_size))


def gets(stored: Stored) -> int:
    return sum(node.calls.count("/get-chunk") for node in stored.cluster.network.nodes.values())


def looked_at(stored: Stored) -> None:
    """Return when all that was to be done in the background is done."""
    done = threading.Event()
    assert stored.source._reports._background.submit(done.set)
    assert done.wait(30)


@pytest.fixture
def small(tmp_path: Path, rng: random.Random) -> Iterator[Stored]:
    """A file of one chunk of 1,000 bytes."""
    stored = made(tmp_path, rng.randbytes(1000), 1 << 20)
    yield stored
    assert all(answer.closed for answer in stored.cluster.network.answers)
    stored.source.close()
    stored.store.close()


def test_a_small_file_is_had_whole_and_from_memory_the_second_time(
    small: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = small.source.stream(FILE, 1000, 1 << 20)
    assert (first.whole, first.length) == (small.data, 1000)
    monkeypatch.setattr(small.store, "replicas", None)
    assert small.source.stream(FILE, 1000, 1 << 20, checksum=sha(small.data)).whole == small.data
    assert taken(small.source.stream(FILE, 1000, 1 << 20, 10, 19)) == small.data[10:20]
    assert small.source.read(FILE, 0, prefer="b").whole == small.data
    assert small.source.read(FILE, 0, 5, 4).whole == b""
    with pytest.raises(errors.RangeNotSatisfiable):
        small.source.read(FILE, 0, 0, 1000)
    assert gets(small) == 1


def test_a_chunk_read_by_its_place_alone_is_not_kept_since_its_file_may_be_going(small: Stored) -> None:
    read = small.source.read(FILE, 0, prefer="b")
    assert (read.whole, read.checksum, small.cluster["b"].calls.count("/get-chunk")) == (small.data, sha(small.data), 1)
    assert taken(small.source.read(FILE, 0, 1, 2, prefer="a")) == small.data[1:3]
    assert gets(small) == 2
    small.source.remember(FILE, 0, sha(small.data), small.data)
    assert taken(small.source.read(FILE, 0, 1, 2, prefer="a")) == small.data[1:3]
    assert gets(small) == 2


def test_it_is_used_no_longer_than_the_rows_it_was_read_by(small: Stored) -> None:
    small.all()
    small.clock.now += KEEP - 1
    small.source._cache.forget(FILE, 0)
    small.all()  # by rows that were read a while ago
    small.clock.now += 1
    assert gets(small) == 2
    small.all()
    assert gets(small) == 3


@pytest.mark.parametrize(("keep", "cache_bytes"), [(0.0, 1 << 20), (KEEP, 0)])
def test_nothing_is_kept_without_time_or_memory(small: Stored, keep: float, cache_bytes: int) -> None:
    with_cache(small, keep, cache_bytes)
    small.source.remember(FILE, 0, sha(small.data), small.data)
    for count in (1, 2, 3):
        assert small.all() == small.data
        assert gets(small) == count


def test_what_was_just_written_need_not_be_fetched(small: Stored) -> None:
    buffer = bytearray(small.data)
    small.source.remember(FILE, 0, sha(small.data), memoryview(buffer))
    buffer[:] = bytes(1000)
    assert small.all() == small.data
    assert gets(small) == 0
    small.clock.now += KEEP
    assert small.all() == small.data
    assert gets(small) == 1


@pytest.mark.parametrize("wrong", ["checksum", "length"])
def test_kept_bytes_that_are_not_those_of_the_head_are_not_used(small: Stored, wrong: str) -> None:
    other = b"other bytes" if wrong == "length" else bytes(1000)
    small.source.remember(FILE, 0, sha(other), other)
    assert small.source.stream(FILE, 1000, 1 << 20, checksum=sha(small.data)).whole == small.data
    assert gets(small) == 1
    assert small.all() == small.data


def test_a_file_of_many_small_chunks(tmp_path: Path, rng: random.Random) -> None:
    stored = made(tmp_path, rng.randbytes(10_500), 1000)
    assert stored.all() == stored.data
    assert gets(stored) == 11
    assert stored.all(999, 9_001) == stored.data[999:9_002]
    assert stored.all() == stored.data
    assert gets(stored) == 11


def test_a_chunk_just_above_the_limit_is_not_kept(tmp_path: Path, rng: random.Random) -> None:
    stored = made(tmp_path, rng.randbytes(LARGEST + 1), 1 << 20)
    for count in (1, 2):
        assert stored.all() == stored.data
        assert gets(stored) == count


@pytest.mark.parametrize("flip", [0, 999])
def test_a_small_copy_that_does_not_verify_is_never_kept_and_the_node_looks_at_it(small: Stored, flip: int) -> None:
    first = small.first_asked()
    small.cluster[first].flip = flip
    assert small.all() == small.data
    assert small.bad == [(FILE, 0)]
    looked_at(small)
    assert [name for name in "abc" if "/verify-chunk" in small.cluster[name].calls] == [first]
    assert small.all() == small.data
    assert gets(small) == 2


def test_a_node_that_left_is_not_asked_to_look(small: Stored) -> None:
    first = small.first_asked()
    small.source._verify_copy(FILE, 0, "stranger")
    small.source._verify_copy(FILE, 0, first)
    assert [name for name in "abc" if "/verify-chunk" in small.cluster[name].calls] == [first]


def test_a_small_file_fails_over_and_fails_like_a_large_one(small: Stored) -> None:
    small.cluster[small.first_asked()].down = True
    assert small.all() == small.data
    small.source._cache.forget(FILE, 0)
    for name in "abc":
        small.cluster[name].down = True
    with pytest.raises(errors.NoReplica, match="chunk 0"):
        small.all()
    with pytest.raises(errors.CorruptChunk, match="length"):
        small.source.stream(FILE, 1001, 1 << 20)


def test_an_erased_file_is_not_found_once_its_time_is_over(small: Stored) -> None:
    small.all()
    changes: dict[str, Any] = {"state": FileState.DELETING, "touched_at": 5}
    small.store.transact([ChangeFile(FILE, frozenset({FileState.COMMITTED}), changes)])
    assert small.all() == small.data  # as by rows remembered: whoever asks has just read the head
    small.clock.now += KEEP  # its bytes stay for longer than that
    small.store.transact([RemoveReplica(FILE, 0, name) for name in "abc"])
    for name in "abc":
        small.cluster[name].erased.add(FILE)
    for _ in range(2):
        with pytest.raises(errors.NotFound):
            small.all()
        with pytest.raises(errors.NotFound):
            small.source.read(FILE, 0, prefer="a")
