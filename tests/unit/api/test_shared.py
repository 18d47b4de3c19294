from __future__ import annotations

import threading
from typing import Any, cast

import pytest

from dfs.api.shared import SharedReads
from dfs.errors import Unavailable
from dfs.metadata.contract import MetadataStore


class Slow:
    """A store whose reads wait to be let go."""

    def __init__(self) -> None:
        self.began = threading.Semaphore(0)
        self.go = threading.Semaphore(0)
        self.reads = 0
        self.failing = False

    def get_file(self, file_id: str) -> Any:
        self.reads += 1
        number = self.reads
        self.began.release()
        assert self.go.acquire(timeout=60)
        if self.failing:
            raise Unavailable("away")
        return (file_id, number)


def test_who_comes_during_a_read_shares_the_next() -> None:
    store = Slow()
    shared = SharedReads(cast(MetadataStore, store))
    found: list[Any] = []

    def ask(file_id: str) -> threading.Thread:
        thread = threading.Thread(target=lambda: found.append(shared.get_file(file_id)))
        thread.start()
        return thread

    first = ask("a")
    assert store.began.acquire(timeout=60)
    others = [ask("a") for _ in range(20)]
    with_next = threading.Event()

    def all_waiting() -> bool:
        with shared._lock:
            return shared._files["a"].users == 21

    while not all_waiting():
        with_next.wait(0.001)
    assert store.reads == 1
    store.go.release()
    first.join(60)
    assert found == [("a", 1)]
    store.go.release()
    for thread in others:
        thread.join(60)
    assert found[1:] == [("a", 2)] * 20
    assert shared._files == {}


def test_a_failure_is_everybodys() -> None:
    store = Slow()
    store.failing = True
    shared = SharedReads(cast(MetadataStore, store))
    store.go.release()
    with pytest.raises(Unavailable):
        shared.get_file("a")
    assert shared._files == {}
    store.failing = False
    store.go.release()
    assert cast(Any, shared.get_file("a")) == ("a", 2)
