"""dfs.node.imds against a strict IMDSv2, and against what is not one."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from dfs.errors import StartError
from dfs.node import imds
from dfs.node.imds import Ec2Facts
from tests.support.imds import ImdsServer

FACTS = {"instance-id": "i-0123456789abcdef0", "local-ipv4": "10.1.2.3", "placement/availability-zone": "eu-west-1b"}
META = "/latest/meta-data/"


def test_the_facts_are_asked_for_with_a_token() -> None:
    with ImdsServer(FACTS) as server:
        assert imds.ask(server.endpoint) == Ec2Facts("i-0123456789abcdef0", "10.1.2.3", "eu-west-1b")
    assert server.calls == [
        ("PUT", "/latest/api/token", 200),
        ("GET", META + "instance-id", 200),
        ("GET", META + "local-ipv4", 200),
        ("GET", META + "placement/availability-zone", 200),
    ]


def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with ImdsServer(FACTS) as server:
        assert imds.ask(server.endpoint) is not None


def test_what_the_service_does_not_know_is_none() -> None:
    with ImdsServer({}) as server:
        assert imds.ask(server.endpoint) == Ec2Facts(None, None, None)


@pytest.mark.parametrize("status", [403, 404, 500, 503])
def test_without_a_token_this_is_not_ec2(status: int) -> None:
    with ImdsServer(FACTS, broken={"/latest/api/token": status}) as server:
        assert imds.ask(server.endpoint) is None
    assert len(server.calls) == 1, "nothing is asked without a token"


@pytest.mark.parametrize(("name", "status"), [("instance-id", 500), ("local-ipv4", 401), ("instance-id", 503)])
def test_a_service_that_gives_a_token_and_then_fails_stops_the_start(name: str, status: int) -> None:
    with (
        ImdsServer(FACTS, broken={META + name: status}) as server,
        pytest.raises(StartError, match=rf"not {name} \(it answered {status}\); start again, or set NODE_ID"),
    ):
        imds.ask(server.endpoint)


@pytest.mark.parametrize(
    ("name", "text"),
    [("instance-id", "<html>"), ("instance-id", "a b"), ("local-ipv4", "host"), ("local-ipv4", "300.1.1.1"),
     ("placement/availability-zone", "x" * 65), ("placement/availability-zone", "")],
)  # fmt: skip
def test_a_fact_that_cannot_be_one_stops_the_start(name: str, text: str) -> None:
    with ImdsServer(FACTS | {name: text}) as server, pytest.raises(StartError, match=name):
        imds.ask(server.endpoint)


@contextmanager
def listener(answer: bytes | None) -> Iterator[str]:
    """Something that is no metadata service: sends `answer` to whoever connects and hangs up, or
    (None) never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held: list[socket.socket] = []

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                held.append(connection)
                if answer is not None:
                    connection.recv(4096)
                    connection.sendall(answer)
                    connection.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
        for connection in held:
            connection.close()


@pytest.mark.parametrize(
    "answer",
    [b"", b"220 mail ready\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", b"HTTP/1.1 200 OK\r\n\r\n",
     b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n\xc3\xa4"],
)  # fmt: skip
def test_what_speaks_no_imds_is_not_ec2(answer: bytes) -> None:
    with listener(answer) as endpoint:
        assert imds.ask(endpoint) is None


def test_what_never_answers_is_not_ec2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imds, "TOKEN_SECONDS", 0.05)
    with listener(None) as endpoint:
        assert imds.ask(endpoint) is None


def test_where_nobody_listens_is_not_ec2() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert imds.ask(f"http://127.0.0.1:{port}") is None


def test_a_service_that_hangs_after_the_token_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imds, "FACT_SECONDS", 0.05)
    go_on = threading.Event()

    class Hanging(ImdsServer):
        def answer(self, method: str, path: str, headers: object) -> tuple[int, str]:
            if path == META + "local-ipv4":
                go_on.wait()
            return super().answer(method, path, headers)  # type: ignore[arg-type]

    with Hanging(FACTS) as server:
        with pytest.raises(StartError, match="local-ipv4"):
            imds.ask(server.endpoint)
        go_on.set()
