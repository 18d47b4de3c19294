"""Batches of small chunks: what goes together, and what becomes of each when a call fails."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from dfs import errors
from dfs.chunkbatch import NewChunk
from dfs.cluster import batches as module
from dfs.cluster.batches import Batches, Parcel, SendAlone
from dfs.cluster.calls import NodeFailed
from dfs.cluster.placement import Placement
from dfs.cluster.replicate import Late, Replicator, Written, may_hold
from dfs.cluster.transfer import PRIMARY, SECONDARY
from dfs.wire.client import ConnectionLost
from dfs.wire.deadline import Deadline
from tests.unit.cluster.fakes import FILE, Clock, Cluster, info, json_answer, refuse, sha

DATA = b"a small chunk"
SECONDS = 30.0


class Calls:
    """`store_many` alone. While `gate` is closed calls wait in it; `fail` may raise."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, list[int]]] = []
        self.threads: list[str] = []
        self.arrived = threading.Semaphore(0)
        self.gate = threading.Event()
        self.gate.set()
        self.fail: Callable[[str, Sequence[NewChunk]], object] = lambda node_id, chunks: None

    def store_many(self, node: Any, chunks: Sequence[NewChunk], *, deadline: Deadline) -> list[None]:
        self.sent.append((node.node_id, [chunk.chunk_index for chunk in chunks]))
        self.threads.append(threading.current_thread().name)
        self.arrived.release()
        assert self.gate.wait(SECONDS)
        self.fail(node.node_id, chunks)
        return [None] * len(chunks)


class Landed:
    """Where parcels land."""

    def __init__(self) -> None:
        self.errors: dict[int, Exception | None] = {}
        self._one = threading.Semaphore(0)

    def __call__(self, parcel: Parcel, error: Exception | None) -> None:
        self.errors[parcel.chunk.chunk_index] = error
        self._one.release()

    def wait(self, count: int) -> None:
        for _ in range(count):
            assert self._one.acquire(timeout=SECONDS)


@pytest.fixture
def calls() -> Calls:
    return Calls()


@pytest.fixture
def batches(calls: Calls) -> Iterator[Batches]:
    fake: Any = calls
    made = Batches(fake, Cluster("a", "b").membership)
    yield made
    calls.gate.set()
    made.close()


def parcel(
    landed: Callable[[Parcel, Exception | None], None], index: int, data: bytes = DATA, node: str = "a", boot: str = "1"
) -> Parcel:
    chunk = NewChunk(FILE, index, data, sha(data), zlib.crc32(data), 1 << 20, None)
    return Parcel(info(node, boot_id=boot), chunk, Deadline(SECONDS), landed)


def send(batches: Batches, landed: Landed, *indexes: int, **more: Any) -> None:
    for index in indexes:
        batches.send([parcel(landed, index, **more)], lead=False)


# --- what goes together ------------------------------------------------------------------------------


def test_what_comes_while_a_call_is_under_way_goes_together(calls: Calls, batches: Batches) -> None:
    landed = Landed()
    calls.gate.clear()
    send(batches, landed, 0)
    assert calls.arrived.acquire(timeout=SECONDS)
    send(batches, landed, 1, 2, 3)
    assert landed.errors == {}
    calls.gate.set()
    landed.wait(4)
    assert calls.sent == [("a", [0]), ("a", [1, 2, 3])]
    assert landed.errors == dict.fromkeys(range(4))
    assert set(calls.threads) == {"dfs-send-a"}


def test_a_lone_writer_sends_by_itself(calls: Calls, batches: Batches) -> None:
    landed = Landed()
    batches.send([parcel(landed, 0)], lead=True)
    assert landed.errors == {0: None}, "landed when send returns"
    assert calls.threads == [threading.current_thread().name]
    batches.send([parcel(landed, 1), parcel(landed, 2, node="b")], lead=True)
    landed.wait(3)
    assert sorted(calls.threads[1:]) == sorted([threading.current_thread().name, "dfs-send-b"])


