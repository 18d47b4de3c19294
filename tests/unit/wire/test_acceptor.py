"""dfs.wire.acceptor among several: acceptors of one process, each with a selector, on one socket."""

from __future__ import annotations

import errno
import selectors
import socket
from collections.abc import Iterator

import pytest

from dfs.wire import listening
from dfs.wire.acceptor import AT_ONCE, PAUSE_SECONDS, Acceptor
from dfs.wire.balance import HELD_BACK_SECONDS, Balance
from dfs.wire.listening import Watch, queued, waits


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as server:
        yield server


class Party:
    """One of several processes; `turn` is what its poller does."""

    def __init__(self, listener: socket.socket, balance: Balance, number: int) -> None:
        self.selector = selectors.DefaultSelector()
        self.held: list[socket.socket] = []
        seat = balance.seat(number)
        self.acceptor = Acceptor(listener.dup(), self.selector, lambda sock, _: self.held.append(sock), seat)

    def turn(self, now: float = 0.0, room: int = 1000) -> None:
        self.acceptor.update(room, now, len(self.held))
        for key, _ in self.selector.select(0):
            key.data()
        self.acceptor.update(room, now, len(self.held))

    def close(self) -> None:
        for sock in self.held:
            sock.close()
        self.acceptor.close()
        self.acceptor.close()
        self.selector.close()


@pytest.fixture
def parties(listener: socket.socket) -> Iterator[list[Party]]:
    balance = Balance(2)
    made = [Party(listener, balance, number) for number in range(2)]
    for party in made:
        party.turn()
    yield made
    for party in made:
        party.close()


def connect(listener: socket.socket, count: int) -> list[socket.socket]:
    return [socket.create_connection(listener.getsockname()) for _ in range(count)]


def counts(parties: list[Party]) -> list[int]:
    return [len(party.held) for party in parties]


def test_connections_that_come_one_by_one_are_shared_out(listener: socket.socket, parties: list[Party]) -> None:
    for _ in range(8):
        connect(listener, 1)
        for party in parties:
            party.turn()
    assert counts(parties) == [4, 4]


def test_a_burst_is_shared_out_in_one_go_each(listener: socket.socket, parties: list[Party]) -> None:
    connect(listener, 40)
    parties[0].turn()
    if listening._TCP_INFO is not None:
        assert counts(parties) == [22, 0]
    while sum(counts(parties)) < 40:
        for party in parties:
            party.turn()
    assert max(counts(parties)) <= 22


def test_a_long_queue_is_taken_in_pieces(listener: socket.socket, parties: list[Party]) -> None:
    connect(listener, 3 * AT_ONCE)
    parties[0].turn()
    assert counts(parties)[0] <= AT_ONCE
    for _ in range(10):
        for party in parties:
            party.turn()
    assert sum(counts(parties)) == 3 * AT_ONCE


def test_nothing_starves_when_the_other_hangs(listener: socket.socket, parties: list[Party]) -> None:
    connect(listener, 1)
    parties[0].turn()
    connect(listener, 5)
    assert waits(listener)
    assert queued(listener) in (1, 5)
    now = 1.0
    while counts(parties)[0] < 6:
        now += HELD_BACK_SECONDS
        assert now < 1.5, "within a few looks"
        parties[0].turn(now)
    assert not waits(listener)
    parties[1].turn(now)
    connect(listener, 3)
    parties[0].turn(now)
    parties[1].turn(now)
    assert counts(parties) == [6, 3], "the other is back"


def test_a_wake_up_that_went_to_one_who_hangs_is_made_good_at_the_next_look(
    listener: socket.socket, parties: list[Party]
) -> None:
    one, other = parties
    connect(listener, 1)
    one.acceptor.update(1000, one.acceptor.next_due() or 0.0, 0)
    assert counts(parties) == [1, 0]


def test_who_is_full_leaves_it_to_the_other(listener: socket.socket, parties: list[Party]) -> None:
    parties[1].turn(room=0)
    connect(listener, 4)
    parties[0].turn()
    assert counts(parties) == [4, 0]


def test_who_can_take_nothing_does_not_look_either(
    listener: socket.socket, parties: list[Party], monkeypatch: pytest.MonkeyPatch
) -> None:
    acceptor = parties[0].acceptor
    parties[0].turn(10.0, room=0)
    assert acceptor.next_due() is None  # not a time that has passed: the poller would not wait at all
    parties[0].turn(20.0)
    assert acceptor.next_due() == 20.0 + HELD_BACK_SECONDS

    def no_descriptors(_: socket.socket) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    connect(listener, 1)
    monkeypatch.setattr(socket.socket, "accept", no_descriptors)
    parties[0].turn(30.0)
    assert acceptor.next_due() == 30.0 + PAUSE_SECONDS


def test_who_finishes_takes_all_that_is_there(listener: socket.socket, parties: list[Party]) -> None:
    connect(listener, 6)
    parties[0].acceptor.finish()
    parties[0].turn()
    assert counts(parties) == [6, 0]
    assert parties[0].acceptor.closed
    assert parties[0].acceptor.next_due() is None
    connect(listener, 2)
    parties[1].turn()
    assert counts(parties) == [6, 2], "who is gone is not waited for"


def test_a_poke_after_the_drain_began_takes_what_is_there(listener: socket.socket, parties: list[Party]) -> None:
    parties[0].acceptor.finish()
    connect(listener, 1)
    parties[0].acceptor._poked()
    assert counts(parties) == [1, 0]


def test_where_the_system_tells_less(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "_TCP_INFO", None)
    assert queued(listener) == 1
    monkeypatch.delattr("select.EPOLLEXCLUSIVE", raising=False)
    called: list[bool] = []
    with selectors.DefaultSelector() as selector:
        watch = Watch(selector, listener, lambda: called.append(True), shared=True)
        watch.start()
        watch.start()
        connect(listener, 1)
        for key, _ in selector.select(10):
            key.data()
        watch.close()
        watch.close()
        assert (called, len(selector.get_map())) == ([True], 0)
