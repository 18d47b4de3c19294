"""Uploads on which something fails, at each step: no half file, no lost memory, space comes back."""

from __future__ import annotations

import socket
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dfs.api import memory, write
from dfs.api.known import Shapes
from dfs.api.service import Service
from dfs.errors import Unavailable, Unknown
from dfs.metadata.contract import OutcomeUnknown
from dfs.model import FileState
from dfs.wire.message import Request
from tests.support.caller import Caller
from tests.support.fakes.scripted_store import intercept
from tests.support.memory_node import LocalApi, post, settle


@pytest.fixture
def api(tmp_path: Path) -> Iterator[LocalApi]:
    with LocalApi(tmp_path) as running:
        yield running
        settle(running)


@pytest.fixture
def caller(api: LocalApi) -> Caller:
    return api.caller()


def test_no_memory_in_time_is_busy(api: LocalApi, caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "WAIT", 0.01)
    with api.service.buffers.acquire(api.settings.buffer_bytes, 1):
        for size in (10, 200_000):
            answer = caller.file("PUT", "x", b"x" * size)
            assert (answer.status, answer.code, answer.headers["retry-after"]) == (503, "busy", "1")
        file_id = post(caller, "/init-upload", {"filename": "a", "size": 10}).json["file_id"]
        chunk = f"/proxy-chunk-upload?file_id={file_id}&chunk_index=0"
        assert caller.call("PUT", chunk, b"x" * 10).code == "busy"
    assert caller.file("GET", "x").status == 404
    assert api.stored() == set()
    assert caller.file("PUT", "x", b"x" * 10).status == 201


def test_a_chunk_that_never_fits(tmp_path: Path) -> None:
    with LocalApi(tmp_path, buffer_bytes=1 << 20, max_chunk_size=1 << 19) as api:
        caller = api.caller()
        file_id = post(caller, "/init-upload", {"filename": "a", "size": 5 << 20, "chunk_size": 1 << 19}).json["file_id"]
        record = api.store.get_file(file_id)
        assert record is not None
        # As if the upload had begun under other settings.
        shape = Shapes(api.store)
        object.__setattr__(record, "chunk_size", 5 << 20)
        shape.remember(record)
        object.__setattr__(api.service, "shapes", shape)
        answer = caller.call("PUT", f"/proxy-chunk-upload?file_id={file_id}&chunk_index=0", b"x" * 10)
        assert answer.code in ("bad_index", "length_mismatch")
        with socket.create_connection(("127.0.0.1", api.port), timeout=60) as connection:
            head = f"PUT /proxy-chunk-upload?file_id={file_id}&chunk_index=0 HTTP/1.1\r\nHost: a\r\n"
            connection.sendall(f"{head}Content-Length: {5 << 20}\r\nExpect: 100-continue\r\n\r\n".encode())
            assert b" 413 " in connection.recv(65536)


