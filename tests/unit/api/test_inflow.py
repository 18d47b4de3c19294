"""How one upload uses memory: alone, beside others, and when somebody waits. No threads but those that wait."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from dfs.api import memory
from dfs.api.inflow import Inflow
from dfs.api.memory import Turn, reserve
from dfs.cluster.replicate import Written
from dfs.errors import PayloadTooLarge
from dfs.wire.buffers import Buffer, BufferPool

SIZE = 64 * 1024
POOL = 4 * SIZE
WRITTEN = Written((), False)


class Clock:
    now = 50.0

    def __call__(self) -> float:
        return self.now


def until_waiting(pool: BufferPool, count: int) -> None:
    pause = threading.Event()
    while pool.waiting < count:
        pause.wait(0.001)


def start(inflow: Inflow) -> Future[Written]:
    write: Future[Written] = Future()
    inflow.start(inflow.buffer(), write)
    return write


def test_chunks_that_can_never_fit_are_refused() -> None:
    pool = BufferPool(1000)
    with pytest.raises(PayloadTooLarge, match="DFS_BUFFER_BYTES=1000"):
        reserve(pool, 1001)
    with pytest.raises(PayloadTooLarge):
        Turn(pool, 1001).reserve()
    reserve(pool, 1000).release()


def test_alone_an_upload_uses_several_buffers_and_goes_on_with_them() -> None:
    pool = BufferPool(POOL)
    done: list[Written] = []
    inflow = Inflow(pool, SIZE, done.append)
    writes = [start(inflow) for _ in range(4)]
    assert pool.free_bytes < SIZE
    for write in writes[:2]:
        write.set_result(WRITTEN)
    inflow.give_back(inflow.buffer())
    assert len(done) == 2
    for write in writes[2:]:
        write.set_result(WRITTEN)
    inflow.finish()
    assert len(done) == 4 and pool.free_bytes == pool.total


def test_while_others_wait_it_keeps_one_buffer() -> None:
    pool = BufferPool(POOL)
    inflow = Inflow(pool, SIZE, lambda _: None)
    writes = [start(inflow) for _ in range(3)]
    held: list[Buffer] = []
    with ThreadPoolExecutor(2) as threads:
        others = [threads.submit(pool.acquire, 2 * SIZE, 20)]
        until_waiting(pool, 1)
        for write in writes:
            write.set_result(WRITTEN)
        own = inflow.buffer()
        held.append(others[0].result())
        assert len(own.view) == SIZE
        others.append(threads.submit(pool.acquire, 2 * SIZE, 20))
        until_waiting(pool, 1)
        inflow.give_back(own)
        assert inflow.buffer() is own, "its turn has only begun"
        inflow.give_back(own)
        held[0].release()
        others[1].result().release()
    inflow.close()
    assert pool.free_bytes == pool.total


def test_when_its_turn_is_over_it_queues_behind_those_who_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = BufferPool(SIZE)
    clock = Clock()
    turn = Turn(pool, SIZE, clock)
    monkeypatch.setattr("dfs.api.inflow.Turn", lambda *_: turn)
    inflow = Inflow(pool, SIZE, lambda _: None)
    own = inflow.buffer()
    inflow.give_back(own)
    clock.now += 60
    assert not turn.over(), "nobody waits"
    with ThreadPoolExecutor(2) as threads:
        other = threads.submit(pool.acquire, SIZE, 20)
        until_waiting(pool, 1)
        assert turn.over()
        again = threads.submit(inflow.buffer)
        other.result().release()
        inflow.give_back(again.result())
        assert again.result() is not own and not turn.over()
    inflow.close()
    assert pool.free_bytes == pool.total


def test_one_that_has_begun_waits_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[float, bool]] = []

    class Asked(BufferPool):
        def acquire(self, size: int, timeout: float, *, begun: bool = False) -> Buffer:
            asked.append((timeout, begun))
            return super().acquire(size, timeout, begun=begun)

    turn = Turn(Asked(SIZE), SIZE)
    assert not turn.over()
    for _ in range(2):
        turn.reserve().release()
    assert asked == [(memory.WAIT, False), (memory.WAIT_AGAIN, True)]


def test_a_failed_write_ends_standing_back_too() -> None:
    pool = BufferPool(POOL)
    inflow = Inflow(pool, SIZE, lambda _: None)
    write = start(inflow)
    write.set_exception(OSError("gone"))
    with ThreadPoolExecutor(1) as threads:
        other = threads.submit(pool.acquire, POOL, 20)
        until_waiting(pool, 1)
        with pytest.raises(OSError, match="gone"):
            inflow.buffer()
        inflow.close()
        other.result().release()
    assert pool.free_bytes == pool.total
