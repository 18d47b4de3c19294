"""The server on loopback: framing, answers, errors, limits, time-outs, drain."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dfs.errors import BadRequest, Busy, NotFound, RangeNotSatisfiable
from dfs.wire.limits import Limits
from dfs.wire.message import Request, Response
from dfs.wire.route import Route
from dfs.wire.server import HttpServer
from tests.support import needs
from tests.unit.wire.conftest import PATIENCE, Raw

Serve = Callable[..., HttpServer]
Connect = Callable[[int], Raw]

GET = b"GET %s HTTP/1.1\r\nHost: h\r\n\r\n"


class Pieces:
    """An iterable that remembers whether it was closed."""

    def __init__(self, *pieces: bytes | Exception) -> None:
        self._pieces = iter(pieces)
        self.closed = threading.Event()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        piece = next(self._pieces)
        if isinstance(piece, Exception):
            raise piece
        return piece

    def close(self) -> None:
        self.closed.set()


def echo(request: Request) -> Response:
    body = request.body.read_all(1 << 20)
    return Response.text(200, body.decode("latin-1"), [("X-Path", request.params["rest"].encode().hex())])


ECHO = Route("POST", "/echo/{rest+}", echo, body_limit=1000)
HELLO = Route("GET", "/hello", lambda request: Response.text(200, "hello"))


def answering(response: Response | Exception) -> Route:
    def handler(request: Request) -> Response:
        if isinstance(response, Exception):
            raise response
        return response

    return Route("GET", "/it", handler)


def code(body: bytes) -> str:
    found = json.loads(body)["error"]["code"]
    assert isinstance(found, str)
    return found


# -- requests and answers --------------------------------------------------------------------------


def test_a_connection_answers_request_after_request(serve: Serve, raw: Connect) -> None:
    client = raw(serve([HELLO, ECHO], response_headers=[("X-Extra", "1")]).port)
    seen = set()
    for _ in range(3):
        status, headers, body = client.send(GET % b"/hello").answer()
        assert (status, body, headers["server"], headers["x-extra"]) == (200, b"hello", "dfs", "1")
        assert headers["date"].endswith("GMT")
        seen.add(headers["x-request-id"])
    assert len(seen) == 3
    status, headers, body = client.send(
        b"POST /echo/a%2fb HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc"
    ).answer()
    assert (status, headers["x-path"], body) == (200, b"a/b".hex(), b"abc")


def test_pipelined_requests_are_answered_in_order(serve: Serve, raw: Connect) -> None:
    client = raw(serve([HELLO, ECHO]).port)
    post = b"POST /echo/%d HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n%d"
    client.send(b"".join(post % (n, n) for n in range(9)) + GET % b"/hello")
    assert [client.answer()[2] for _ in range(10)] == [b"%d" % n for n in range(9)] + [b"hello"]


def test_a_head_may_come_byte_by_byte_and_after_one_empty_line(serve: Serve, raw: Connect) -> None:
    client = raw(serve([HELLO]).port)
    for byte in b"\r\n" + GET % b"/hello":
        client.send(bytes([byte]))
    assert client.answer()[0] == 200


def test_chunked_bodies_are_decoded(serve: Serve, raw: Connect) -> None:
    client = raw(serve([ECHO]).port)
    head = b"POST /echo/x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    client.send(
        head + b"3;a=b\r\nabc\r\n00a \t;x\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n" + head + b"0\r\n\r\n"
    )
    assert client.answer()[2] == b"abc0123456789"
    assert client.answer()[2] == b""


@pytest.mark.parametrize(
    "chunks",
    [b"3\nabc\r\n0\r\n\r\n", b"3\r\nabcd\r\n0\r\n\r\n", b"g\r\n", b"\r\n", b"+3\r\n", b"0x3\r\n", b"3 \r\nabc", b"-1\r\n",
     b"3\r\nab\r\n0\r\n\r\n", b"1" * 17 + b"\r\n", b"3;" + b"a" * 300 + b"\r\n", b"3;\0\r\n", b"0\r\nbad trailer\r\n\r\n",
     b"0\r\n" + b"a: b\r\n" * 101 + b"\r\n", b"0\r\n" + b"a: " + b"b" * 9000 + b"\r\n\r\n", b"1;" + b"a" * 300,
     b"0\r\n" + (b"a: " + b"b" * 900 + b"\r\n") * 10 + b"\r\n", (b"1;" + b"a" * 250 + b"\r\nx\r\n") * 70 + b"0\r\n\r\n"],
)  # fmt: skip
def test_malformed_chunks_are_refused_and_end_the_connection(
    serve: Serve, raw: Connect, chunks: bytes
) -> None:
    client = raw(serve([ECHO]).port)
    client.send(
        b"POST /echo/x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + GET % b"/hello"
    )
    status, headers, _ = client.answer()
    assert (status, headers["connection"], client.rest()) == (400, "close", b"")


def test_head_is_a_get_without_a_body(serve: Serve, raw: Connect) -> None:
    pieces = Pieces(b"never asked for")
    server = serve([HELLO, answering(Response(200, [], pieces, 12345))])
    client = raw(server.port).send(
        b"HEAD /it HTTP/1.1\r\nHost: h\r\n\r\nHEAD /hello HTTP/1.1\r\nHost: h\r\n\r\n"
    )
    assert b"Content-Length: 12345" in client.until(b"\r\n\r\n")
    assert b"Content-Length: 5" in client.until(b"\r\n\r\n")
    assert client.send(GET % b"/nope").answer()[0] == 404
    assert pieces.closed.wait(PATIENCE)


@pytest.mark.parametrize("status", [204, 304])
def test_answers_without_a_body_have_none(serve: Serve, raw: Connect, status: int) -> None:
    client = raw(serve([HELLO, answering(Response(status, [], b"x"))]).port).send(
        GET % b"/it" + GET % b"/hello"
    )
    head = client.until(b"\r\n\r\n")
    assert b" %d " % status in head and b"Content-Length" not in head
    assert client.answer()[2] == b"hello"


@pytest.mark.parametrize("sizes", [(), (0,), (1,), (0, 5, 0), (70_000,), (100, 300_000, 65_536, 65_537)])
@pytest.mark.parametrize("declared", [True, False])
def test_streamed_answers(serve: Serve, raw: Connect, sizes: tuple[int, ...], declared: bool) -> None:
    whole = b"".join(bytes([n + 65]) * size for n, size in enumerate(sizes))

    def handler(request: Request) -> Response:
        pieces = (memoryview(bytes([n + 65]) * size) for n, size in enumerate(sizes))
        return Response(200, [], pieces, len(whole) if declared else None)

    client = raw(serve([Route("GET", "/it", handler)]).port)
    for _ in range(2):
        client.send(GET % b"/it")
        if declared:
            assert client.answer()[2] == whole
        else:
            assert b"Transfer-Encoding: chunked" in client.until(b"\r\n\r\n")
            found = b""
            while size := int(client.until(b"\r\n"), 16):
                while len(client.data) < size + 2:
                    client.data += client.sock.recv(65536)
                found += client.data[:size]
                client.data = client.data[size + 2 :]
            assert client.until(b"\r\n") == b"\r\n"
            assert found == whole


@pytest.mark.parametrize("size", [10, 100_000])
def test_a_big_answer_of_bytes(serve: Serve, raw: Connect, size: int) -> None:
    client = raw(serve([answering(Response(200, [], memoryview(b"x" * size)))]).port)
    assert len(client.send(GET % b"/it").answer()[2]) == size


@pytest.mark.parametrize(
    "pieces",
    [(b"abc", b"d"), (b"abcd", b"", b"efghi", b"kl"), (b"abcdefghij", b"x"), (b"a", BadRequest("no")), (b"abcdefghij", KeyError("k")),
     (b"x" * 100_000,)],
)  # fmt: skip
def test_a_body_of_another_length_never_looks_complete(
    serve: Serve, raw: Connect, pieces: tuple[Any, ...]
) -> None:
    body = Pieces(*pieces)
    client = raw(serve([answering(Response(200, [], body, 10))]).port).send(GET % b"/it")
    try:
        found = client.rest()
    except ConnectionResetError:
        found = client.data
    assert len(found.partition(b"\r\n\r\n")[2]) < 10
    assert body.closed.wait(PATIENCE)


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_a_body_of_unknown_length_that_fails_is_a_reset(serve: Serve, raw: Connect, version: bytes) -> None:
    body = Pieces(b"x" * 100, RuntimeError("disk"))
    client = raw(serve([answering(Response(200, [], body))]).port).send(
        b"GET /it HTTP/" + version + b"\r\nHost: h\r\n\r\n"
    )
    with pytest.raises(ConnectionResetError):
        client.rest()


def test_an_error_of_the_first_piece_is_still_a_proper_answer(serve: Serve, raw: Connect) -> None:
    client = raw(serve([answering(Response(200, [], Pieces(NotFound("no such thing")), 10))]).port).send(
        GET % b"/it"
    )
    status, headers, body = client.answer()
    assert (status, code(body), headers["connection"]) == (404, "not_found", "close")


def test_a_body_whose_close_fails_is_logged(
    serve: Serve, raw: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    def pieces() -> Iterator[bytes]:
        try:
            yield b"ab"
            yield b"cd"
        finally:
            raise OSError("close")

    client = raw(serve([answering(Response(200, [], pieces(), 1))]).port).send(GET % b"/it")
    with pytest.raises(ConnectionResetError):
        client.rest()
    assert "answer_close_failed" in caplog.text


@pytest.mark.parametrize("connection", [b"", b"Connection: keep-alive\r\n"])
def test_http_1_0(serve: Serve, raw: Connect, connection: bytes) -> None:
    client = raw(serve([HELLO]).port).send(b"GET /hello HTTP/1.0\r\n" + connection + b"\r\n")
    status, headers, body = client.answer()
    assert (status, body, headers["connection"]) == (200, b"hello", "keep-alive" if connection else "close")
    if connection:
        assert client.send(GET % b"/hello").answer()[0] == 200
    else:
        assert client.rest() == b""


def test_http_1_0_gets_a_stream_until_the_end(serve: Serve, raw: Connect) -> None:
    server = serve([Route("GET", "/it", lambda request: Response(200, [], iter((b"ab", b"cd"))))])
    client = raw(server.port).send(b"GET /it HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert client.rest().endswith(b"Connection: close\r\n\r\nabcd")


# -- errors ----------------------------------------------------------------------------------------


def test_errors_have_one_shape(serve: Serve, raw: Connect) -> None:
    error = Busy("later", retry_after=7, details={"missing": [1]}, headers=(("X-Why", "y"),))
    status, headers, body = raw(serve([answering(error)]).port).send(GET % b"/it").answer()
    assert (status, headers["retry-after"], headers["x-why"], headers["content-type"]) == (
        503,
        "7",
        "y",
        "application/json",
    )
    assert json.loads(body)["error"] == {
        "code": "busy", "message": "later", "retryable": True, "missing": [1], "request_id": headers["x-request-id"],
    }  # fmt: skip


@pytest.mark.parametrize(
    "bug",
    [
        KeyError("secret"),
        RangeNotSatisfiable("x", details={"secret": object()}),
        Response(200, [("X", "a\r\nsecret: b")]),
        Response(200, [("X", "☃")]),
        Response(200, [("Content-Length", "5")]),
        Response(200, [], b"secret", 7),
        Response(200, [], (), 7),
        Response(200, [], 5),  # type: ignore[arg-type]
    ],
)
def test_a_bug_is_logged_in_full_and_answered_bare(
    serve: Serve, raw: Connect, bug: Response | Exception, caplog: pytest.LogCaptureFixture
) -> None:
    status, headers, body = raw(serve([answering(bug)]).port).send(GET % b"/it").answer()
    assert (status, code(body)) == (500, "internal")
    assert b"secret" not in body
    assert "internal_error" in caplog.text and "Traceback" in caplog.text


def test_an_error_that_cannot_be_sent_resets_the_connection(serve: Serve, raw: Connect) -> None:
    client = raw(serve([answering(BadRequest("x", headers=(("X", "\n"),)))]).port).send(GET % b"/it")
    status, _, _ = client.answer()
    assert status == 500


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (GET % b"/nope", 404), (b"OPTIONS /hello HTTP/1.1\r\nHost: h\r\n\r\n", 405), (GET % b"/hello?a=%zz", 400), (GET % b"/%ff", 400),
        (b"POST /hello HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n", 405), (GET % b"http://h/hello", 200), (GET % b"http://x/hello", 400),
        (b"GET /hello HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc", 413),
        (b"POST /echo/x HTTP/1.1\r\nHost: h\r\nContent-Length: 1001\r\n\r\n" + b"a" * 1001, 413),
        (b"GET /hello HTTP/1.1\r\nHost: h\r\n\r\n", 200),
    ],
)  # fmt: skip
def test_well_framed_requests_keep_the_connection_whatever_their_answer(
    serve: Serve, raw: Connect, request_bytes: bytes, status: int
) -> None:
    client = raw(serve([HELLO, ECHO]).port).send(request_bytes)
    found, headers, _ = client.answer()
    assert (found, headers.get("connection")) == (status, None)
    assert client.send(GET % b"/hello").answer()[2] == b"hello"


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /hello HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 413),
        (b"POST /echo/x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n" + b"a" * 1001 + b"\r\n0\r\n\r\n", 413),
        (b"POST /nope HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n", 404),
        (b"GET /hello\n\n", 400), (b"\x16\x03\x01\x00", 400), (b"GET /hello HTTP/1.1\r\nHost: h\r\n\n", 400), (b"\r\n\r\n\r\n", 400),
        (b"GET /" + b"a" * 33_000, 431), (b"GET /hello HTTP/1.1\r\nHost: h\r\nX: " + b"a" * 40_000 + b"\r\n\r\n", 431),
        (b"GET /" + b"a" * 17_000 + b" HTTP/1.1\r\nHost: h\r\n\r\n", 414), (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    ],
)  # fmt: skip
def test_other_requests_end_the_connection_and_nothing_behind_them_is_served(
    serve: Serve, raw: Connect, request_bytes: bytes, status: int
) -> None:
    calls: list[str] = []

    def spy(request: Request) -> Response:
        calls.append(request.path)
        return Response.empty(204)

    server = serve([Route("GET", "/spy", spy), HELLO, ECHO])
    client = raw(server.port).send(request_bytes + GET % b"/spy")
    found, headers, _ = client.answer()
    assert (found, headers["connection"], client.rest()) == (status, "close", b"")
    assert calls == []


def test_megabytes_of_head_get_an_answer(serve: Serve, raw: Connect) -> None:
    client = raw(serve([HELLO]).port)
    client.send(b"GET /hello HTTP/1.1\r\nHost: h\r\n" + (b"X: " + b"a" * 1000 + b"\r\n") * 10_000)
    assert client.answer()[0] == 431


def test_a_peer_that_never_stops_after_its_last_answer_is_closed(serve: Serve, raw: Connect) -> None:
    client = raw(serve([HELLO], limits=Limits(drain_bytes=100_000)).port).send(b"\0")
    assert client.answer()[0] == 400
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        while True:
            client.send(b"x" * 10_000)


# -- bodies ----------------------------------------------------------------------------------------


def test_100_continue_comes_when_the_body_is_wanted(serve: Serve, raw: Connect) -> None:
    client = raw(serve([ECHO]).port)
    head = b"POST /echo/x HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n"
    client.send(head % 3)
    assert client.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert client.send(b"abc").answer()[2] == b"abc"
    assert client.send(head % 2 + b"ab").answer()[2] == b"ab"
    assert client.send(head % 0).answer()[2] == b""
    assert client.send(head % 2000).answer()[0] == 413


def test_a_cut_body_is_told_to_the_handler(serve: Serve, raw: Connect) -> None:
    client = raw(serve([ECHO]).port).send(
        b"POST /echo/x HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc"
    )
    client.sock.shutdown(socket.SHUT_WR)
    status, _, body = client.answer()
    assert (status, code(body)) == (400, "body_truncated")


def test_bodies_are_read_in_any_way(serve: Serve, raw: Connect) -> None:
    def handler(request: Request) -> Response:
        body = request.body
        assert (body.length, body.started) == (10, False)
        view = memoryview(bytearray(4))
        found = [
            body.read(3),
            bytes(view[: body.readfully(view)]),
            body.read(0),
            body.read(100),
            body.read(1),
        ]
        assert (body.readinto(view), body.readfully(view), body.started) == (0, 0, True)
        return Response.json(200, [each.decode() for each in found])

    client = raw(serve([Route("PUT", "/it", handler, None)]).port)
    client.send(b"PUT /it HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n0123").send(b"456789")
    assert json.loads(client.answer()[2]) == ["012", "3456", "", "789", ""]


def test_a_handlers_own_limit_and_reads_after_a_failure(serve: Serve, raw: Connect) -> None:
    errors: list[str] = []

    def handler(request: Request) -> Response:
        for _ in range(2):
            try:
                request.body.read_all(5)
            except BadRequest as error:
                errors.append(error.code)
            except Exception as error:
                errors.append(type(error).__name__)
        return Response.empty(204)

    server = serve([Route("PUT", "/it", handler, None)])
    client = raw(server.port).send(b"PUT /it HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\n\r\n")
    assert b"204" in client.until(b"\r\n\r\n")
    client = raw(server.port).send(
        b"PUT /it HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n6\r\n012345\r\n"
    )
    assert b"204" in client.until(b"\r\n\r\n")
    assert errors == ["PayloadTooLarge", "PayloadTooLarge", "PayloadTooLarge", "body_truncated"]


@pytest.mark.parametrize("size", [100, 300_000, 2_000_000])
def test_an_unread_body_never_becomes_a_request(serve: Serve, raw: Connect, size: int) -> None:
    server = serve([HELLO, Route("PUT", "/it", lambda request: Response.text(200, "unread"), None)])
    client = raw(server.port)
    body = (GET % b"/hello") * (size // len(GET % b"/hello") + 1)
    client.send(b"PUT /it HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    _, headers, found = client.answer()
    assert found == b"unread"
    if size > 1_000_000:
        assert (headers["connection"], client.rest()) == ("close", b"")
    else:
        assert client.send(GET % b"/nope").answer()[0] == 404


# -- time ------------------------------------------------------------------------------------------


def test_half_a_head_is_answered_408_at_its_deadline(serve: Serve, raw: Connect) -> None:
    client = raw(serve([HELLO], limits=Limits(head_seconds=0.1)).port).send(b"GET /hello HT")
    status, _, body = client.answer()
    assert (status, code(body), client.rest()) == (408, "request_timeout", b"")


def test_silent_and_idle_connections_are_closed(serve: Serve, raw: Connect) -> None:
    server = serve([HELLO], limits=Limits(head_seconds=0.1, idle_seconds=0.1))
    assert raw(server.port).rest() == b""
    client = raw(server.port).send(GET % b"/hello")
    assert client.answer()[0] == 200
    assert client.rest() == b""


def test_too_many_bytes_of_unfinished_heads_cut_the_oldest(serve: Serve, raw: Connect) -> None:
    server = serve([HELLO], limits=Limits(heads_bytes=10_000))
    clients = [raw(server.port).send(b"GET /" + b"a" * 4000) for _ in range(3)]
    assert clients[0].answer()[0] == 408
    assert clients[2].send(b" HTTP/1.1\r\nHost: h\r\n\r\n").answer()[0] == 404


def test_a_body_that_stands_still_is_answered_408(serve: Serve, raw: Connect) -> None:
    client = raw(serve([ECHO], limits=Limits(stall_seconds=0.1)).port)
    client.send(b"POST /echo/x HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc")
    assert client.answer()[0] == 408


def test_a_dripping_body_is_cut_only_while_others_wait(serve: Serve, raw: Connect) -> None:
    server = serve([ECHO], limits=Limits(rate_window=0.1, min_rate=1000))
    others = threading.Event()
    server.add_pressure(others.is_set)
    client = raw(server.port).send(b"POST /echo/x HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n")
    drip, pause = True, threading.Event()
    client.sock.settimeout(0.02)
    for step in range(1000):
        if step == 15:
            others.set()
        try:
            if drip:
                client.sock.send(b"x")
            client.data += client.sock.recv(1000)
            break
        except TimeoutError:
            pause.wait(0)
    client.sock.settimeout(PATIENCE)
    assert step >= 15
    assert client.answer()[0] == 408


def test_a_reader_that_stands_still_is_reset(serve: Serve, raw: Connect) -> None:
    body = Pieces(*[b"x" * 1_000_000] * 100)
    server = serve([answering(Response(200, [], body, 100_000_000))], limits=Limits(stall_seconds=0.1))
    client = raw(server.port).send(GET % b"/it")
    assert body.closed.wait(PATIENCE)
    with pytest.raises(ConnectionResetError):
        client.rest()


def test_a_reader_that_goes_away_ends_the_answer(serve: Serve, raw: Connect) -> None:
    body = Pieces(*[b"x" * 1_000_000] * 100)
    client = raw(serve([answering(Response(200, [], body, 100_000_000))]).port).send(GET % b"/it")
    client.until(b"\r\n\r\n")
    client.close()
    assert body.closed.wait(PATIENCE)


def test_a_skipped_body_that_never_comes_is_closed(serve: Serve, raw: Connect) -> None:
    client = raw(serve([HELLO], limits=Limits(drain_seconds=0.1)).port)
    client.send(b"GET /hello HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n")
    assert client.answer()[0] == 413
    assert client.rest() == b""
    client = raw(serve([HELLO]).port)
    client.send(b"GET /hello HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\na")
    assert client.answer()[0] == 413
    client.sock.shutdown(socket.SHUT_WR)
    assert client.rest() == b""


# -- load ------------------------------------------------------------------------------------------


class Gate:
    """A handler that waits to be let through."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.open = threading.Event()

    def __call__(self, request: Request) -> Response:
        self.entered.release()
        assert self.open.wait(PATIENCE)
        return Response.text(200, "through")


