"""The client against scripted peers and our own server."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dfs.wire.client import (
    BadAnswer,
    ClientResponse,
    ConnectFailed,
    ConnectionLost,
    HttpClient,
    PeerTimeout,
    ResponseLimits,
)
from dfs.wire.deadline import Deadline
from dfs.wire.message import Request, Response
from dfs.wire.route import Route
from dfs.wire.server import HttpServer
from tests.unit.wire.conftest import PATIENCE

Serve = Callable[..., HttpServer]


class Peer:
    """Accepts connections and plays one script on each: bytes to send, numbers of bytes to read first."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.received: list[bytes] = []
        self._threads: list[threading.Thread] = []
        self._release = threading.Event()

    def play(self, *scripts: list[bytes | str | int]) -> Peer:
        """`bytes` are sent, "head" reads a request head, "wait" holds, "reset" resets, "all" reads to the end, a
        number reads so many bytes."""
        thread = threading.Thread(target=self._play, args=(scripts,), daemon=True)
        thread.start()
        self._threads.append(thread)
        return self

    def _play(self, scripts: tuple[list[bytes | str | int], ...]) -> None:
        for script in scripts:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return  # closed: nobody came for the rest
            with sock:
                sock.settimeout(PATIENCE)
                data = b""
                try:
                    for step in script:
                        if isinstance(step, bytes):
                            sock.sendall(step)
                        elif step == "head":
                            while b"\r\n\r\n" not in data:
                                more = sock.recv(65536)
                                if not more:
                                    raise ConnectionError("no request came")
                                data += more
                            head, _, data = data.partition(b"\r\n\r\n")
                            self.received.append(head)
                        elif isinstance(step, int):
                            left = step - len(data)
                            while left:
                                left -= len(sock.recv(min(left, 1 << 20)))
                        elif step == "wait":
                            self._release.wait(PATIENCE)
                        elif step == "reset":
                            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                        else:
                            while sock.recv(65536):
                                pass
                except OSError:
                    continue

    def close(self) -> None:
        self._release.set()
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for thread in self._threads:
            thread.join(PATIENCE)


@pytest.fixture
def peer() -> Iterator[Peer]:
    made = Peer()
    yield made
    made.close()


@pytest.fixture
def client() -> Iterator[HttpClient]:
    made = HttpClient(limits=ResponseLimits(read_bytes=1000))
    yield made
    made.close()


def ask(
    client: HttpClient, port: int, method: str = "GET", target: str = "/x", **options: Any
) -> ClientResponse:
    options.setdefault("deadline", Deadline(PATIENCE))
    options.setdefault("stall", PATIENCE)
    return client.request("127.0.0.1", port, method, target, **options)


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def echo(request: Request) -> Response:
    return Response(200, [("X-Length", str(request.body.length))], request.body.read_all(10_000_000))


ECHO = Route("POST", "/x", echo, None)


def test_connections_are_kept_and_used_again(client: HttpClient, peer: Peer) -> None:
    peer.play(["head", OK, "head", OK])
    for _ in range(2):
        with ask(client, peer.port, headers=[("X", "y")]) as answer:
            assert (answer.status, answer.length, answer.read()) == (200, 2, b"ok")
        assert client.idle() == 1
    assert (
        peer.received[0]
        == f"GET /x HTTP/1.1\r\nHost: 127.0.0.1:{peer.port}\r\nUser-Agent: dfs\r\nX: y".encode()
    )
    client.close_idle("127.0.0.1", peer.port)
    assert client.idle() == 0