@pytest.mark.parametrize("size", [1000, 400_000])
def test_metadata_that_goes_away_for_good(
    api: LocalApi, caller: Caller, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    transact = api.store.transact
    gone = threading.Event()

    def fail(steps: Any) -> None:
        if gone.is_set():
            raise Unavailable("metadata is away")
        transact(steps)

    def once_stored(request: Request) -> None:
        if request.path.startswith("/store-chunk"):
            gone.set()

    intercept(monkeypatch, api.store, fail)
    for node in api.nodes:
        node.before = once_stored
    answer = caller.file("PUT", "x", b"x" * size, X_Dfs_Op=str(uuid.uuid4()))
    assert (answer.status, answer.code) == (503, "unavailable")
    assert caller.file("PUT", "x", b"x" * 1000).status == 503
    assert caller.file("GET", "x").status == 404
    monkeypatch.undo()
    assert caller.file("PUT", "x", b"y").status == 201


@pytest.mark.parametrize("applied", [True, False])
@pytest.mark.parametrize("size", [1000, 400_000])
def test_a_commit_of_unknown_outcome_is_told_by_its_repeat(
    api: LocalApi, caller: Caller, monkeypatch: pytest.MonkeyPatch, size: int, applied: bool
) -> None:
    op, data = str(uuid.uuid4()), b"x" * size
    transact = api.store.transact

    def lose(steps: Any) -> None:
        if "PutHead" not in repr(steps):
            return transact(steps)
        if applied:
            transact(steps)
        raise OutcomeUnknown("the answer was lost")

    get_file = api.store.get_file
    intercept(monkeypatch, api.store, lose)
    if applied:

        def away(file_id: str) -> Any:
            record = get_file(file_id)
            if record is not None and record.state is FileState.COMMITTED:
                raise Unknown("metadata is away")
            return record

        monkeypatch.setattr(api.store, "get_file", away)
    answer = caller.file("PUT", "x", data, X_Dfs_Op=op, If_None_Match="*")
    assert (answer.status, answer.code) == (503, "unknown")
    monkeypatch.undo()
    assert caller.file("GET", "x").status == (200 if applied else 404)
    answer = caller.file("PUT", "x", data, X_Dfs_Op=op, If_None_Match="*")
    assert (answer.status, answer.json["file_id"]) == (201, op)
    assert caller.file("GET", "x").body == data
    api.erase_now()
    assert caller.file("GET", "x").body == data


def test_an_upload_aborted_while_it_comes_in(api: LocalApi, caller: Caller) -> None:
    op = str(uuid.uuid4())
    with socket.create_connection(("127.0.0.1", api.port), timeout=60) as connection:
        head = f"PUT /files/x HTTP/1.1\r\nHost: a\r\nX-Dfs-Op: {op}\r\nContent-Length: 300000\r\n\r\n"
        begun = threading.Event()
        for node in api.nodes:
            node.before = lambda request: begun.set() if request.path.startswith("/store-chunk") else None
        connection.sendall(head.encode() + b"x" * 150_000)
        assert begun.wait(60)
        assert caller.call("GET", f"/uploads/{op}").json["state"] == "uploading"
        assert caller.call("DELETE", f"/uploads/{op}").status == 204
        connection.sendall(b"x" * 150_000)
        assert b" 410 " in connection.recv(65536)
    assert caller.file("GET", "x").status == 404
    api.erase_now()
    assert api.stored() == set()


def test_two_attempts_at_once(api: LocalApi, caller: Caller) -> None:
    op, data = str(uuid.uuid4()), b"x" * 500_000
    answers = []

    def put() -> None:
        mine = Caller(api.port)
        answers.append(mine.file("PUT", "x", data, X_Dfs_Op=op, If_None_Match="*"))
        mine.close()

    threads = [threading.Thread(target=put) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status for answer in answers} <= {201, 503}
    assert 201 in {answer.status for answer in answers}
    assert {answer.json["file_id"] for answer in answers if answer.status == 201} == {op}
    assert caller.file("GET", "x").body == data


def test_a_refusal_that_comes_after_the_commit_of_another_attempt(
    api: LocalApi, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    op = str(uuid.uuid4())
    get_head = api.store.get_head
    other = caller.file("PUT", "y", b"other")
    assert other.status == 201
    late = Caller(api.port)

    def meanwhile(bucket: str, path: str) -> Any:
        monkeypatch.setattr(api.store, "get_head", get_head)
        assert late.file("PUT", "x", b"data", X_Dfs_Op=op).status == 201
        return get_head(bucket, path)

    monkeypatch.setattr(api.store, "get_head", meanwhile)
    answer = caller.file("PUT", "x", b"data", X_Dfs_Op=op, If_None_Match="*")
    late.close()
    assert (answer.status, answer.json["file_id"]) == (201, op)


def test_a_long_upload_is_touched(api: LocalApi, caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "TOUCH_EVERY_MS", 0)
    touched: list[int] = []
    touch = write.touch_upload

    def count(store: Any, record: Any, now: int) -> Any:
        touched.append(now)
        return touch(store, record, now)

    monkeypatch.setattr(write, "touch_upload", count)
    assert caller.file("PUT", "x", b"x" * 400_000).status == 201
    assert len(touched) == 6
    assert caller.file("GET", "x").body == b"x" * 400_000


def test_rows_are_flushed_on_the_way(api: LocalApi, caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "ROWS_AT_ONCE", 6)
    sizes: list[int] = []
    add = api.store.add_replicas

    def count(file_id: str, rows: Any, short: Any = ()) -> None:
        sizes.append(len(rows))
        add(file_id, rows, short)

    monkeypatch.setattr(api.store, "add_replicas", count)
    assert caller.file("PUT", "x", b"x" * 10_000, X_Chunk_Size="1000").status == 201
    assert sizes == [6, 6, 6, 2]


def test_a_bug_is_not_told_in_detail(api: LocalApi, caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Service) -> int:
        raise RuntimeError("secret")

    monkeypatch.setattr(Service, "now", broken)
    for size in (10, 200_000):
        answer = caller.file("PUT", "x", b"x" * size)
        assert (answer.status, answer.code) == (500, "internal")
        assert b"secret" not in answer.body and b"Traceback" not in answer.body
