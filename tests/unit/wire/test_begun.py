"""Requests that are sent ahead, and answers that are asked for later or never."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from dfs.wire.client import BadAnswer, BegunRequest, ConnectionLost, HttpClient, PeerTimeout
from dfs.wire.deadline import Deadline
from tests.unit.wire.conftest import PATIENCE
from tests.unit.wire.test_client import OK, Peer, ask


@pytest.fixture
def peer() -> Iterator[Peer]:
    made = Peer()
    yield made
    made.close()


@pytest.fixture
def client() -> Iterator[HttpClient]:
    made = HttpClient()
    yield made
    made.close()


def begin(client: HttpClient, port: int, target: str = "/next", stall: float = PATIENCE) -> BegunRequest | None:
    return client.begin("127.0.0.1", port, target, headers=[("X", "y")], deadline=Deadline(PATIENCE), stall=stall)


def begun(client: HttpClient, port: int, stall: float = PATIENCE) -> BegunRequest:
    """A request on the connection that a first one has left idle."""
    ask(client, port).read()
    made = begin(client, port, stall=stall)
    assert made is not None
    assert client.idle() == 0
    return made


def test_the_request_is_sent_at_once_and_answered_later(client: HttpClient, peer: Peer) -> None:
    peer.play(["head", OK] * 4)
    for _ in range(2):
        answer = begun(client, peer.port).answer()
        assert (answer.status, answer.read()) == (200, b"ok")
        assert client.idle() == 1
    assert peer.received[1] == f"GET /next HTTP/1.1\r\nHost: 127.0.0.1:{peer.port}\r\nUser-Agent: dfs\r\nX: y".encode()


def test_without_an_idle_connection_nothing_is_sent(client: HttpClient, peer: Peer) -> None:
    assert begin(client, peer.port) is None
    assert peer.received == []


def test_an_idle_connection_that_was_closed_is_not_used(client: HttpClient, peer: Peer) -> None:
    peer.play(["head", OK])
    ask(client, peer.port).read()
    peer._threads[0].join(PATIENCE)
    made = begin(client, peer.port)
    if made is not None:  # the news of the end had not come yet
        with pytest.raises(ConnectionLost):
            made.answer()
    assert client.idle() == 0


def test_an_answer_that_is_not_wanted_takes_its_connection_with_it(client: HttpClient, peer: Peer) -> None:
    peer.play(["head", OK, "head", OK, "all"])
    made = begun(client, peer.port)
    made.close()
    made.close()
    peer._threads[0].join(PATIENCE)
    assert not peer._threads[0].is_alive()
    assert client.idle() == 0


def test_closing_after_the_answer_leaves_the_answer_alone(client: HttpClient, peer: Peer) -> None:
    peer.play(["head", OK, "head", OK])
    made = begun(client, peer.port)
    answer = made.answer()
    made.close()
    assert answer.read() == b"ok"
    assert client.idle() == 1


@pytest.mark.parametrize(
    ("script", "error"), [(["head", "reset"], ConnectionLost), (["head"], ConnectionLost), (["head", b"SSH-2\r\n\r\n"], BadAnswer)]
)  # fmt: skip
def test_what_goes_wrong_is_told_when_the_answer_is_asked_for(
    client: HttpClient, peer: Peer, script: list[bytes | str | int], error: type[Exception]
) -> None:
    peer.play(["head", OK, *script])
    made = begun(client, peer.port)
    with pytest.raises(error):
        made.answer()
    assert client.idle() == 0


def test_a_peer_that_says_nothing_is_given_up(client: HttpClient, peer: Peer) -> None:
    peer.play(["head", OK, "head", "wait"])
    made = begun(client, peer.port, stall=0.05)
    with pytest.raises(PeerTimeout):
        made.answer()


def test_a_request_that_cannot_be_sent_as_it_is(client: HttpClient, peer: Peer) -> None:
    with pytest.raises(ValueError, match="cannot be sent"):
        begin(client, peer.port, target="no path")


def test_a_connection_that_breaks_while_the_request_is_sent_is_not_used(client: HttpClient, peer: Peer) -> None:
    peer.play(["head", OK, "wait"])
    ask(client, peer.port).read()
    (idle,) = client._pool._idle["127.0.0.1", peer.port]
    idle[0].sock.shutdown(socket.SHUT_WR)  # what is sent now fails, and nothing has come
    assert begin(client, peer.port) is None
    assert client.idle() == 0