def test_what_comes_while_a_writer_sends_is_not_left_to_it(calls: Calls, batches: Batches) -> None:
    landed, led = Landed(), threading.Event()
    calls.gate.clear()

    def lead() -> None:
        batches.send([parcel(landed, 0)], lead=True)
        led.set()

    thread = threading.Thread(target=lead)
    thread.start()
    assert calls.arrived.acquire(timeout=SECONDS)
    send(batches, landed, 1)
    calls.gate.set()
    landed.wait(2)
    assert led.wait(SECONDS)
    thread.join()
    assert calls.threads[1] == "dfs-send-a"


def test_a_slow_node_holds_nobody_else_up(calls: Calls, batches: Batches) -> None:
    landed, opened = Landed(), threading.Event()
    calls.fail = lambda node_id, chunks: node_id == "a" and opened.wait(SECONDS)
    send(batches, landed, 0)
    send(batches, landed, 1, 2, 3, node="b")
    landed.wait(3)
    assert sorted(landed.errors) == [1, 2, 3]
    opened.set()
    landed.wait(1)


@pytest.mark.parametrize(("size", "sizes"), [(1, [1, 256, 43]), (64 * 1024, [1, 63, 63, 63, 63, 47])])
def test_a_batch_is_bounded(calls: Calls, batches: Batches, size: int, sizes: list[int]) -> None:
    landed = Landed()
    calls.gate.clear()
    send(batches, landed, 0, data=bytes(size))
    assert calls.arrived.acquire(timeout=SECONDS)
    send(batches, landed, *range(1, 300), data=bytes(size))
    calls.gate.set()
    landed.wait(300)
    alone = sum(error is not None for error in landed.errors.values())
    assert [len(indexes) for _, indexes in calls.sent][: len(sizes) - 1] == sizes[:-1]
    assert sum(len(indexes) for _, indexes in calls.sent) + alone == 300
    assert alone == (0 if size == 1 else 299 - 256), "the queue is bounded too"


def test_what_a_full_queue_does_not_take_goes_alone(
    calls: Calls, batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_QUEUED", 2)
    landed = Landed()
    calls.gate.clear()
    send(batches, landed, 0)
    assert calls.arrived.acquire(timeout=SECONDS)
    send(batches, landed, 1, 2, 3)
    assert list(landed.errors) == [3] and isinstance(landed.errors[3], SendAlone)
    calls.gate.set()
    landed.wait(4)


# --- failures of a call --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "alone"),
    [
        (errors.Busy("later"), False),
        (errors.WrongNode("no"), False),
        (errors.NodeFull("full"), False),
        (errors.StoreReadOnly("draining"), False),
        (errors.DfsError("internal"), False),
        (errors.BadRequest("malformed"), True),
        (errors.ChunkConflict("said of a batch?"), True),
        (errors.NotFound("no such call"), True),
        (errors.MethodNotAllowed("no such call"), True),
        (ValueError("cannot be encoded"), True),
        (ZeroDivisionError("a bug"), True),
    ],
)
def test_a_batch_refused_as_a_whole(calls: Calls, batches: Batches, error: Exception, alone: bool) -> None:
    def fail(node_id: str, chunks: Sequence[NewChunk]) -> None:
        raise error

    landed = Landed()
    calls.gate.clear()
    send(batches, landed, 0)
    assert calls.arrived.acquire(timeout=SECONDS)
    send(batches, landed, 1, 2)
    calls.fail = fail
    calls.gate.set()
    landed.wait(3)
    for found in landed.errors.values():
        assert isinstance(found, SendAlone) if alone else found is error
    older = isinstance(error, (errors.NotFound, errors.MethodNotAllowed))
    calls.fail = lambda node_id, chunks: None
    send(batches, landed, 7)
    landed.wait(1)
    assert isinstance(landed.errors[7], SendAlone) == older, "a node of an older release is not asked again"
    send(batches, landed, 8, boot="2")
    landed.wait(1)
    assert landed.errors[8] is None, "until it has restarted"


