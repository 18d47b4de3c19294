"""Typed node calls: what each answer, and each lack of one, becomes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from dfs import errors
from dfs.cluster.calls import PIECE, NodeCalls, NodeFailed
from dfs.wire.client import ConnectFailed, ConnectionLost
from dfs.wire.deadline import Deadline
from tests.unit.cluster.fakes import FILE, Answer, Network, garbage, info, json_answer, refuse, sha

NODE = info("a")


@pytest.fixture
def network() -> Network:
    return Network("a")


@pytest.fixture
def calls(network: Network) -> NodeCalls:
    return NodeCalls(network, "c1", 1.0)


def soon() -> Deadline:
    return Deadline(30)


def store(calls: NodeCalls, data: bytes, index: int = 0) -> None:
    calls.store(
        NODE, FILE, index, memoryview(data), checksum=sha(data), chunk_size=len(data) or 1, file_size=None,
        replica_type="primary", deadline=soon(),
    )  # fmt: skip


def test_every_call_works_against_a_node(network: Network, calls: NodeCalls) -> None:
    data = bytes(range(256)) * 1500
    store(calls, data)
    opened = calls.open(NODE, FILE, 0, first=1, last=1, deadline=soon())
    piece = bytearray(len(data) - PIECE)
    opened.fill(memoryview(piece))
    opened.close()
    assert (opened.checksum, opened.length, len(opened.piece_crcs)) == (sha(data), len(data), 1)
    assert bytes(piece) == data[PIECE:]
    verified = calls.verify(NODE, FILE, 0, deadline=soon())
    assert (verified.checksum, verified.length) == (sha(data), len(data))
    assert calls.drop(NODE, FILE, 0, deadline=soon())
    assert not calls.drop(NODE, FILE, 0, deadline=soon())
    calls.notes(NODE, ['{"path":"ä"}'.encode(), b"{}"], deadline=soon())
    assert network.nodes["a"].taken_notes == [{"path": "ä"}, {}]
    calls.erase(NODE, [FILE], deadline=soon())
    with pytest.raises(errors.Gone):
        store(calls, data)
    assert calls.probe(NODE)
    assert calls.inventory(NODE, 0, 10, deadline=soon()).chunks == ()
    assert all(answer.closed for answer in network.answers)


def test_a_page_of_inventory(network: Network, calls: NodeCalls) -> None:
    row = {"sequence": 7, "file_id": FILE, "chunk_index": 2, "length": 3, "checksum": "ab", "created": 5}
    network.nodes["a"].trouble = lambda *_: json_answer(200, {"chunks": [row], "next": 8})
    page = calls.inventory(NODE, 0, 10, deadline=soon())
    assert (page.chunks[0].chunk_index, page.chunks[0].created, page.next) == (2, 5, 8)
    network.nodes["a"].trouble = lambda *_: json_answer(200, {"chunks": [{}], "next": 8})
    with pytest.raises(NodeFailed):
        calls.inventory(NODE, 0, 10, deadline=soon())


def test_an_answer_of_the_node_is_the_error_it_stands_for(network: Network, calls: NodeCalls) -> None:
    for kind in (errors.ChunkConflict, errors.NodeFull, errors.StoreReadOnly, errors.WrongNode, errors.Busy):
        network.nodes["a"].trouble = refuse(kind("because"), "/store-chunk")
        with pytest.raises(kind, match="because"):
            store(calls, b"x")


@pytest.mark.parametrize(
    "answer",
    [
        json_answer(404, {"error": "none of ours"}),
        json_answer(404, {"error": {"code": 5}}),
        json_answer(500, {"error": {"code": "teapot"}}),
        json_answer(400, []),
        Answer(404, b"<html>nginx</html>"),
        Answer(502, b"x" * 100_000),
        Answer(500, b'{"error"', cut=3),
        Answer(200, b"<html>"),
        Answer(200, b"[]"),
        Answer(200, b"{}", cut=1),
        json_answer(201, {"node_id": "b", "checksum": sha(b"x"), "length": 1}),
        json_answer(201, {"node_id": "a", "checksum": sha(b"y"), "length": 1}),
        json_answer(201, {"node_id": "a", "checksum": sha(b"x"), "length": 2}),
    ],
)
def test_something_else_at_the_nodes_address_is_a_failed_node(
    network: Network, calls: NodeCalls, answer: Answer
) -> None:
    network.nodes["a"].trouble = lambda *_: answer
    with pytest.raises(NodeFailed) as failure:
        store(calls, b"x")
    assert failure.value.sent
    assert answer.closed


def test_whether_anything_was_sent_is_known(network: Network, calls: NodeCalls) -> None:
    network.nodes["a"].down = True
    with pytest.raises(NodeFailed) as refused:
        store(calls, b"x")
    assert not refused.value.sent
    network.nodes["a"].down = False
    network.nodes["a"].trouble = garbage
    with pytest.raises(NodeFailed) as lost:
        store(calls, b"x")
    assert lost.value.sent
    assert lost.value.status == 503 and lost.value.retryable


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Dfs-Node": "b"},
        {"X-Dfs-Chunk-Length": "many"},
        {"X-Dfs-Chunk-Length": ""},
        {"X-Dfs-Piece-Crcs": "xyz"},
        {"X-Dfs-Piece-Crcs": "0123456"},
    ],
)
def test_a_chunk_that_is_not_described(network: Network, calls: NodeCalls, headers: dict[str, str]) -> None:
    good = {"X-Dfs-Node": "a", "X-Dfs-Chunk-Length": "1", "X-Dfs-Piece-Crcs": "01234567"}
    answer = Answer(200, b"x", list((good | headers).items()))
    network.nodes["a"].trouble = lambda *_: answer
    with pytest.raises(NodeFailed):
        calls.open(NODE, FILE, 0, first=0, last=0, deadline=soon())
    assert answer.closed


@pytest.mark.parametrize("answer", [Answer(200, b"ab"), Answer(200, b"abc", cut=2)])
def test_a_body_that_ends_early_is_a_failed_node(answer: Answer) -> None:
    calls = NodeCalls(Network(), "c1", 1.0)
    headers = [("X-Dfs-Node", "a"), ("X-Dfs-Chunk-Length", "3"), ("X-Dfs-Piece-Crcs", "01234567")]
    described = Answer(200, bytes(answer._body), headers, cut=answer._cut)
    calls._http = Only(lambda: described)
    opened = calls.open(NODE, FILE, 0, first=0, last=0, deadline=soon())
    with pytest.raises(NodeFailed):
        opened.fill(memoryview(bytearray(3)))


class Only:
    """A transport that does one thing."""

    def __init__(self, act: Callable[[], Any]) -> None:
        self._act = act

    def request(self, *_: Any, **__: Any) -> Any:
        return self._act()


def test_a_probe_is_true_only_for_that_node_of_that_cluster(network: Network, calls: NodeCalls) -> None:
    node = network.nodes["a"]
    for answer, expected in [
        (json_answer(200, {"node_id": "a", "cluster_id": "c1"}), True),
        (json_answer(200, {"node_id": "b", "cluster_id": "c1"}), False),
        (json_answer(200, {"node_id": "a", "cluster_id": "c2"}), False),
        (json_answer(200, {}), False),
        (json_answer(421, errors.WrongNode("no").payload("r")), False),
    ]:
        node.trouble = lambda *_, answer=answer: answer  # type: ignore[misc]
        assert calls.probe(NODE) is expected
    node.down = True
    assert calls.probe(NODE) is False


@pytest.mark.parametrize("method", ["verify", "erase", "notes"])
def test_an_answer_that_lacks_what_it_must_say_confirms_nothing(
    network: Network, calls: NodeCalls, method: str
) -> None:
    network.nodes["a"].trouble = lambda *_: json_answer(200, {"checksum": 5, "length": True, "erased": "1"})
    act: dict[str, Callable[[], object]] = {
        "verify": lambda: calls.verify(NODE, FILE, 0, deadline=soon()),
        "erase": lambda: calls.erase(NODE, [FILE], deadline=soon()),
        "notes": lambda: calls.notes(NODE, [], deadline=soon()),
    }
    with pytest.raises(NodeFailed):
        act[method]()


class Holding:
    """A transport whose calls wait until the test lets them end."""

    def __init__(self, ending: Exception) -> None:
        self.begun = threading.Semaphore(0)
        self.go_on = threading.Event()
        self._ending = ending

    def request(self, *_: Any, **__: Any) -> Any:
        self.begun.release()
        assert self.go_on.wait(30)
        raise self._ending


def test_at_most_so_many_calls_wait_on_a_node_and_probes_do_not_count() -> None:
    transport = Holding(ConnectionLost("reset"))
    calls = NodeCalls(transport, "c1", 0.01, waiting=2)
    threads = [threading.Thread(target=fails, args=(calls,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert transport.begun.acquire(timeout=30)
    with pytest.raises(errors.Busy):
        store(calls, b"x")
    other = info("b")
    calls._http = Network("b")
    assert calls.probe(other)
    calls.erase(other, [FILE], deadline=soon())
    transport.go_on.set()
    for thread in threads:
        thread.join(30)


def fails(calls: NodeCalls) -> None:
    with pytest.raises(NodeFailed):
        store(calls, b"x")


def test_those_who_waited_for_a_node_that_failed_do_not_wait_for_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    transport = Holding(ConnectFailed("refused"))
    calls = NodeCalls(transport, "c1", 30.0, waiting=1)
    first = threading.Thread(target=fails, args=(calls,))
    first.start()
    assert transport.begun.acquire(timeout=30)
    slot = calls._slots["a"].free
    waiting = threading.Event()
    acquire = slot.acquire

    def acquire_and_tell(blocking: bool = True, timeout: float | None = None) -> bool:
        if blocking:
            waiting.set()
        return acquire(blocking, timeout)

    monkeypatch.setattr(slot, "acquire", acquire_and_tell)
    second = threading.Thread(target=fails, args=(calls,))
    second.start()
    assert waiting.wait(30)
    transport.go_on.set()
    first.join(30)
    second.join(30)
    assert not transport.begun.acquire(blocking=False), "the second never called"
    assert acquire(timeout=0), "and left its place"
