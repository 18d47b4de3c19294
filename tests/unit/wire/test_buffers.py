from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from dfs.errors import Busy
from dfs.wire.buffers import Buffer, BufferPool


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
