"""Notes: to whom, how many at once, and what happens to those that cannot be sent."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from dfs import errors
from dfs.cluster import notes as module
from dfs.cluster.notes import NoteSender
from dfs.model import AdminState, ChunkReplica, Head
from tests.unit.cluster.fakes import FILE, Cluster, Inline, refuse

HEAD = Head("default", "a/b", FILE, 7, 10, "0" * 64, "text/plain", 4, 3, 1)


class Rows:
    """The rows of chunk 0; `failure` is raised instead."""

    def __init__(self, *names: str) -> None:
        self.names = names
        self.failure: Exception | None = None

    def replicas(self, file_id: str, first: int, last: int) -> Iterator[ChunkReplica]:
        assert (first, last) == (0, 0)
        if self.failure is not None:
            raise self.failure
        return iter([ChunkReplica(file_id, 0, name, "0" * 64, 1, "primary", 1) for name in self.names])


def sender(cluster: Cluster, rows: Rows | None = None, **more: Any) -> NoteSender:
    store: Any = rows or Rows("a", "b")
    more.setdefault("senders", Inline())
    return NoteSender(cluster.membership, cluster.calls, store, now_ms=lambda: 99, clock=cluster.clock, **more)


def paths(cluster: Cluster, name: str) -> list[str]:
    return [note["path"] for note in cluster[name].taken_notes]


def test_what_a_note_says() -> None:
    cluster = Cluster("a", "b", "c")
    it = sender(cluster)
    it.committed(HEAD, op_id="op")
    it.moved(HEAD, op_id=None)
    it.deleted(HEAD, op_id=None, purged=False)
    it.deleted(HEAD, op_id=None, purged=True)
    it.round()
    notes = cluster["a"].taken_notes
    assert notes[0] == {
        "op_id": "op", "op": "put", "bucket": "default", "path": "a/b", "file_id": FILE, "version": 7, "size": 10,
        "chunk_count": 3, "chunk_size": 4, "sha256": "0" * 64, "content_type": "text/plain", "state": "committed",
        "at": 99,
    }  # fmt: skip
    assert [(note["op"], note["state"]) for note in notes] == [
        ("put", "committed"), ("move", "committed"), ("trash", "trashed"), ("purge", "deleting"),
    ]  # fmt: skip
    assert cluster["b"].taken_notes == notes
    assert cluster["a"].calls.count("/notes") == 1, "sent together"
    assert cluster["c"].taken_notes == []
    assert it.flush(0)


def test_known_nodes_are_not_looked_up() -> None:
    cluster = Cluster("a", "b", "c")
    it = sender(cluster, Rows())
    it.committed(HEAD, op_id=None, nodes=["c"])
    it.round()
    assert paths(cluster, "c") == ["a/b"]


def test_a_node_that_is_away_gets_them_later_in_order() -> None:
    cluster = Cluster("a", "b")
    it = sender(cluster)
    cluster["a"].down = True
    for number in range(600):
        it.committed(replace(HEAD, path=str(number)), op_id=None)
    it.round()
    assert cluster.suspects() == {"a"}
    assert len(paths(cluster, "b")) == 600 and not it.flush(0)
    cluster["a"].down = False
    it.round()
    assert paths(cluster, "a") == [], "not at once again"
    cluster.clock.now += 2
    it.round()
    assert paths(cluster, "a") == [str(number) for number in range(600)]
    assert it.flush(0)


@pytest.mark.parametrize("why", ["down", "busy", "suspect"])
def test_a_stop_does_not_wait_for_nodes_that_do_not_answer(why: str) -> None:
    cluster = Cluster("a", "b")
    if why == "busy":
        cluster["a"].trouble = refuse(errors.Busy("no"), "/notes")
    else:
        cluster["a"].down = True
    it = sender(cluster)
    if why == "suspect":
        cluster.membership.report_failure("a", "a call failed")
    it.committed(HEAD, op_id=None)
    it.round()
    it.stop(seconds=3600)
    assert paths(cluster, "b") == ["a/b"] and not it.flush(0)


def test_the_queue_is_bounded_and_the_oldest_go_first() -> None:
    cluster = Cluster("a", "b")
    cluster["a"].trouble = refuse(errors.Busy("no"), "/notes")
    rows = Rows("a")
    it = sender(cluster, rows, most=10)
    for number in range(30):
        it.committed(replace(HEAD, path=str(number)), op_id=None)
    assert it.dropped == 20
    it.round()
    for number in range(30, 35):
        it.committed(replace(HEAD, path=str(number)), op_id=None)
    it._resolve()
    assert (it.dropped, it._queued) == (25, 10)
    cluster["a"].trouble = lambda *_: None
    cluster.clock.now += 60
    it.round()
    assert paths(cluster, "a") == [str(number) for number in range(25, 35)]


def test_nodes_that_do_not_answer_do_not_overfill_it() -> None:
    cluster = Cluster("a", "b")
    for name in "ab":
        cluster[name].trouble = refuse(errors.Busy("no"), "/notes")
    it = sender(cluster, most=10)
    for number in range(20):
        it.committed(replace(HEAD, path=str(number)), op_id=None)
        it.round()
    assert it._queued == 10 and it.dropped == 30


def test_notes_not_addressed_yet_count_too() -> None:
    cluster, rows = Cluster("a"), Rows("a")
    cluster["a"].trouble = refuse(errors.Busy("no"), "/notes")
    it = sender(cluster, rows, most=4)
    it.committed(HEAD, op_id=None)
    it.round()
    rows.failure = errors.Unavailable("away")
    for _ in range(9):
        it.committed(HEAD, op_id=None)
    assert (it._queued, it.dropped) == (4, 6)


def test_notes_for_nodes_that_are_gone_are_dropped() -> None:
    cluster = Cluster("a", "b")
    cluster.registry.change("b", admin_state=AdminState.DECOMMISSIONED)
    cluster.clock.now += 10
    cluster.membership.refresh()
    it = sender(cluster, Rows("b", "unknown"))
    it.committed(HEAD, op_id=None)
    it.round()
    assert it.flush(0) and paths(cluster, "b") == []


def test_metadata_that_is_away_is_asked_again() -> None:
    cluster, rows = Cluster("a"), Rows("a")
    it = sender(cluster, rows)
    rows.failure = errors.Unavailable("away")
    it.committed(HEAD, op_id=None)
    it.round()
    assert not it.flush(0)
    rows.failure = None
    it.round()
    assert it.flush(0) and paths(cluster, "a") == ["a/b"]


def test_notes_that_are_refused_are_not_sent_for_ever() -> None:
    cluster = Cluster("a")
    cluster["a"].trouble = refuse(errors.BadRequest("a bug"), "/notes")
    it = sender(cluster, Rows("a"))
    it.committed(HEAD, op_id=None)
    it.round()
    assert it.flush(0)


def test_bugs_lose_a_note_and_nothing_else() -> None:
    cluster, rows = Cluster("a"), Rows("a")
    it = sender(cluster, rows)
    rows.failure = ZeroDivisionError()
    it.committed(HEAD, op_id=None)
    with pytest.raises(ZeroDivisionError):
        it.round()
    rows.failure = None
    cluster["a"].trouble = lambda *_: 1 // 0  # type: ignore[return-value]
    it.committed(HEAD, op_id=None)
    it.round()
    assert it.flush(0)
    cluster["a"].trouble = lambda *_: None
    cluster.clock.now += 60
    it.committed(HEAD, op_id=None)
    it.round()
    assert paths(cluster, "a") == ["a/b"]


def test_the_thread_sends_survives_a_bug_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GATHER", 0.001)
    cluster, rows = Cluster("a"), Rows("a")
    it = sender(cluster, rows, senders=None)
    failed = threading.Event()
    real = it.round

    def once() -> None:
        monkeypatch.setattr(it, "round", real)
        failed.set()
        raise ZeroDivisionError

    monkeypatch.setattr(it, "round", once)
    it.start()
    it.committed(HEAD, op_id=None)
    assert failed.wait(30)
    assert it.flush(30)
    assert paths(cluster, "a") == ["a/b"]
    it.stop()
    it.committed(HEAD, op_id=None)
    it.round()
    assert it._thread is not None and not it._thread.is_alive()