@pytest.mark.parametrize(
    ("body", "length", "sent"),
    [
        (b"abc", None, b"3"), (memoryview(b"abc"), 3, b"3"), (b"x" * 3_000_000, None, b"3000000"), (None, None, b"0"),
        ([b"ab", b"", memoryview(b"c")], 3, b"3"), ([b"ab", b"", b"c" * 100_000], None, b"None"), ([], None, b"None"), ([], 0, b"0"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("expect", [False, True])
def test_bodies_of_all_kinds(
    serve: Serve, client: HttpClient, body: Any, length: int | None, sent: bytes, expect: bool
) -> None:
    whole = (
        b""
        if body is None
        else bytes(body)
        if isinstance(body, (bytes, memoryview))
        else b"".join(map(bytes, body))
    )
    server = serve([ECHO])
    for _ in range(2):
        answer = ask(client, server.port, "POST", body=body, length=length, expect_continue=expect)
        assert answer.headers.get("x-length") == sent.decode()
        assert b"".join(answer.iter_pieces(70_000)) == whole
        assert client.idle() == 1


def test_chunked_answers_are_decoded_and_bounded(client: HttpClient, peer: Peer) -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    peer.play(
        [
            "head",
            chunked + b"3\r\nabc\r\n1;x\r\nd\r\n0\r\n\r\n",
            "head",
            chunked + b"7d0\r\n" + b"a" * 2000 + b"\r\n0\r\n\r\n",
        ]
    )
    answer = ask(client, peer.port)
    assert (answer.length, answer.read(), answer.read(), answer.read(5)) == (None, b"abcd", b"", b"")
    with pytest.raises(BadAnswer, match="larger"):
        ask(client, peer.port).read()


def test_json_answers(client: HttpClient, peer: Peer) -> None:
    peer.play(["head", b'HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n{"a":1}', "head", OK])
    assert ask(client, peer.port).read_json() == {"a": 1}
    with pytest.raises(BadAnswer, match="JSON"):
        ask(client, peer.port).read_json()


def test_a_declared_length_beyond_the_limit_is_not_read(client: HttpClient, peer: Peer) -> None:
    peer.play(["head", b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999999999\r\n\r\n", "wait"])
    with pytest.raises(BadAnswer, match="larger"):
        ask(client, peer.port).read()


def test_answers_without_a_body(client: HttpClient, peer: Peer) -> None:
    peer.play(
        ["head", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", "head", b"HTTP/1.1 204 No\r\n\r\n",
         "head", b"HTTP/1.1 304 No\r\nContent-Length: 9\r\n\r\n", "head", b"HTTP/1.1 204 No\r\nContent-Length: 1\r\n\r\nx"],
    )  # fmt: skip
    head = ask(client, peer.port, "HEAD")
    assert (head.length, head.read(), head.readfully(memoryview(bytearray(3)))) == (9, b"", 0)
    assert [ask(client, peer.port).read() for _ in range(2)] == [b"", b""]
    with pytest.raises(BadAnswer, match="204"):
        ask(client, peer.port)


def test_only_errors_may_end_with_the_connection(client: HttpClient, peer: Peer) -> None:
    peer.play(["head", b"HTTP/1.1 502 Bad\r\n\r\nupstream"], ["head", b"HTTP/1.1 200 OK\r\n\r\nhalf"])
    assert ask(client, peer.port).read() == b"upstream"
    with pytest.raises(BadAnswer, match="ends"):
        ask(client, peer.port)


@pytest.mark.parametrize("options", [b"Connection: close\r\n", b""])
def test_connections_are_not_kept_against_the_peers_will(
    client: HttpClient, peer: Peer, options: bytes
) -> None:
    version = b"1.1" if options else b"1.0"
    peer.play(
        ["head", b"HTTP/" + version + b" 200 OK\r\n" + options + b"Content-Length: 2\r\n\r\nok", "wait"]
    )
    assert ask(client, peer.port).read() == b"ok"
    assert client.idle() == 0


def test_bytes_after_the_answer_make_the_connection_unfit(client: HttpClient, peer: Peer) -> None:
    peer.play(["head", OK + OK, "wait"])
    assert ask(client, peer.port).read() == b"ok"
    assert client.idle() == 0


@pytest.mark.parametrize(
    "answer",
    [
        b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\n\n", b"\0", b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
        b"HTTP/1.1 101 Switching\r\n\r\n", b"HTTP/1.1 100 C\r\nContent-Length: 1\r\n\r\nx", b"HTTP/1.1 103 Hints\r\n\r\n" * 9 + OK,
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 40_000, b"HTTP/1.1 200 OK\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
    ],
)  # fmt: skip
def test_malformed_heads(client: HttpClient, peer: Peer, answer: bytes) -> None:
    peer.play(["head", answer, "wait"])
    with pytest.raises(BadAnswer):
        ask(client, peer.port)
    assert client.idle() == 0


def test_interim_answers_are_passed_over(client: HttpClient, peer: Peer) -> None:
    peer.play(["head", b"HTTP/1.1 103 Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + OK])
    assert ask(client, peer.port).read() == b"ok"


@pytest.mark.parametrize(
    ("chunks", "kind"),
    [
        (b"x\r\n", BadAnswer),
        (b"3\r\nabcd\r\n", BadAnswer),
        (b"3\r\nab", ConnectionLost),
        (b"3\r\nabc\r\n", ConnectionLost),
        (b"3", ConnectionLost),
    ],
)
def test_broken_chunked_answers(client: HttpClient, peer: Peer, chunks: bytes, kind: type[Exception]) -> None:
    peer.play(["head", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks])
    answer = ask(client, peer.port)
    with pytest.raises(kind):
        answer.read()
    with pytest.raises(ConnectionLost, match="closed before"):
        answer.read(1)


@pytest.mark.parametrize("ending", [[], ["reset"]])
def test_a_short_body_is_never_taken_for_whole(
    client: HttpClient, peer: Peer, ending: list[bytes | str | int]
) -> None:
    peer.play(["head", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok", *ending])
    answer = ask(client, peer.port)
    with pytest.raises(ConnectionLost):
        answer.read()
    for read in (answer.read, lambda: answer.readinto(memoryview(bytearray(1)))):
        with pytest.raises(ConnectionLost, match="closed before"):
            read()


def test_an_answer_closed_early_closes_its_connection(client: HttpClient, peer: Peer) -> None:
    peer.play(["head", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok", "wait"])
    with ask(client, peer.port) as answer:
        view = memoryview(bytearray(2))
        assert (answer.readinto(view[:0]), answer.readfully(view)) == (0, 2)
    assert client.idle() == 0
    with pytest.raises(ConnectionLost):
        answer.read()


# -- dead connections ------------------------------------------------------------------------------


def test_nobody_there_is_connect_failed(client: HttpClient) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(ConnectFailed, match="refused"):
        ask(client, port)
    with pytest.raises(ConnectFailed, match="no time"):
        ask(client, port, deadline=Deadline(0))
    with pytest.raises(ConnectFailed):
        client.request("a" * 70 + ".invalid", 1, "GET", "/", deadline=Deadline(1), stall=1)


def test_a_stale_pooled_connection_is_noticed_before_use(client: HttpClient, peer: Peer) -> None:
    peer.play(["head", OK], ["head", OK])
    assert ask(client, peer.port).read() == b"ok"
    link = client._pool._idle[("127.0.0.1", peer.port)][0][0]
    assert link.readable(PATIENCE)
    assert ask(client, peer.port, "POST", body=b"x").read() == b"ok"


@pytest.mark.parametrize(("repeatable", "body"), [(True, b"x"), (True, [b"x"]), (False, b"x")])
def test_a_pooled_connection_that_dies_under_the_request(
    client: HttpClient, peer: Peer, repeatable: bool, body: Any
) -> None:
    peer.play(["head", OK, "head"], ["head", OK])
    assert ask(client, peer.port).read() == b"ok"
    if repeatable and isinstance(body, bytes):
        assert ask(client, peer.port, "POST", body=body, repeatable=True).read() == b"ok"
        assert len(peer.received) == 3
    else:
        with pytest.raises(ConnectionLost):
            ask(client, peer.port, "POST", body=body, length=1, repeatable=repeatable)


def test_a_peer_that_dies_under_the_request_and_is_gone_then_may_have_done_it(client: HttpClient) -> None:
    dying = Peer().play(["head", OK, "head"])
    assert ask(client, dying.port).read() == b"ok"
    dying.listener.close()
    with pytest.raises(ConnectionLost, match="then cannot connect"):
        ask(client, dying.port, "POST", body=b"x", repeatable=True)
    assert len(dying.received) == 2


def test_a_fresh_connection_is_never_repeated(client: HttpClient, peer: Peer) -> None:
    peer.play(["head"], ["head", OK])
    with pytest.raises(ConnectionLost, match="without an answer"):
        ask(client, peer.port, repeatable=True)


def test_half_an_answer_is_not_repeated(client: HttpClient, peer: Peer) -> None:
    peer.play(["head", OK, "head", b"HTTP/1.1 2"], ["head", OK])
    assert ask(client, peer.port).read() == b"ok"
    with pytest.raises(ConnectionLost, match="within a head"):
        ask(client, peer.port, repeatable=True)


# -- time ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limits", [{"stall": 0.1}, {"deadline": Deadline(0.1)}])
@pytest.mark.parametrize("script", [["head", "wait"], ["head", b"HTTP/1.1 200", "wait"]])
def test_a_silent_peer_is_a_timeout_and_is_not_repeated(
    client: HttpClient, peer: Peer, limits: dict[str, Any], script: list[bytes | str | int]
) -> None:
    peer.play(["head", OK, *script])
    assert ask(client, peer.port).read() == b"ok"
    if "deadline" in limits:
        limits = {"deadline": Deadline(0.1)}
    with pytest.raises(PeerTimeout):
        ask(client, peer.port, repeatable=True, **limits)


def test_a_silent_body_is_a_timeout(client: HttpClient, peer: Peer) -> None:
    peer.play(["head", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok", "wait"])
    answer = ask(client, peer.port, stall=0.1)
    with pytest.raises(PeerTimeout):
        answer.read()


def test_a_peer_that_reads_nothing_is_a_timeout(client: HttpClient, peer: Peer) -> None:
    peer.play(["wait"])
    with pytest.raises(PeerTimeout):
        ask(client, peer.port, "POST", body=b"x" * 50_000_000, stall=0.1)


# -- early answers ---------------------------------------------------------------------------------

TOO_LARGE = b"HTTP/1.1 413 No\r\nContent-Length: 2\r\n\r\nno"


@pytest.mark.parametrize("ending", [["wait"], ["all"], []])
def test_an_early_answer_ends_the_sending(
    client: HttpClient, peer: Peer, ending: list[bytes | str | int]
) -> None:
    asked: list[int] = []

    def body() -> Iterator[bytes]:
        for n in range(1000):
            asked.append(n)
            yield b"x" * 1_000_000

    peer.play(["head", TOO_LARGE, *ending])
    answer = ask(client, peer.port, "POST", body=body(), length=1_000_000_000)
    assert (answer.status, answer.read(), client.idle()) == (413, b"no", 0)
    assert len(asked) < 100


def test_an_interim_answer_does_not_end_the_sending(client: HttpClient, peer: Peer) -> None:
    peer.play(["head", b"HTTP/1.1 102 Wait\r\n\r\n", 20_000_000, OK])
    assert ask(client, peer.port, "POST", body=b"x" * 20_000_000).read() == b"ok"


def test_expectations(client: HttpClient, peer: Peer, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    refusing = serve([Route("POST", "/x", echo, 10)])
    answer = ask(client, refusing.port, "POST", body=b"x" * 11, expect_continue=True)
    assert answer.status == 413
    monkeypatch.setattr("dfs.wire.client.CONTINUE_SECONDS", 0.05)
    peer.play(["head", b"HTTP/1.1 102 Wait\r\n\r\n", OK], ["head", "head", OK])
    assert ask(client, peer.port, "POST", body=b"x", expect_continue=True).read() == b"ok"
    assert ask(client, peer.port, "POST", body=b"body\r\n\r\n", expect_continue=True).read() == b"ok"
    assert peer.received[-1] == b"body"


# -- what cannot be sent ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"method": "G T"}, {"method": ""}, {"target": "x"}, {"target": "/a b"}, {"target": "/\r\n"}, {"target": "/é"}, {"target": "/#"},
        {"headers": [("A", "b\r\nC: d")]}, {"headers": [("A b", "c")]}, {"headers": [("A", "☃")]}, {"headers": [("host", "x")]},
        {"method": "POST", "body": b"x", "length": 2},
    ],
)  # fmt: skip
def test_what_cannot_be_sent_is_refused(client: HttpClient, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        ask(client, 1, **options)


@pytest.mark.parametrize("pieces", [[b"ab"], [b"abcd"], [b"abc", b"d"]])
def test_an_iterator_of_another_length_breaks_the_request(
    client: HttpClient, serve: Serve, pieces: list[bytes]
) -> None:
    with pytest.raises(ValueError, match="declared"):
        ask(client, serve([ECHO]).port, "POST", body=pieces, length=3)
    assert client.idle() == 0


def test_an_iterator_that_fails_breaks_the_request(client: HttpClient, serve: Serve) -> None:
    def body() -> Iterator[bytes]:
        yield b"abc"
        raise KeyError("source")

    bodies: list[object] = []

    def handler(request: Request) -> Response:
        try:
            bodies.append(request.body.read_all(100))
        except Exception as error:
            bodies.append(type(error).__name__)
        return Response.empty(204)

    server = serve([Route("POST", "/x", handler, None)])
    with pytest.raises(KeyError, match="source"):
        ask(client, server.port, "POST", body=body())
    server.drain(PATIENCE)
    assert bodies == ["BodyTruncated"]


def test_a_closed_client_keeps_no_connections(peer: Peer) -> None:
    client = HttpClient()
    peer.play(["head", OK, "head", OK, "wait"])
    assert ask(client, peer.port).read() == b"ok"
    client.close()
    assert client.idle() == 0


def test_ipv6_hosts_are_bracketed(serve: Serve, client: HttpClient) -> None:
    server = HttpServer(
        ("::1", 0), [Route("GET", "/x", lambda request: Response.text(200, str(request.host)))]
    )
    server.start()
    answer = client.request("::1", server.port, "GET", "/x", deadline=Deadline(PATIENCE), stall=PATIENCE)
    assert answer.read() == f"[::1]:{server.port}".encode()
    server.close()