def test_a_node_that_fails_fails_those_behind_too_and_they_were_not_sent(calls: Calls, batches: Batches) -> None:
    def fail(node_id: str, chunks: Sequence[NewChunk]) -> None:
        raise NodeFailed(node_id, "nothing for five seconds", sent=True)

    landed = Landed()
    calls.gate.clear()
    send(batches, landed, 0)
    assert calls.arrived.acquire(timeout=SECONDS)
    send(batches, landed, 1, 2)
    calls.fail = fail
    calls.gate.set()
    landed.wait(3)
    assert len(calls.sent) == 1
    sent = {index: isinstance(error, NodeFailed) and error.sent for index, error in landed.errors.items()}
    assert sent == {0: True, 1: False, 2: False}
    calls.fail = lambda node_id, chunks: None
    send(batches, landed, 3)
    landed.wait(1)
    assert landed.errors[3] is None


def test_withdrawn_is_not_sent(calls: Calls, batches: Batches) -> None:
    landed = Landed()
    calls.gate.clear()
    first, second = parcel(landed, 0), parcel(landed, 1)
    batches.send([first], lead=False)
    assert calls.arrived.acquire(timeout=SECONDS)
    batches.send([second], lead=False)
    assert batches.withdraw(second) and not batches.withdraw(second)
    assert not batches.withdraw(first)
    calls.gate.set()
    landed.wait(1)
    send(batches, landed, 2)
    landed.wait(1)
    assert [indexes for _, indexes in calls.sent] == [[0], [2]]


def test_closed_while_queued(calls: Calls, batches: Batches) -> None:
    landed = Landed()
    calls.gate.clear()
    send(batches, landed, 0)
    assert calls.arrived.acquire(timeout=SECONDS)
    send(batches, landed, 1)
    closing = threading.Thread(target=batches.close)
    closing.start()
    landed.wait(1)
    assert isinstance(landed.errors[1], NodeFailed) and not landed.errors[1].sent
    send(batches, landed, 2)
    send(batches, landed, 3, node="b")
    landed.wait(2)
    assert isinstance(landed.errors[2], SendAlone) and isinstance(landed.errors[3], SendAlone)
    calls.gate.set()
    closing.join()
    landed.wait(1)
    assert landed.errors[0] is None
    assert not any(thread.name.startswith("dfs-send-") for thread in threading.enumerate() if thread.name[-1] in "ab")


def test_idle_threads_end_and_come_back(
    calls: Calls, batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "IDLE_SECONDS", 0.01)
    landed = Landed()
    for index in range(5):
        send(batches, landed, index)
        landed.wait(1)
        for thread in threading.enumerate():
            if thread.name == "dfs-send-a":
                thread.join(SECONDS)
    assert landed.errors == dict.fromkeys(range(5))


