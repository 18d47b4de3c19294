"""Node calls of background work, against memory nodes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest

from dfs import errors
from dfs.cluster.calls import NodeCalls, NodeFailed
from dfs.cluster.nodeanswers import Verified
from dfs.cluster.upkeep import Fence, UpkeepCalls
from dfs.wire.client import HttpClient
from dfs.wire.deadline import Deadline
from tests.support.memory_node import MemoryNode

FILE = "bd08c6c6-3b5d-4f28-a32a-2bab04d1aba5"
OTHER = "0d08c6c6-3b5d-4f28-a32a-2bab04d1aba5"
DATA = b"some bytes" * 30_000
SUM = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def nodes() -> Iterator[list[MemoryNode]]:
    made = [MemoryNode(name, "c1") for name in ("a", "b")]
    yield made
    for node in made:
        node.kill()


@pytest.fixture
def calls() -> Iterator[UpkeepCalls]:
    http = HttpClient()
    yield UpkeepCalls(NodeCalls(http, "c1", 2.0))
    http.close()


def soon() -> Deadline:
    return Deadline(20)


def give(node: MemoryNode, file_id: str = FILE, index: int = 0, data: bytes = DATA) -> None:
    node._keep((file_id, index), data, hashlib.sha256(data).hexdigest())


def pull(calls: UpkeepCalls, target: MemoryNode, source: MemoryNode, fence: Fence | None = None) -> None:
    calls.pull(
        target.info(), source.info(), FILE, 0, checksum=SUM, length=len(DATA), chunk_size=1 << 20, file_size=None,
        fence=fence, deadline=soon(),
    )  # fmt: skip


def test_a_chunk_is_pulled_verified_and_dropped(nodes: list[MemoryNode], calls: UpkeepCalls) -> None:
    one, two = nodes
    give(one)
    pull(calls, two, one)
    assert calls.verify(two.info(), FILE, 0, deadline=soon()) == Verified(SUM, len(DATA))
    assert calls.inventory(two.info(), 0, 9, deadline=soon()).chunks[0].verified
    assert calls.inventory(one.info(), 0, 9, deadline=soon()).chunks[0].verified is None
    assert calls.drop(two.info(), FILE, 0, fence=None, deadline=soon())
    assert not calls.drop(two.info(), FILE, 0, fence=None, deadline=soon())
    with pytest.raises(errors.NotFound):
        calls.verify(two.info(), FILE, 0, deadline=soon())
    one.corrupt_copy(FILE, 0)
    with pytest.raises(errors.NoReplica):
        pull(calls, one, two)
    give(two)
    pull(calls, one, two)
    assert one.chunks[FILE, 0] == DATA


def test_a_copy_set_aside_is_kept_and_gone(nodes: list[MemoryNode], calls: UpkeepCalls) -> None:
    give(nodes[0])
    assert calls.set_aside(nodes[0].info(), FILE, 0, fence=None, deadline=soon())
    assert not calls.set_aside(nodes[0].info(), FILE, 0, fence=None, deadline=soon())
    assert nodes[0].aside == {(FILE, 0): DATA}


def test_work_under_an_older_fence_is_refused(nodes: list[MemoryNode], calls: UpkeepCalls) -> None:
    one, two = nodes
    give(one)
    pull(calls, two, one, Fence("repair", 1, 7))
    for fence in (Fence("repair", 1, 6), Fence("repair", 0, 9)):
        with pytest.raises(errors.Fenced):
            pull(calls, two, one, fence)
        with pytest.raises(errors.Fenced):
            calls.drop(two.info(), FILE, 0, fence=fence, deadline=soon())
        with pytest.raises(errors.Fenced):
            calls.set_aside(two.info(), FILE, 0, fence=fence, deadline=soon())
    assert calls.drop(two.info(), FILE, 0, fence=Fence("repair", 2, 1), deadline=soon())


def test_many_are_verified_each_for_itself(nodes: list[MemoryNode], calls: UpkeepCalls) -> None:
    node = nodes[0]
    give(node)
    give(node, index=1)
    node.corrupt_copy(FILE, 1)
    keys = [(FILE, 0), (FILE, 1), (FILE, 2)]
    found = calls.verify_many(node.info(), keys, deadline=soon())
    assert [type(said) for said in found] == [Verified, errors.CorruptChunk, errors.NotFound]
    with pytest.raises(ValueError, match="at most 256"):
        calls.verify_many(node.info(), [(FILE, 0)] * 257, deadline=soon())
    assert calls.verify_many(node.info(), [], deadline=soon()) == []


class Answering:
    """In place of NodeCalls: answers in turn."""

    def __init__(self, *answers: dict[str, object]) -> None:
        self.answers = list(answers)
        self.asked: list[object] = []

    def ask(self, node: object, method: str, target: str, **given: object) -> dict[str, object]:
        self.asked.append(given.get("json_body"))
        return self.answers.pop(0)


BUSY = {"error": {"status": 503, "code": "busy", "message": "later"}}
GOOD = {"checksum": SUM, "length": 3}


def test_what_a_node_had_no_time_to_verify_is_asked_for_again(nodes: list[MemoryNode]) -> None:
    node = nodes[0].info()
    answering = Answering({"chunks": [BUSY, GOOD, BUSY]}, {"chunks": [GOOD, BUSY]}, {"chunks": [BUSY]})
    calls = UpkeepCalls(answering)  # type: ignore[arg-type]
    found = calls.verify_many(node, [(FILE, 0), (FILE, 1), (FILE, 2)], deadline=soon())
    assert [type(said) for said in found] == [Verified, Verified, errors.Busy]
    assert answering.asked[1:] == [{"chunks": [[FILE, 0], [FILE, 2]]}, {"chunks": [[FILE, 2]]}]


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"chunks": []},
        {"chunks": [7]},
        {"chunks": [{"checksum": SUM}]},
        {"chunks": [{"error": {"status": 500}}]},
        {"chunks": [{"error": {"status": 500, "code": "strange"}}]},
    ],
)
def test_an_answer_that_makes_no_sense_is_the_nodes_failure(nodes: list[MemoryNode], answer: dict[str, object]) -> None:
    calls = UpkeepCalls(Answering(answer))  # type: ignore[arg-type]
    with pytest.raises(NodeFailed):
        calls.verify_many(nodes[0].info(), [(FILE, 0)], deadline=soon())


@pytest.mark.parametrize("answer", [{}, {"chunks": [{}], "next": None}, {"chunks": [], "next": {}}])
def test_a_list_of_bad_chunks_that_makes_no_sense(nodes: list[MemoryNode], answer: dict[str, object]) -> None:
    calls = UpkeepCalls(Answering(answer))  # type: ignore[arg-type]
    with pytest.raises(NodeFailed):
        calls.bad_chunks(nodes[0].info(), after=None, limit=1, deadline=soon())


def test_another_chunk_acknowledged_than_was_to_be_pulled(nodes: list[MemoryNode]) -> None:
    calls = UpkeepCalls(Answering({"node_id": "a", "checksum": SUM, "length": 1}))  # type: ignore[arg-type]
    with pytest.raises(NodeFailed):
        pull(calls, nodes[0], nodes[1])


def test_bad_chunks_come_in_pages(nodes: list[MemoryNode], calls: UpkeepCalls) -> None:
    node = nodes[0]
    for file_id, index in ((FILE, 0), (FILE, 10), (OTHER, 3), (FILE, 2)):
        give(node, file_id, index)
        node.corrupt_copy(file_id, index)
    pages = []
    after: tuple[str, int] | None = None
    while True:
        page = calls.bad_chunks(node.info(), after=after, limit=2, deadline=soon())
        pages.append([(bad.file_id, bad.chunk_index) for bad in page.chunks])
        if page.next is None:
            break
        after = page.next
    assert pages == [[(OTHER, 3), (FILE, 0)], [(FILE, 2), (FILE, 10)], []]


def test_a_node_is_told_to_look_at_its_row(nodes: list[MemoryNode], calls: UpkeepCalls) -> None:
    nodes[0].admin_state = "draining"
    assert calls.look(nodes[0].info(), deadline=soon()) == "draining"


def test_a_node_is_told_to_scrub(nodes: list[MemoryNode]) -> None:
    given = Answering({"began_at": 1})
    assert UpkeepCalls(given).scrub(nodes[0].info(), mbps=7, deadline=soon()) == {"began_at": 1}  # type: ignore[arg-type]


def test_a_file_id_is_checked_before_it_becomes_part_of_a_call(nodes: list[MemoryNode], calls: UpkeepCalls) -> None:
    with pytest.raises(ValueError, match="no file id"):
        calls.drop(nodes[0].info(), "x&y", 0, fence=None, deadline=soon())