def test_connections_beyond_the_workers_wait_their_turn(serve: Serve, raw: Connect) -> None:
    gate = Gate()
    server = serve([Route("GET", "/gate", gate), HELLO], limits=Limits(workers=2))
    clients = [raw(server.port).send(GET % b"/gate") for _ in range(2)]
    for _ in clients:
        gate.entered.acquire()
    waiting = raw(server.port).send(GET % b"/hello")
    pause = threading.Event()
    while not server.crowded():
        pause.wait(0.001)
    assert server.pressed()
    gate.open.set()
    assert [client.answer()[2] for client in clients] == [b"through"] * 2
    assert waiting.answer()[2] == b"hello"
    assert server.stats()["workers"] == 2


def test_many_hot_connections_share_one_worker(serve: Serve, raw: Connect) -> None:
    server = serve([HELLO], limits=Limits(workers=1))
    clients = [raw(server.port) for _ in range(5)]
    for _ in range(20):
        for client in clients:
            client.send(GET % b"/hello" + GET % b"/hello")
        for client in clients:
            assert [client.answer()[2], client.answer()[2]] == [b"hello"] * 2


def test_above_its_capacity_the_server_accepts_later_instead_of_refusing(serve: Serve, raw: Connect) -> None:
    server = serve([HELLO], limits=Limits(connections=2))
    held = [raw(server.port).send(b"GET /hel") for _ in range(2)]
    late = raw(server.port).send(GET % b"/hello")
    pause = threading.Event()
    while server.stats()["connections"] < 2:
        pause.wait(0.001)
    assert server.pressed()
    late.sock.settimeout(0.05)
    with pytest.raises(TimeoutError):
        late.sock.recv(1)
    late.sock.settimeout(PATIENCE)
    held[0].close()
    assert late.answer()[0] == 200


