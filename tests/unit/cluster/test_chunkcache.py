"""The cache of small chunks: its bounds, its time, and that no entry can turn into other bytes."""

from __future__ import annotations

import random
import threading
import tracemalloc
import uuid

from dfs.cluster.chunkcache import ENTRY_BYTES, LARGEST, ChunkCache
from tests.unit.cluster.fakes import FILE, Clock, sha

FOR_EVER = 1e18


def test_what_was_put_is_there_until_its_time_is_over() -> None:
    clock = Clock()
    cache = ChunkCache(1 << 20, clock=clock)
    cache.put(FILE, 3, sha(b"abc"), b"abc", clock() + 10)
    assert cache.get(FILE, 2) is None
    found = cache.get(FILE, 3)
    assert found is not None and (found.data, found.checksum) == (b"abc", sha(b"abc"))
    clock.now += 10
    assert cache.get(FILE, 3) is None
    assert cache.held == 0


def test_the_bytes_are_copied_unless_nobody_can_change_them() -> None:
    cache = ChunkCache(1 << 20)
    buffer = bytearray(b"abc")
    cache.put(FILE, 0, sha(b"abc"), memoryview(buffer), FOR_EVER)
    buffer[:] = b"xyz"
    found = cache.get(FILE, 0)
    assert found is not None and found.data == b"abc"
    given = bytes(1000)
    cache.put(FILE, 1, sha(given), given, FOR_EVER)
    kept = cache.get(FILE, 1)
    assert kept is not None and kept.data is given


def test_only_small_chunks_are_taken() -> None:
    cache = ChunkCache(1 << 20)
    cache.put(FILE, 0, "x", bytes(LARGEST), FOR_EVER)
    cache.put(FILE, 1, "x", bytes(LARGEST + 1), FOR_EVER)
    assert cache.get(FILE, 0) is not None
    assert cache.get(FILE, 1) is None
    assert cache.takes(LARGEST) and not cache.takes(LARGEST + 1)


def test_without_memory_nothing_is_kept() -> None:
    cache = ChunkCache(0)
    cache.put(FILE, 0, "x", b"", FOR_EVER)
    assert (cache.get(FILE, 0), cache.held) == (None, 0)


def test_the_chunks_used_last_stay() -> None:
    cache = ChunkCache(3 * (ENTRY_BYTES + 100))
    for index in range(3):
        cache.put(FILE, index, "x", bytes(100), FOR_EVER)
    assert cache.get(FILE, 0) is not None
    cache.put(FILE, 3, "x", bytes(100), FOR_EVER)
    assert [index for index in range(4) if cache.get(FILE, index) is not None] == [0, 2, 3]
    cache.put(FILE, 4, "x", bytes(201), FOR_EVER)  # two have to go for it
    assert [index for index in range(5) if cache.get(FILE, index) is not None] == [3, 4]


def test_a_chunk_put_again_or_forgotten_is_counted_once() -> None:
    cache = ChunkCache(1 << 20)
    for _ in range(3):
        cache.put(FILE, 0, "x", bytes(100), FOR_EVER)
    assert cache.held == ENTRY_BYTES + 100
    cache.forget(FILE, 0)
    cache.forget(FILE, 0)
    assert (cache.held, cache.get(FILE, 0)) == (0, None)


def test_it_takes_no_more_memory_than_it_says(rng: random.Random) -> None:
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        cache = ChunkCache(1 << 20)
        for number in range(6000):
            data = rng.randbytes(rng.choice((1, 50, 1024)))
            cache.put(str(uuid.UUID(int=number)), number, sha(data), data, FOR_EVER)
            assert cache.held <= 1 << 20
        assert tracemalloc.get_traced_memory()[0] - before <= 1.1 * (1 << 20)
    finally:
        tracemalloc.stop()


def test_many_threads_at_once_leave_it_whole(rng: random.Random) -> None:
    cache = ChunkCache(20 * (ENTRY_BYTES + 64))
    wrong: list[int] = []

    def work(seed: int) -> None:
        own = random.Random(seed)
        for _ in range(2000):
            index = own.randrange(60)
            if own.random() < 0.4:
                cache.put(FILE, index, str(index), bytes([index]) * own.randrange(64), FOR_EVER)
            elif own.random() < 0.1:
                cache.forget(FILE, index)
            else:
                found = cache.get(FILE, index)
                if found is not None and (found.checksum, set(found.data) - {index}) != (str(index), set()):
                    wrong.append(index)

    threads = [threading.Thread(target=work, args=(rng.randrange(1 << 30),)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert cache.held == sum(len(chunk.data) + ENTRY_BYTES for chunk in cache._chunks.values()) <= cache._total
