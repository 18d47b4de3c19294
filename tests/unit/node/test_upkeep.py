"""dfs.node.upkeep: the calls of background work."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from dfs.errors import BadRequest, Busy, CorruptChunk, Unavailable
from dfs.node.upkeep import VERIFY_CALLS, UpkeepEndpoints
from dfs.store.chunk import BadChunk
from tests.unit.node.fakes import FILE_ID, FakeStore, request

OTHER = "0d08c6c6-3b5d-4f28-a32a-2bab04d1aba5"


@dataclass
class Upkeep:
    """The store's, and the scrubber, the registration and the standing as far as they are asked."""

    bad: list[BadChunk] = field(default_factory=list)
    asked: list[Any] = field(default_factory=list)
    arrives: bool = True
    admin_state: str = "draining"

    def bad_chunks(self, after: tuple[str, int] | None, limit: int) -> list[BadChunk]:
        self.asked.append((after, limit))
        return self.bad[:limit]

    def set_aside(self, file_id: str, chunk_index: int) -> bool:
        return chunk_index == 0

    def begin(self, mbps: int | None) -> dict[str, Any]:
        return {"mbps": mbps}

    def beat_now(self, seconds: float) -> bool:
        return self.arrives


class Bench:
    def __init__(self) -> None:
        self.now = 0.0
        self.store = FakeStore()
        self.upkeep = Upkeep()
        store: Any = self.store
        store.upkeep = self.upkeep
        fake: Any = self.upkeep
        self.endpoints = UpkeepEndpoints("n1", store, fake, fake, fake, clock=lambda: self.now)

    def verify(self, *chunks: Any) -> list[dict[str, Any]]:
        body = json.dumps({"chunks": chunks}).encode()
        return self.json(self.endpoints.verify_many(request("POST", "/verify-chunks", body)))["chunks"]  # type: ignore[no-any-return]

    def json(self, answer: Any) -> Any:
        assert answer.status == 200
        return json.loads(answer.body)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_each_of_many_chunks_has_its_own_verdict(bench: Bench) -> None:
    stored = bench.store.put(FILE_ID, 0, b"abc", checksum=None, chunk_size=3, file_size=None)
    good, missing = bench.verify([FILE_ID, 0], [FILE_ID.upper(), 1])
    assert good == {"checksum": stored.checksum, "length": 3}
    assert missing["error"].items() >= {"status": 404, "code": "not_found"}.items()
    bench.store.bad = CorruptChunk("bit rot")
    assert bench.verify([FILE_ID, 0])[0]["error"] == {"status": 500, "code": "corrupt_chunk", "message": "bit rot"}


@pytest.mark.parametrize(
    "chunks", [7, [7], [[FILE_ID]], [[FILE_ID, "0"]], [[FILE_ID, True]], [[FILE_ID, -1]], [["x", 0]], [[7, 0]], [[FILE_ID, 0]] * 257]
)
def test_what_is_no_list_of_chunks_is_a_bad_request(bench: Bench, chunks: Any) -> None:
    body = json.dumps({"chunks": chunks}).encode()
    with pytest.raises(BadRequest):
        bench.endpoints.verify_many(request("POST", "/verify-chunks", body))


def test_a_call_reads_for_a_limited_time(bench: Bench) -> None:
    for index in range(3):
        bench.store.put(FILE_ID, index, b"abc", checksum=None, chunk_size=3, file_size=None)
    verify = bench.store.verify

    def slow(file_id: str, chunk_index: int) -> Any:
        bench.now += 6
        return verify(file_id, chunk_index)

    bench.store.verify = slow  # type: ignore[method-assign]
    first, second, third = bench.verify([FILE_ID, 0], [FILE_ID, 1], [FILE_ID, 2])
    assert "error" not in first and "error" not in second
    assert third["error"]["code"] == "busy"


def test_only_so_many_calls_read_at_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dfs.node.upkeep.VERIFY_SECONDS", 0.01)
    for _ in range(VERIFY_CALLS):
        bench.endpoints._turns.acquire()
    with pytest.raises(Busy):
        bench.verify([FILE_ID, 0])
    bench.endpoints._turns.release()
    bench.verify([FILE_ID, 0])


def test_bad_chunks_are_paged_by_key(bench: Bench) -> None:
    bench.upkeep.bad = [BadChunk(FILE_ID, 3, 5, "its bytes do not match their CRC"), BadChunk(FILE_ID, 9, 6, "x")]

    def page(query: str) -> Any:
        return bench.json(bench.endpoints.bad_chunks(request("GET", "/bad-chunks" + query)))

    assert page("") == {
        "chunks": [
            {"file_id": FILE_ID, "chunk_index": 3, "found_at": 5, "why": "its bytes do not match their CRC"},
            {"file_id": FILE_ID, "chunk_index": 9, "found_at": 6, "why": "x"},
        ],
        "next": None,
    }
    assert page(f"?limit=1&after_file={OTHER}&after_index=7")["next"] == {"file_id": FILE_ID, "chunk_index": 3}
    assert bench.upkeep.asked == [(None, 1000), ((OTHER, 7), 1)]


@pytest.mark.parametrize(
    "query", ["?limit=0", "?limit=10001", f"?after_file={OTHER}", "?after_index=1", f"?after_file={OTHER}&after_index=x", "?after_file=x&after_index=1"]
)
def test_a_page_that_makes_no_sense_is_a_bad_request(bench: Bench, query: str) -> None:
    with pytest.raises(BadRequest):
        bench.endpoints.bad_chunks(request("GET", "/bad-chunks" + query))


def test_setting_aside_says_whether_there_was_something(bench: Bench) -> None:
    for index, found in ((0, True), (1, False)):
        made = request("POST", f"/set-aside-chunk?file_id={FILE_ID}&chunk_index={index}")
        assert bench.json(bench.endpoints.set_aside(made)) == {"set_aside": found}


def test_a_scrub_may_be_ordered_with_a_rate(bench: Bench) -> None:
    assert bench.json(bench.endpoints.scrub(request("POST", "/scrub"))) == {"mbps": None}
    assert bench.json(bench.endpoints.scrub(request("POST", "/scrub?mbps=300"))) == {"mbps": 300}
    with pytest.raises(BadRequest):
        bench.endpoints.scrub(request("POST", "/scrub?mbps=0"))


def test_looking_tells_what_operators_want(bench: Bench) -> None:
    assert bench.json(bench.endpoints.look(request("POST", "/look"))) == {"node_id": "n1", "admin_state": "draining"}
    bench.upkeep.arrives = False
    with pytest.raises(Unavailable):
        bench.endpoints.look(request("POST", "/look"))