def test_at_its_capacity_long_idle_connections_make_room(
    serve: Serve, raw: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dfs.wire.custody.LONG_IDLE_SECONDS", 0.05)
    server = serve([HELLO], limits=Limits(connections=2))
    clients = [raw(server.port) for _ in range(5)]
    assert [client.send(GET % b"/hello").answer()[0] for client in clients] == [200] * 5


# -- life ------------------------------------------------------------------------------------------


def test_drain_answers_what_was_sent_and_closes_the_rest(serve: Serve, raw: Connect) -> None:
    gate = Gate()
    server = serve([Route("GET", "/gate", gate), HELLO])
    running = raw(server.port).send(GET % b"/gate" + GET % b"/hello")
    gate.entered.acquire()
    idle, lively = raw(server.port), raw(server.port)
    assert idle.send(GET % b"/hello").answer()[0] == lively.send(GET % b"/hello").answer()[0] == 200
    queued = [raw(server.port).send(GET % b"/hello") for _ in range(20)]
    silent = raw(server.port)
    result: list[bool] = []
    drainer = threading.Thread(target=lambda: result.append(server.drain(PATIENCE)))
    drainer.start()
    assert [client.answer()[0] for client in queued] == [200] * 20
    status, headers, _ = lively.send(GET % b"/hello").answer()
    assert (status, headers["connection"], lively.rest()) == (200, "close", b"")
    assert idle.rest() == silent.rest() == b""
    gate.open.set()
    status, headers, body = running.answer()
    assert (body, headers["connection"]) == (b"through", "close")
    for client in [running, *queued]:
        client.close()
    lively.close()
    drainer.join(PATIENCE)
    assert result == [True]
    with pytest.raises(ConnectionRefusedError):
        Raw(server.port)
    assert server.drain(0) is True


def test_drain_does_not_wait_for_the_rest_of_a_head(serve: Serve, raw: Connect) -> None:
    server = serve([HELLO], limits=Limits(head_seconds=10 * PATIENCE))
    dawdling = raw(server.port).send(b"GET /hello HTTP/1.1\r\nHo")
    other = raw(server.port).send(GET % b"/hello")  # answered after the head's first bytes were seen
    assert other.answer()[0] == 200
    assert server.drain(PATIENCE) is True
    assert dawdling.rest().startswith(b"HTTP/1.1 408 ")


def test_drain_gives_up_at_its_time_limit_and_close_cuts_off(serve: Serve, raw: Connect) -> None:
    server = serve([ECHO, answering(Response(200, [], Pieces(*[b"x" * 1_000_000] * 100), 100_000_000))])
    reading = raw(server.port).send(b"POST /echo/x HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc")
    writing = raw(server.port).send(GET % b"/it")
    writing.until(b"\r\n\r\n")
    idle = raw(server.port).send(GET % b"/nope")
    idle.answer()
    assert server.drain(0.05) is False
    server.close()
    server.close()
    for client in (reading, writing):
        try:
            assert len(client.rest()) < 100_000_000
        except ConnectionResetError:
            pass
    names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if name in (f"http-{server.port}-0", f"poll-{server.port}")]


