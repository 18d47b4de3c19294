from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from dfs.errors import Busy
from dfs.wire.buffers import Buffer, BufferPool
from dfs.wire.regions import Regions, rounded


def test_a_buffer_is_exactly_as_long_as_asked_for_and_writable() -> None:
    pool = BufferPool(1000)
    with pool.acquire(100, 0) as buffer:
        assert len(buffer.view) == 100
        buffer.view[:] = b"x" * 100
    buffer.release()
    assert pool.free_bytes == 1024
    with pytest.raises(ValueError, match="released"):
        buffer.view[0]


@pytest.mark.parametrize("size", [-1, 1001])
def test_what_can_never_be_had_is_refused_at_once(size: int) -> None:
    pool = BufferPool(1000)
    with pytest.raises(ValueError, match="never"):
        pool.acquire(size, 10)
    with pytest.raises(ValueError, match="never"):
        pool.try_acquire(size)
    with pytest.raises(ValueError, match="at least"):
        BufferPool(0)


def test_an_empty_reservation_is_always_had() -> None:
    pool = BufferPool(64)
    full = pool.acquire(64, 0)
    for _ in range(2):
        empty = pool.acquire(0, 0)
        assert len(empty.view) == 0
        empty.release()
        full.release()


def test_a_full_pool_is_busy_after_the_time_limit() -> None:
    pool = BufferPool(1000)
    held = pool.acquire(1000, 0)
    assert pool.try_acquire(1) is None
    with pytest.raises(Busy):
        pool.acquire(1, 0.01)
    assert pool.waiting == 0
    held.release()
    assert pool.try_acquire(1000) is not None


def _wait_for(pool: BufferPool, count: int) -> None:
    gate = threading.Event()
    while pool.waiting < count:
        gate.wait(0.001)


def test_waiters_are_served_in_order_and_nobody_overtakes_a_big_one() -> None:
    pool = BufferPool(640)
    held = [pool.acquire(320, 0), pool.acquire(320, 0)]
    order: list[int] = []
    got: dict[int, Buffer] = {}
    served = threading.Semaphore(0)

    def ask(size: int) -> None:
        buffer = pool.acquire(size, 20)
        order.append(size)
        got[size] = buffer
        served.release()

    with ThreadPoolExecutor(3) as threads:
        for at, size in enumerate((640, 64, 128)):
            threads.submit(ask, size)
            _wait_for(pool, at + 1)
        held[0].release()
        assert pool.try_acquire(1) is None
        assert pool.waiting == 3
        held[1].release()
        served.acquire()
        assert order == [640]
        got[640].release()
        served.acquire()
        served.acquire()
        assert sorted(order[1:]) == [64, 128]
    got[64].release()
    got[128].release()
    assert pool.free_bytes == 640


def test_those_behind_a_waiter_that_gave_up_are_served() -> None:
    pool = BufferPool(640)
    held = pool.acquire(320, 0)
    with ThreadPoolExecutor(2) as threads:
        big = threads.submit(pool.acquire, 640, 0.3)
        _wait_for(pool, 1)
        small = threads.submit(pool.acquire, 64, 20)
        with pytest.raises(Busy):
            big.result()
        small.result().release()
    held.release()
    assert pool.free_bytes == 640


def test_memory_never_overlaps_and_all_comes_back(rng: random.Random) -> None:
    pool = BufferPool(10_000)
    held: list[tuple[Buffer, int]] = []
    for step in range(5000):
        if held and rng.random() < 0.5:
            buffer, mark = held.pop(rng.randrange(len(held)))
            assert bytes(buffer.view) == bytes([mark]) * len(buffer.view)
            buffer.release()
        else:
            found = pool.try_acquire(rng.randrange(0, 3000))
            if found is not None:
                found.view[:] = bytes([step % 251]) * len(found.view)
                held.append((found, step % 251))
    for buffer, _ in held:
        buffer.release()
    assert pool.acquire(10_000, 0) is not None


MIB = 1 << 20


def test_a_thousand_sizes_cannot_fragment_it(rng: random.Random) -> None:
    pool = BufferPool(32 * MIB)
    held = [buffer for _ in range(3000) if (buffer := pool.try_acquire(rng.randrange(1, 60_000))) is not None]
    for number, buffer in enumerate(held):
        if number % 7:
            buffer.release()
    with pool.acquire(16 * MIB, 0) as whole:
        assert len(whole.view) == 16 * MIB
    for buffer in held:
        buffer.release()
    assert pool.free_bytes == 32 * MIB


