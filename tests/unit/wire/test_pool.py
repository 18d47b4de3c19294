from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest

from dfs.wire.deadline import Deadline
from dfs.wire.link import Link
from dfs.wire.pace import Due
from dfs.wire.pool import IdlePool

A, B = ("a", 1), ("b", 1)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def link() -> Iterator[Callable[[], Link]]:
    ends: list[socket.socket] = []

    def make() -> Link:
        ours, theirs = socket.socketpair()
        ends.extend((ours, theirs))
        return Link(ours, Due(Deadline(1), 1))

    yield make
    for end in ends:
        end.close()


def closed(link: Link) -> bool:
    return link.sock.fileno() == -1


def test_the_one_used_last_comes_first_and_the_oldest_makes_room(link: Callable[[], Link]) -> None:
    pool = IdlePool(2, 60)
    links = [link() for _ in range(3)]
    for each in links:
        pool.put(A, each)
    assert closed(links[0]) and pool.count() == 2
    assert [pool.take(A), pool.take(A), pool.take(A), pool.take(B)] == [links[2], links[1], None, None]


def test_old_connections_are_closed_for_every_peer(link: Callable[[], Link]) -> None:
    clock = Clock()
    pool = IdlePool(8, 60, clock)
    links = [link() for _ in range(4)]
    pool.put(A, links[0])
    clock.now = 20
    pool.put(B, links[1])
    clock.now = 70
    pool.put(B, links[2])
    assert closed(links[0]) and not closed(links[1]) and pool.count() == 2
    clock.now = 85
    assert pool.take(B) is links[2]
    assert pool.take(B) is None and closed(links[1])
    pool.put(A, links[3])
    pool.drop(A)
    assert closed(links[3])


def test_what_has_something_to_say_is_not_used(link: Callable[[], Link]) -> None:
    pool = IdlePool(8, 60)
    ours, theirs = socket.socketpair()
    pool.put(A, Link(ours, Due(Deadline(1), 1)))
    theirs.close()
    assert pool.take(A) is None and ours.fileno() == -1


def test_after_close_nothing_is_kept(link: Callable[[], Link]) -> None:
    pool = IdlePool(8, 60)
    kept, late = link(), link()
    pool.put(A, kept)
    pool.close()
    pool.put(A, late)
    assert closed(kept) and closed(late) and pool.count() == 0
