from __future__ import annotations

import hashlib
import io
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from dfs import errors
from dfs.client import LocalFailure, VerifyFailed
from dfs.client.chunkplan import node_of
from dfs.client.parallel import run_parallel
from dfs.wire.client import ConnectionLost
from tests.unit.client.fakes import FakeAnswer, FakeApi, Seen, as_json, client_of
from tests.unit.client.test_source import Pipe


@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 1025, 50_000])
def test_a_file_goes_up_and_comes_down_by_the_seed_protocol(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    (tmp_path / "f").write_bytes(data)
    api = FakeApi()
    client = client_of(api)
    stored = client.upload(tmp_path / "f")
    assert (stored.size, stored.chunk_size, stored.chunks) == (size, 1024, -(-size // 1024))
    assert json.loads(api.seen[0].body) == {"filename": "f", "size": size}
    assert api.files["uploads", f"{stored.file_id}/f"].body == data
    assert client.download(stored.file_id, tmp_path / "out") == size
    assert (tmp_path / "out").read_bytes() == data
    assert sorted(each.name for each in tmp_path.iterdir()) == ["f", "out"]


def test_every_chunk_carries_its_checksum_and_the_servers_hint() -> None:
    api = FakeApi()
    client_of(api).upload(b"aaaabb", filename="f", chunk_size=4)
    chunks = sorted((seen for seen in api.seen if seen.path == "/proxy-chunk-upload"), key=lambda seen: seen.query["chunk_index"])
    assert [seen.query["node_id"] for seen in chunks] == ["node1", "node1"]
    assert chunks[1].headers.get("X-Chunk-Checksum") == hashlib.sha256(b"bb").hexdigest()


def test_lost_chunk_answers_are_repeated() -> None:
    api = FakeApi()
    api.faults.append(None)
    for _ in range(5):
        api.lose_answer()
    stored = client_of(api).upload(io.BytesIO(b"0123456789"), chunk_size=2)
    assert api.done[stored.file_id].body == b"0123456789"


def test_chunks_that_got_lost_are_sent_again_before_finalizing() -> None:
    api = FakeApi()
    real = FakeApi._finalize
    lost = [2, 1]

    def finalize(seen: Seen) -> FakeAnswer | None:
        if seen.path == "/finalize-upload" and lost:
            next(iter(api.uploads.values())).chunks.pop(lost.pop())
        return None

    class Losing(FakeApi):
        def _handle(self, seen: Seen) -> FakeAnswer:
            finalize(seen)
            return super()._handle(seen)

    api = Losing()
    stored = client_of(api).upload(b"abcdef", chunk_size=2)
    assert api.done[stored.file_id].body == b"abcdef" and real is FakeApi._finalize

    class Hopeless(FakeApi):
        def _finalize(self, seen: Seen) -> FakeAnswer:
            raise errors.Incomplete("chunks are missing")

        def _route(self, seen: Seen) -> FakeAnswer:
            return self._finalize(seen) if seen.path == "/finalize-upload" else super()._route(seen)

    with pytest.raises(errors.Incomplete):
        client_of(Hopeless()).upload(b"abcdef", chunk_size=2)


def test_a_pipe_cannot_go_up_in_chunks() -> None:
    with pytest.raises(LocalFailure, match="in chunks"):
        client_of(FakeApi()).upload(Pipe(b"x"))  # type: ignore[arg-type]


class Odd(FakeApi):
    """Answers one endpoint with something else."""

    def __init__(self, path: str, value: Any) -> None:
        super().__init__()
        self._path, self._value = path, value

    def _route(self, seen: Seen) -> FakeAnswer:
        return as_json(self._value) if seen.path == self._path else super()._route(seen)


TARGET = {"chunk_index": 0, "url": "http://h/x"}


@pytest.mark.parametrize(
    "value",
    [
        {"file_id": "f", "chunk_size": 4, "upload_targets": []},
        {"file_id": "f", "chunk_size": 0, "upload_targets": [TARGET]},
        {"file_id": "f", "chunk_size": 4, "upload_targets": [TARGET | {"chunk_index": 1}]},
        {"file_id": "f", "chunk_size": 4, "upload_targets": [5]},
        {"file_id": "f", "chunk_size": True, "upload_targets": [TARGET]},
        {"chunk_size": 4, "upload_targets": [TARGET]},
        {"file_id": "f", "chunk_size": 4, "upload_targets": [{"chunk_index": 0}]},
        [],
    ],
)
def test_upload_targets_that_make_no_sense_stop_it(value: Any) -> None:
    api = Odd("/init-upload", value)
    with pytest.raises(LocalFailure):
        client_of(api).upload(b"abcd", filename="f", chunk_size=4)
    assert len(api.seen) == 1


@pytest.mark.parametrize(
    "item",
    [
        {"chunk_index": 1, "url": "http://h/?node_id=n", "checksum": "0" * 64},
        {"chunk_index": 0, "url": "http://h/?node_id=n", "checksum": "0" * 62},
        {"chunk_index": 0, "url": "http://h/?node_id=n", "checksum": "zz"},
        {"chunk_index": 0, "checksum": "0" * 64},
    ],
)
def test_a_plan_that_makes_no_sense_downloads_nothing(tmp_path: Path, item: Any) -> None:
    api = Odd("/download-plan", [item])
    with pytest.raises(LocalFailure):
        client_of(api).download(api.add("f", b"x").file_id, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_damaged_chunk_is_asked_for_again(tmp_path: Path) -> None:
    api = FakeApi()
    stored = api.add("f", b"aaaabbbb")
    api.faults.extend([None, lambda _: FakeAnswer(200, body=b"aaaX")])
    client_of(api).download(stored.file_id, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"aaaabbbb"


def test_a_chunk_that_stays_damaged_does_not_verify(tmp_path: Path) -> None:
    api = FakeApi()
    stored = api.add("f", b"aaaabbbb")
    api.faults.append(None)
    api.faults.extend([lambda _: FakeAnswer(200, body=b"aaaX")] * 10)
    (tmp_path / "out").write_bytes(b"old")
    with pytest.raises(VerifyFailed, match="chunk 0 does not verify"):
        client_of(api).download(stored.file_id, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1
    assert len(api.seen) == 5


@pytest.mark.parametrize("parts", [[b"aa", b"bbb"], [b"aa", b"b", b"cc"], [b"aa", b""]])
def test_chunks_whose_lengths_do_not_fit_are_refused(tmp_path: Path, parts: list[bytes]) -> None:
    class Uneven(FakeApi):
        def _route(self, seen: Seen) -> FakeAnswer:
            if seen.path == "/download-plan":
                sums = [hashlib.sha256(each).hexdigest() for each in parts]
                return as_json([{"chunk_index": n, "url": "http://h/", "checksum": each} for n, each in enumerate(sums)])
            return FakeAnswer(200, body=parts[int(seen.query["chunk_index"])])

    api = Uneven()
    with pytest.raises(LocalFailure, match="does not fit"):
        client_of(api).download(api.add("f", b"").file_id, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_chunk_without_end_is_not_read_to_it(tmp_path: Path) -> None:
    api = FakeApi()
    stored = api.add("f", b"x")
    api.faults.extend([None, lambda _: FakeAnswer(200, body=bytes(65 << 20))])
    with pytest.raises(LocalFailure, match="larger"):
        client_of(api).download(stored.file_id, tmp_path / "out")


def test_a_chunk_download_goes_to_files_only() -> None:
    api = FakeApi()
    with pytest.raises(LocalFailure, match="regular"):
        client_of(api).download(api.add("f", b"x").file_id, "/dev/null")


def test_an_unknown_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(errors.NotFound):
        client_of(FakeApi()).download("bd08c6c6-3b5d-4f28-a32a-2bab04d1aba5", tmp_path / "out")
    with pytest.raises(errors.BadRequest):
        client_of(FakeApi()).download("nonsense", tmp_path / "out")


def test_the_node_of_a_url() -> None:
    assert node_of("http://h/x?file_id=1&node_id=a%2Fb") == "a/b"
    assert node_of("http://h/x") == "" and node_of("http://[h/x") == ""


def test_a_filename_must_be_unicode() -> None:
    with pytest.raises(errors.BadPath):
        client_of(FakeApi()).upload(b"x", filename="\udcff")


# The threads


def test_every_item_is_worked_on_once() -> None:
    seen: list[int] = []
    run_parallel(range(500), seen.append, 8)
    assert sorted(seen) == list(range(500))


def test_the_first_failure_stops_the_rest() -> None:
    taken: list[int] = []

    def work(item: int) -> None:
        taken.append(item)
        if item == 3:
            raise ConnectionLost("three")

    with pytest.raises(ConnectionLost, match="three"):
        run_parallel(range(1_000_000), work, 4)
    assert len(taken) < 1_000_000


def test_a_failing_iterator_fails_the_whole() -> None:
    def items() -> Any:
        yield 1
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        run_parallel(items(), lambda _: None, 3)


def test_items_are_taken_only_as_they_are_needed() -> None:
    stop = threading.Event()
    taken = []

    def items() -> Any:
        for n in range(100):
            taken.append(n)
            yield n

    def work(_: int) -> None:
        if len(taken) >= 3:
            stop.set()
        assert stop.wait(10)
        raise ConnectionLost("enough")

    with pytest.raises(ConnectionLost):
        run_parallel(items(), work, 3)
    assert len(taken) <= 4