def test_a_small_one_never_waits_for_large_ones() -> None:
    pool = BufferPool(32 * MIB)
    held = [pool.acquire(4 * MIB, 0) for _ in range(6)]
    with ThreadPoolExecutor(1) as threads:
        waiter = threads.submit(pool.acquire, 4 * MIB, 20)
        _wait_for(pool, 1)
        for size in (1, 1024, 65536, MIB):
            pool.acquire(size, 0).release()
        assert pool.try_acquire(1024) is None, "who holds memory already stands back"
        held.pop().release()
        waiter.result().release()
    for buffer in held:
        buffer.release()
    assert pool.free_bytes == 32 * MIB


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_who_would_wait_far_too_long_is_told_at_once_unless_it_has_begun() -> None:
    clock = Clock()
    pool = BufferPool(1000, clock=clock)
    held = pool.acquire(1000, 0)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(pool.acquire, 600, 20)
        _wait_for(pool, 1)
        clock.now += 10
        with pytest.raises(Busy, match="come free") as told:
            pool.acquire(600, 2)
        assert told.value.retry_after == 20
        begun = threads.submit(pool.acquire, 600, 20, begun=True)
        _wait_for(pool, 2)
        held.release()
        first.result().release()
        begun.result().release()
    assert pool.free_bytes == 1024


def test_the_queue_is_bounded() -> None:
    pool = BufferPool(1000, most_waiting=1)
    held = pool.acquire(1000, 0)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(pool.acquire, 10, 20)
        _wait_for(pool, 1)
        with pytest.raises(Busy, match="already") as told:
            pool.acquire(10, 20)
        assert told.value.retry_after == 1
        begun = threads.submit(pool.acquire, 10, 20, begun=True)
        _wait_for(pool, 2)
        held.release()
        first.result().release()
        begun.result().release()


class NoMemory(Regions):
    """The system gives nothing."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    def take(self, need: int) -> memoryview:
        raise self._error


@pytest.mark.parametrize("error", [MemoryError(), OSError(12, "Cannot allocate memory")])
def test_a_system_without_memory_is_busy_and_the_books_stay_even(error: Exception) -> None:
    pool = BufferPool(4 * MIB, regions=NoMemory(error))
    for _ in range(100):
        with pytest.raises(Busy, match="no memory"):
            pool.acquire(2 * MIB, 0)
    assert pool.free_bytes == 4 * MIB


def test_one_served_at_the_last_moment_gets_its_memory() -> None:
    class Late(BufferPool):
        def _wait(self, waiter: Any, size: int, timeout: float) -> None:
            held.release()  # serves the waiter between the end of its time and its looking
            waiter.gate.acquire()
            super()._wait(waiter, size, 0)

    pool = Late(1000)
    held = pool.acquire(1000, 0)
    pool.acquire(1000, 0).release()
    assert pool.free_bytes == 1024


def test_kept_memory_and_lent_memory_together_stay_within_the_total(rng: random.Random) -> None:
    regions = Regions()
    pool = BufferPool(8 * MIB, regions=regions)
    held: list[Buffer] = []
    for _ in range(4000):
        if held and rng.random() < 0.5:
            held.pop(rng.randrange(len(held))).release()
        else:
            found = pool.try_acquire(rng.choice((5000, 70_000, 300_000, MIB, 3 * MIB, 5 * MIB)))
            if found is not None:
                held.append(found)
                assert regions.kept_bytes <= pool.free_bytes
    for buffer in held:
        buffer.release()
    assert regions.kept_bytes <= pool.free_bytes == 8 * MIB


@pytest.mark.parametrize("size", [0, 1, 63, 64, 4096, 4097, 5000, 65536, 65537, MIB, 4 * MIB, 5 * MIB + 1, 64 * MIB])
def test_sizes_are_rounded_by_a_fifth_at_most_and_powers_of_two_not_at_all(size: int) -> None:
    need = rounded(size)
    assert size <= need <= max(size + 63, size * 1.25)
    assert need == rounded(need)
    if size >= 64 and size & (size - 1) == 0:
        assert need == size