def test_without_a_thread_to_be_had_the_writer_sends(
    calls: Calls, batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    landed = Landed()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        send(batches, landed, 0)
    assert landed.errors == {0: None}
    send(batches, landed, 1)
    landed.wait(1)


def test_closed_while_a_thread_is_about_to_begin(
    calls: Calls, batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, closed = threading.Thread.start, threading.Event()

    def begin(thread: threading.Thread) -> None:
        batches.close()
        closed.set()
        start(thread)

    landed = Landed()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", begin)
        send(batches, landed, 0)
    landed.wait(1)
    assert closed.is_set()
    assert isinstance(landed.errors[0], NodeFailed) and not landed.errors[0].sent
    assert calls.sent == []


def test_a_bug_where_a_parcel_lands_ends_no_thread(calls: Calls, batches: Batches) -> None:
    def bug(parcel: Parcel, error: Exception | None) -> None:
        raise ZeroDivisionError

    batches.send([parcel(bug, 0)], lead=False)
    assert calls.arrived.acquire(timeout=SECONDS)
    with pytest.raises(ZeroDivisionError):
        batches.send([parcel(bug, 1, node="b")], lead=True)
    landed = Landed()
    for node in "ab":
        send(batches, landed, ord(node), node=node)
    landed.wait(2)
    assert set(landed.errors.values()) == {None}


# --- with the lanes ------------------------------------------------------------------------------------


class Writers:
    """A replicator with batches, whose first call to every node waits until `opened`."""

    def __init__(self, *names: str, factor: int = 2, strategy: str = "sync", timeout: float = SECONDS, **more: Any) -> None:
        self.cluster = Cluster(*names, **more)
        self.late: list[Late] = []
        self.pool = ThreadPoolExecutor(8)
        self.batches = Batches(self.cluster.calls, self.cluster.membership)
        self.it = Replicator(
            self.cluster.membership,
            Placement(),
            self.cluster.calls,
            factor=factor,
            strategy=strategy,
            timeout=timeout,
            executor=self.pool,
            on_late=self.late.append,
            batches=self.batches,
        )

    def write(self, index: int = 0, data: bytes = DATA, **more: Any) -> Written:
        return self.it.write(
            FILE, index, memoryview(data), checksum=sha(data), chunk_size=1 << 20, file_size=None, now_ms=5, **more
        )

    def order(self, index: int = 0) -> list[str]:
        return [n.node_id for n in Placement().nodes_for(FILE, index, self.cluster.membership.view())]

    def close(self) -> None:
        assert self.it.drain(SECONDS)
        self.pool.shutdown()
        self.batches.close()


def together(writers: Writers, node: str) -> tuple[threading.Event, threading.Semaphore]:
    """Hold the node's first batch back until the event is set; the semaphore tells of its coming."""
    opened, came = threading.Event(), threading.Semaphore(0)
    fake = writers.cluster[node]
    before = fake.trouble

    def hold(method: str, path: str) -> Any:
        if path == "/store-chunks" and not opened.is_set():
            came.release()
            assert opened.wait(SECONDS)
        return before(method, path)

    fake.trouble = hold
    return opened, came


def queued(writers: Writers, node: str, count: int) -> None:
    """Wait until so many parcels wait for the node."""
    outbox = writers.batches._outbox(node)
    reached = threading.Event()
    while len(outbox._queue) < count:
        reached.wait(0.001)


def landed(writers: Writers, node: str, index: int) -> None:
    """Wait until the node has the chunk."""
    pause = threading.Event()
    while (FILE, index) not in writers.cluster[node].chunks:
        pause.wait(0.001)


def test_one_conflict_in_a_batch_is_its_own() -> None:
    writers = Writers("a", "b")
    other = b"other bytes"
    writers.write(5, other)
    opened, came = together(writers, "a")
    with ThreadPoolExecutor(8) as clients:
        first = clients.submit(writers.write, 0)
        assert came.acquire(timeout=SECONDS)
        rest = [clients.submit(writers.write, index) for index in (4, 5, 6)]
        queued(writers, "a", 3)
        opened.set()
        assert len(first.result(SECONDS).replicas) == 2
        assert len(rest[0].result(SECONDS).replicas) == len(rest[2].result(SECONDS).replicas) == 2
        with pytest.raises(errors.ChunkConflict) as refused:
            rest[1].result(SECONDS)
    assert may_hold(refused.value) == ()
    assert writers.cluster["a"].batches[-1] == 3
    assert writers.cluster["a"].chunks[FILE, 5] == other
    assert writers.cluster.suspects() == set()
    writers.close()


def test_a_lost_answer_makes_every_chunk_of_the_batch_uncertain() -> None:
    writers = Writers("a", "b", "c")
    victim = writers.order(0)[0]
    same = [index for index in range(200) if victim in writers.order(index)[:2]][:4]
    opened, came = together(writers, victim)
    with ThreadPoolExecutor(8) as clients:
        written = [clients.submit(writers.write, same[0])]
        assert came.acquire(timeout=SECONDS)
        written += [clients.submit(writers.write, index) for index in same[1:]]
        queued(writers, victim, 3)
        hold = writers.cluster[victim].trouble

        def lost(method: str, path: str) -> Any:
            hold(method, path)
            if path == "/store-chunks":
                raise ConnectionLost("reset")
            return None

        writers.cluster[victim].trouble = lost
        opened.set()
        results = [future.result(SECONDS) for future in written]
    for result in results[:1]:
        assert result.uncertain == ()
    # The first batch's answer came (it was asked before); the second's was lost: all three went elsewhere.
    for result in results[1:]:
        assert result.uncertain == (victim,)
        assert victim not in {row.node_id for row in result.replicas} and len(result.replicas) == 2
    assert writers.cluster.suspects() == {victim}
    writers.close()


def test_zones_stay_apart_when_a_batch_fails() -> None:
    writers = Writers("a1", "a2", "a3", "b1", "b2", "b3", zones="aaabbb")
    for index in range(20):
        first, second = writers.order(index)[:2]
        assert first[0] != second[0]
        assert {row.node_id for row in writers.write(index).replicas} == {first, second}
    second = writers.order(20)[1]
    writers.cluster[second].trouble = refuse(errors.Busy("later"), "/store-chunks")
    written = writers.write(20)
    assert {row.node_id[0] for row in written.replicas} == {"a", "b"}
    assert second not in {row.node_id for row in written.replicas}
    writers.close()


def test_roles_go_with_the_nodes_and_with_the_substitute() -> None:
    writers = Writers("a", "b", "c")
    first, second, third = writers.order()
    writers.cluster[first].trouble = refuse(errors.Busy("later"), "/store-chunks")
    written = writers.write()
    assert {row.node_id for row in written.replicas} == {second, third}
    assert writers.cluster[second].roles == [SECONDARY]
    assert writers.cluster[third].calls.count("/store-chunk") == 1 and PRIMARY == "primary"
    writers.close()


def test_a_batch_refused_as_malformed_is_sent_chunk_by_chunk_to_the_same_node() -> None:
    writers = Writers("a", "b", "c")
    first, second, third = writers.order()
    writers.cluster[first].trouble = refuse(errors.BadRequest("chunk 0 spoils it"), "/store-chunks")
    written = writers.write()
    assert [row.node_id for row in written.replicas] == [first, second]
    assert "/store-chunk" not in writers.cluster[third].calls
    assert writers.cluster.suspects() == set()
    writers.close()


class Passing(Deadline):
    """A deadline by a clock set by hand; those who wait for it look every few milliseconds."""

    __slots__ = ()

    def remaining(self) -> float:
        return min(0.005, super().remaining())


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("dfs.cluster.replicate.Deadline", lambda seconds: Passing(seconds, made))
    return made


def test_a_writer_whose_time_is_over_takes_back_what_was_not_sent(clock: Clock) -> None:
    writers = Writers("a", "b", "c")
    slow, quick = writers.order()[:2]
    another = next(index for index in range(1, 99) if writers.order(index)[0] == slow)
    opened, came = together(writers, slow)
    with ThreadPoolExecutor(4) as clients:
        blocking = clients.submit(writers.write, another)
        assert came.acquire(timeout=SECONDS)
        waiting = clients.submit(writers.write, 0)
        queued(writers, slow, 1)
        clock.now += 2 * SECONDS
        with pytest.raises(errors.NotEnoughNodes) as few:
            waiting.result(SECONDS)
        assert set(may_hold(few.value)) <= {quick}
        opened.set()
        blocking.exception(SECONDS)
    assert (FILE, 0) not in writers.cluster[slow].chunks
    assert writers.cluster.suspects() == set(), "it may have been the writer"
    writers.close()


def test_a_writer_whose_time_is_over_does_not_know_of_what_was_sent(clock: Clock) -> None:
    writers = Writers("a", "b", "c")
    quick, slow = writers.order()[:2]
    opened, came = together(writers, slow)
    with ThreadPoolExecutor(4) as clients:
        waiting = clients.submit(writers.write, 0)
        assert came.acquire(timeout=SECONDS)
        landed(writers, quick, 0)
        clock.now += 2 * SECONDS
        with pytest.raises(errors.NotEnoughNodes) as few:
            waiting.result(SECONDS)
        assert may_hold(few.value) == (quick, slow)
        opened.set()
    writers.close()
    assert writers.cluster[slow].chunks[FILE, 0] == DATA
    assert writers.cluster.suspects() == set()


def test_a_quorum_does_not_wait_for_the_batch_of_a_slow_node() -> None:
    writers = Writers("a", "b", "c", factor=3, strategy="quorum")
    slow = writers.order()[2]
    opened, came = together(writers, slow)
    buffer = bytearray(DATA)
    written = writers.it.write(
        FILE, 0, memoryview(buffer), checksum=sha(DATA), chunk_size=1 << 20, file_size=None, now_ms=5
    )
    buffer[:] = bytes(len(buffer))  # the caller's memory is the caller's again
    assert came.acquire(timeout=SECONDS)
    assert {row.node_id for row in written.replicas} == set(writers.order()[:2]) and written.short
    assert written.pending is not None
    written.pending()
    opened.set()
    assert writers.it.drain(SECONDS)
    assert [(late.complete, [row.node_id for row in late.rows]) for late in writers.late] == [(True, [slow])]
    assert writers.cluster[slow].chunks[FILE, 0] == DATA
    writers.close()


def test_a_quorums_straggler_that_fails_in_its_batch_goes_on_elsewhere() -> None:
    writers = Writers("a", "b", "c", "d", factor=3, strategy="quorum")
    slow, spare = writers.order()[2:4]
    opened, came = together(writers, slow)
    written = writers.write()
    assert came.acquire(timeout=SECONDS)
    assert written.pending is not None
    written.pending()
    writers.cluster[slow].loses_answers = True
    opened.set()
    assert writers.it.drain(SECONDS)
    assert [[row.node_id for row in late.rows] for late in writers.late] == [[spare]]
    writers.close()


@pytest.mark.parametrize(
    "said",
    [
        {"node_id": "another", "stored": 1, "errors": {}},
        {"node_id": "{}", "stored": 1, "errors": []},
        {"node_id": "{}", "stored": 0, "errors": {}},
        {"node_id": "{}", "stored": 0, "errors": {"7": {"status": 409, "error": {"code": "chunk_conflict"}}}},
        {"node_id": "{}", "stored": 0, "errors": {"-1": {"status": 409, "error": {"code": "chunk_conflict"}}}},
        {"node_id": "{}", "stored": 0, "errors": {"0": {"status": 409}}},
        {"node_id": "{}", "stored": 0, "errors": {"0": {"status": 418, "error": {"code": "teapot"}}}},
        {"node_id": "{}", "errors": {}},
    ],
)
def test_an_answer_that_is_none_is_a_failure_of_the_node(said: dict[str, Any]) -> None:
    writers = Writers("a", "b", "c")
    first, *others = writers.order()
    said = said | {"node_id": str(said["node_id"]).format(first) if said["node_id"] != "{}" else first}
    writers.cluster[first].trouble = lambda method, path: (
        json_answer(200, said) if path == "/store-chunks" else None
    )
    written = writers.write()
    assert {row.node_id for row in written.replicas} == set(others)
    assert written.uncertain == (first,) and writers.cluster.suspects() == {first}
    writers.close()


def test_big_chunks_and_odd_numbers_go_alone() -> None:
    writers = Writers("a", "b")
    big = bytes(module.SMALL + 1)
    writers.write(0, big, piece_crcs=(zlib.crc32(big),))
    writers.it.write(FILE, 1, DATA, checksum=sha(DATA), chunk_size=1, file_size=1, now_ms=5)
    assert all(node.batches == [] for node in writers.cluster.network.nodes.values())
    writers.write(2, b"")
    assert sorted(writers.cluster["a"].chunks) == [(FILE, 0), (FILE, 1), (FILE, 2)]
    assert writers.cluster["a"].batches == [1]
    writers.close()


def test_many_writers_share_calls() -> None:
    writers = Writers("a", "b", "c")
    with ThreadPoolExecutor(16) as clients:
        for result in clients.map(lambda index: writers.write(index, b"%d" % index), range(400)):
            assert len(result.replicas) == 2
    nodes = writers.cluster.network.nodes.values()
    assert sum(len(node.chunks) for node in nodes) == 800
    for node in nodes:
        assert all(data == b"%d" % index for (_, index), data in node.chunks.items())
    writers.close()