def test_a_server_that_was_never_started_can_be_drained_and_closed() -> None:
    for end in ("drain", "close", "server_close"):
        server = HttpServer(("127.0.0.1", 0), [HELLO])
        getattr(server, end)(*[0] if end == "drain" else [])
        assert server.socket.fileno() == -1
        assert server.stats() == {"requests": 0}


def test_it_serves_like_a_threading_http_server(raw: Connect) -> None:
    server = HttpServer(("127.0.0.1", 0), [HELLO])
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    client = raw(server.server_port).send(GET % b"/hello")
    assert client.answer()[0] == 200
    with pytest.raises(RuntimeError, match="before"):
        server.start()
    server.shutdown()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_an_inherited_socket_is_served_by_several_servers(raw: Connect) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    servers = [HttpServer(("", 0), [HELLO], listening_socket=listener.dup()) for _ in range(2)]
    for server in servers:
        server.start()
        assert server.port == listener.getsockname()[1]
    for _ in range(20):
        assert raw(servers[0].port).send(GET % b"/hello").answer()[0] == 200
    servers[0].drain(PATIENCE)
    servers[0].close()
    for _ in range(20):
        assert raw(servers[1].port).send(GET % b"/hello").answer()[0] == 200
    servers[1].close()
    listener.close()


def test_a_port_in_use_is_an_error_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        HttpServer(("127.0.0.1", taken.getsockname()[1]), [HELLO])


def test_ipv6(serve: Serve) -> None:
    needs.ipv6()
    server = HttpServer(("::1", 0), [HELLO])
    server.start()
    with socket.create_connection(("::1", server.port), timeout=PATIENCE) as sock:
        sock.sendall(GET % b"/hello")
        assert sock.recv(100).startswith(b"HTTP/1.1 200 OK")
    server.close()


def test_a_server_header_that_cannot_be_sent_is_refused() -> None:
    with pytest.raises(ValueError, match="malformed"):
        HttpServer(("127.0.0.1", 0), [], server_header="a\nb")


def test_the_access_log_has_no_query(serve: Serve, raw: Connect, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    server = serve([HELLO], access_log=True)
    client = raw(server.port).send(GET % b"/hello?secret=1" + b"\0")
    assert [client.answer()[0], client.answer()[0]] == [200, 400]
    records = [record for record in caplog.records if record.message in ("request", "refused")]
    assert [record.fields["status"] for record in records] == [200, 400]  # type: ignore[attr-defined]
    assert records[0].fields["path"] == "/hello"  # type: ignore[attr-defined]
