"""Slices of files as pieces of an answer: complete, or visibly broken."""

from __future__ import annotations

import errno
import os
import random
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dfs.wire import link as link_module
from dfs.wire.answer import JOIN_BYTES
from dfs.wire.limits import Limits
from dfs.wire.link import FileEnded, Link, PeerGone
from dfs.wire.message import FileSlice, Request, Response
from dfs.wire.pace import Pace, TooSlow
from dfs.wire.route import Route
from dfs.wire.server import HttpServer
from tests.unit.wire.conftest import PATIENCE, Raw

Serve = Callable[..., HttpServer]
Connect = Callable[[int], Raw]

CONTENT = random.Random(7).randbytes(1_500_000)
GET = b"GET /it HTTP/1.1\r\nHost: h\r\n\r\n"
GET_1_0 = b"GET /it HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\n\r\n"


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    fd = os.open(path, os.O_RDONLY)
    yield fd
    os.close(fd)


def serving(pieces: Callable[[], Iterator[bytes | FileSlice]], length: int | None) -> Route:
    return Route("GET", "/it", lambda request: Response(200, [], pieces(), length))


def whole(client: Raw) -> bytes:
    """Everything of the body up to the connection's end, by close or reset."""
    try:
        client.rest()
    except ConnectionResetError:
        pass
    return client.data.partition(b"\r\n\r\n")[2]


SLICES = [
    [(0, 10)],
    [(5, JOIN_BYTES)],
    [(5, JOIN_BYTES + 1)],
    [(1, 1_400_000)],
    [(0, 500_000), (500_000, 3), (700_000, 0), (700_000, 800_000)],
]


@pytest.mark.parametrize("slices", SLICES)
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("how", ["sendfile", "none", "refused"])
def test_slices_are_sent_byte_for_byte(
    serve: Serve, raw: Connect, file: int, slices: list[tuple[int, int]], mixed: bool, how: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def refuse(*args: object) -> int:
        raise OSError(errno.EINVAL, "not this file")

    if how == "none":
        monkeypatch.delattr(link_module.os, "sendfile")
    elif how == "refused":
        monkeypatch.setattr(link_module.os, "sendfile", refuse)

    def pieces() -> Iterator[bytes | FileSlice]:
        for offset, length in slices:
            if mixed:
                yield b"<"
            yield FileSlice(file, offset, length)

    expected = b"".join((b"<" if mixed else b"") + CONTENT[start : start + size] for start, size in slices)
    client = raw(serve([serving(pieces, len(expected))]).port)
    for _ in range(2):
        assert client.send(GET).answer()[2] == expected
    head = client.send(GET.replace(b"GET", b"HEAD")).until(b"\r\n\r\n")
    assert b"Content-Length: %d\r\n" % len(expected) in head
    assert client.send(GET_1_0).answer()[2] == expected


@pytest.mark.parametrize("offset", [len(CONTENT) - 100, len(CONTENT) - 500_000, len(CONTENT) + 5])
@pytest.mark.parametrize("length", [JOIN_BYTES, 600_000])
@pytest.mark.parametrize("sendfile", [True, False])
def test_a_file_that_ends_early_breaks_the_answer(
    serve: Serve, raw: Connect, file: int, offset: int, length: int, sendfile: bool,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    if not sendfile:
        monkeypatch.delattr(link_module.os, "sendfile")
    there = max(0, len(CONTENT) - offset)
    if there >= length:
        length = there + 1
    client = raw(serve([serving(lambda: iter([FileSlice(file, offset, length)]), length)]).port).send(GET)
    assert len(whole(client)) < length
    assert "answer_broken" in caplog.text


@pytest.mark.parametrize("sendfile", [True, False])
@pytest.mark.parametrize("length", [10, 600_000])
def test_a_file_that_cannot_be_read_breaks_the_answer(
    serve: Serve, raw: Connect, length: int, sendfile: bool,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    if not sendfile:
        monkeypatch.delattr(link_module.os, "sendfile")
    client = raw(serve([serving(lambda: iter([FileSlice(-1, 0, length)]), length)]).port).send(GET)
    assert whole(client) == b""
    assert "answer_broken" in caplog.text


@pytest.mark.parametrize(("size", "declared"), [(JOIN_BYTES + 7, 5), (7, 5), (500_000, 499_999)])
def test_a_slice_longer_than_the_body_never_looks_complete(
    serve: Serve, raw: Connect, file: int, size: int, declared: int
) -> None:
    client = raw(serve([serving(lambda: iter([FileSlice(file, 0, size)]), declared)]).port).send(GET)
    assert len(whole(client)) < declared


def test_what_fails_after_the_last_slice_leaves_the_last_byte_unsent(
    serve: Serve, raw: Connect, file: int
) -> None:
    def pieces() -> Iterator[FileSlice]:
        yield FileSlice(file, 0, 500_000)
        raise OSError("the checksum, say")

    client = raw(serve([serving(pieces, 500_000)]).port).send(GET)
    assert len(whole(client)) < 500_000


@pytest.mark.parametrize("request_bytes", [GET, GET_1_0])
@pytest.mark.parametrize("first", [True, False])
def test_a_body_of_unknown_length_takes_no_slices(
    serve: Serve, raw: Connect, file: int, request_bytes: bytes, first: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def pieces() -> Iterator[bytes | FileSlice]:
        if not first:
            yield b"abc"
        yield FileSlice(file, 0, 10)

    client = raw(serve([serving(pieces, None)]).port).send(request_bytes)
    if first:
        assert client.answer()[0] == 500
    else:
        with pytest.raises(ConnectionResetError):
            client.rest()
    assert "a slice of a file needs a body of declared length" in caplog.text


def test_a_reader_that_stands_still_or_goes_ends_the_slice(serve: Serve, raw: Connect, file: int) -> None:
    closed = threading.Semaphore(0)

    class Endless:
        def __iter__(self) -> Iterator[FileSlice]:
            return self

        def __next__(self) -> FileSlice:
            return FileSlice(file, 0, len(CONTENT))

        def close(self) -> None:
            closed.release()

    def handler(request: Request) -> Response:
        return Response(200, [], Endless(), 10**12)

    server = serve([Route("GET", "/it", handler)], limits=Limits(stall_seconds=0.1))
    still = raw(server.port).send(GET)
    assert closed.acquire(timeout=PATIENCE)
    with pytest.raises(ConnectionResetError):
        still.rest()
    going = raw(server.port).send(GET)
    going.until(b"\r\n\r\n")
    going.close()
    assert closed.acquire(timeout=PATIENCE)


def test_partial_sends_and_waits_of_a_link(file: int) -> None:
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    found = bytearray()

    def read() -> None:
        while more := theirs.recv(10_000):
            found.extend(more)

    thread = threading.Thread(target=read)
    thread.start()
    link = Link(ours, Pace(PATIENCE, 0.0, PATIENCE, lambda: False))
    link.send_file(file, 3, 1_000_000)
    with pytest.raises(FileEnded):
        link.send_file(file, len(CONTENT), 1)
    link.close()
    thread.join()
    theirs.close()
    assert found == CONTENT[3:1_000_003]


def test_a_link_gives_up_when_patience_does_and_when_the_peer_is_gone(file: int) -> None:
    ours, theirs = socket.socketpair()
    link = Link(ours, Pace(0.01, 0.0, 10.0, lambda: False))
    with pytest.raises(TooSlow):
        link.send_file(file, 0, 1_500_000)
    theirs.close()
    link.patience = Pace(PATIENCE, 0.0, PATIENCE, lambda: False)
    with pytest.raises(PeerGone):
        link.send_file(file, 0, 10)
    link.close()
