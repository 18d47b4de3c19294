from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import pytest

from dfs import errors
from dfs.client import LocalFailure, RetryPolicy, VerifyFailed
from dfs.client.put import guess_type
from dfs.model import new_file_id
from dfs.wire.client import ConnectFailed, ConnectionLost
from tests.unit.client.fakes import FakeAnswer, FakeApi, as_json, client_of, described
from tests.unit.client.test_source import Pipe

LARGE = os.urandom(300 << 10)


def test_a_file_is_stored_and_described(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(LARGE)
    api = FakeApi()
    stored = client_of(api).put(tmp_path / "f", "a/é +%.txt", chunk_size=7)
    assert api.files["default", "a/é +%.txt"].body == LARGE
    assert stored.path == "a/é +%.txt" and stored.size == len(LARGE) and stored.chunk_size == 7
    assert stored.sha256 == hashlib.sha256(LARGE).hexdigest() and stored.content_type == "text/plain"
    assert stored.etag == stored.file_id == api.seen[0].headers.get("X-Dfs-Op")
    assert stored.modified == 1_700_000_000_000


@pytest.mark.parametrize("data", [b"small", LARGE])
def test_a_lost_answer_is_repeated_under_the_same_operation(data: bytes) -> None:
    api = FakeApi()
    api.lose_answer()
    api.lose_before(ConnectFailed("refused"))
    api.lose_before(errors.Busy("busy", retry_after=0))
    stored = client_of(api, "http://a:1,http://b:2").put(data, "p", if_none_match="*")
    assert [seen.host for seen in api.seen] == ["a", "b", "a", "b"]
    assert {seen.headers.get("X-Dfs-Op") for seen in api.seen} == {stored.file_id}
    assert api.files["default", "p"].body == data


def test_the_operation_id_may_be_given() -> None:
    op_id = new_file_id()
    assert client_of(FakeApi()).put(b"x", "p", op_id=op_id.upper()).file_id == op_id
    with pytest.raises(errors.BadRequest):
        client_of(FakeApi()).put(b"x", "p", op_id="1")


def test_conditions_are_sent_with_quotes() -> None:
    api = FakeApi()
    client = client_of(api)
    first = client.put(b"1", "p", if_none_match="*")
    with pytest.raises(errors.ConditionFailed):
        client.put(b"2", "p", if_none_match="*")
    with pytest.raises(errors.ConditionFailed):
        client.put(b"2", "p", if_match=new_file_id())
    client.put(b"2", "p", if_match=first.etag)
    assert api.files["default", "p"].body == b"2"
    assert api.seen[-1].headers.get("If-Match") == f'"{first.file_id}"'


def test_a_declared_checksum_is_verified_by_the_server() -> None:
    with pytest.raises(errors.ChecksumMismatch):
        client_of(FakeApi()).put(b"x", "p", sha256="0" * 64)


def test_stored_content_that_differs_from_what_was_sent_does_not_verify() -> None:
    api = FakeApi()
    op_id = new_file_id()
    api.add("p", b"other")
    api.done[op_id] = api.files["default", "p"]
    with pytest.raises(VerifyFailed, match="put it again"):
        client_of(api).put(b"mine", "p", op_id=op_id)


def test_a_pipe_is_streamed_and_compared() -> None:
    api = FakeApi()
    client_of(api).put(cast(BinaryIO, Pipe(b"through the pipe")), "p")
    assert api.files["default", "p"].body == b"through the pipe"


def test_a_pipe_is_repeated_while_nothing_was_read() -> None:
    api = FakeApi()
    api.lose_before(ConnectionLost("stale"))  # the fake fails before the body, as 100-continue lets it
    client_of(api).put(cast(BinaryIO, Pipe(b"data")), "p")
    assert api.files["default", "p"].body == b"data" and len(api.seen) == 2


def test_a_pipe_that_was_read_is_not_repeated() -> None:
    api = FakeApi()

    class Breaking(FakeApi):
        def _handle(self, seen: object) -> object:  # type: ignore[override]
            raise ConnectionLost("broke")

    with pytest.raises(errors.Unknown, match="cannot be read again"):
        client_of(Breaking()).put(cast(BinaryIO, Pipe(b"data")), "p")
    assert not api.files


def test_an_answer_before_a_pipe_was_read_is_not_believed() -> None:
    api = FakeApi()
    op_id = new_file_id()
    api.done[op_id] = api.add("p", b"other")
    api.faults.append(api._route)
    pipe = cast(BinaryIO, Pipe(b"data"))
    pipe.read(1)
    with pytest.raises(VerifyFailed):
        client_of(api).put(pipe, "p", op_id=op_id)


def test_an_answer_in_the_middle_of_a_pipe_is_not_believed() -> None:
    class Hasty(FakeApi):
        def request(self, *where: object, **options: object) -> FakeAnswer:  # type: ignore[override]
            assert next(iter(cast(Iterator[bytes], options["body"]))) == b"dat"
            return as_json(described("default", "p", self.add("p", b"dat")), 201)

    with pytest.raises(VerifyFailed, match="before it had everything"):
        client_of(Hasty()).put(cast(BinaryIO, Pipe(b"data")), "p")


def test_a_large_body_is_sent_a_few_times_only() -> None:
    api = FakeApi()
    for _ in range(20):
        api.lose_before(ConnectionLost("broke"))
    with pytest.raises(errors.Unknown):
        client_of(api).put(LARGE, "p")
    assert len(api.seen) == 5


def test_a_file_that_changes_while_it_is_sent_is_reported(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"old")
    api = FakeApi()

    def change(_: object) -> None:
        (tmp_path / "f").write_bytes(b"newer")

    api.faults.append(change)
    with pytest.raises(LocalFailure, match="changed while it was being sent"):
        client_of(api).put(tmp_path / "f", "p")


def test_a_large_file_that_gets_shorter_stores_nothing(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(LARGE)
    api = FakeApi()
    told: list[int] = []

    def progress(done: int, _: int | None) -> None:
        told.append(done)
        os.truncate(tmp_path / "f", 0)

    with pytest.raises(LocalFailure, match="shorter"):
        client_of(api).put(tmp_path / "f", "p", progress=progress)
    assert not api.files and told


@pytest.mark.parametrize("path", ["", "/a", "a//b", "../a", "a/..", "a\0", "x" * 1025, "\udcff"])
def test_an_illegal_path_is_refused_before_anything_is_sent(path: str) -> None:
    api = FakeApi()
    with pytest.raises(errors.BadPath):
        client_of(api).put(b"", path)
    assert not api.seen


@pytest.mark.parametrize("kind", ["text/plain\r\nX: y", "text/\u00e9"])
def test_a_header_that_cannot_be_sent_is_refused(kind: str) -> None:
    with pytest.raises(errors.BadRequest, match="Content-Type"):
        client_of(FakeApi()).put(b"", "p", content_type=kind)


def test_a_media_type_is_guessed_from_the_name() -> None:
    assert guess_type("x/a.png") == "image/png"
    assert guess_type("a.tar.gz") == "application/gzip"
    assert guess_type("a.html.xz") == "application/x-xz"
    assert guess_type("a.png/noend") is None
    assert guess_type("a.txt.Z") is None


def test_file_objects_and_bytes_are_sources() -> None:
    api = FakeApi()
    client = client_of(api, retry=RetryPolicy())
    client.put(io.BytesIO(b"abc"), "o")
    client.put(b"", "empty")
    assert api.files["default", "o"].body == b"abc" and api.files["default", "empty"].body == b""
