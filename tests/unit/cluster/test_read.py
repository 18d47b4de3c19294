"""Verified reads over nodes that fail in every way they can; rows are real, in SQLite."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dfs import errors
from dfs.cluster.calls import PIECE
from dfs.cluster.read import ChunkSource, PieceStream
from dfs.cluster.rows import PAGE, PATIENCE, RowReader
from dfs.metadata.sqlite import SqliteStore
from dfs.metadata.steps import ChangeFile, PutFile, PutReplica, RemoveReplica
from dfs.model import AdminState, ChunkReplica, FileRecord, FileState, chunk_count
from tests.unit.cluster.fakes import FILE, Clock, Cluster, refuse, sha

CHUNK = 2 * PIECE + 1000


class Stored:
    """A committed file of `data` on the nodes of a fake cluster: chunk i on all of `names`."""

    def __init__(self, path: Path, data: bytes, *names: str, chunk_size: int = CHUNK) -> None:
        self.store = SqliteStore(str(path / "meta.db"))
        self.store.create()
        self.cluster = Cluster(*names)
        self.data, self.chunk_size = data, chunk_size
        self.bad: list[tuple[str, int]] = []
        self.clock = Clock()
        count = chunk_count(len(data), chunk_size)
        record = FileRecord(
            FILE, FileState.COMMITTED, "default", "p", len(data), chunk_size, count, "x", None, "p", 1, 1, 1
        )
        self.store.transact([PutFile(record)])
        for index in range(count):
            chunk = data[index * chunk_size : (index + 1) * chunk_size]
            for name in names:
                self.cluster[name].chunks[FILE, index] = chunk
            self.store.add_replicas(FILE, [self.row(index, name, chunk) for name in names])
        self.source = ChunkSource(
            self.cluster.membership,
            self.cluster.calls,
            self.store,
            keep_rows=30,
            on_bad=lambda file_id, index: self.bad.append((file_id, index)),
            clock=self.clock,
        )

    def row(self, index: int, name: str, data: bytes) -> ChunkReplica:
        return ChunkReplica(FILE, index, name, sha(data), len(data), "primary", 1)

    def all(self, first: int = 0, last: int | None = None) -> bytes:
        return taken(self.source.stream(FILE, len(self.data), self.chunk_size, first, last))

    def first_asked(self, index: int = 0) -> str:
        """The node that a read of the chunk begins with."""
        rows = RowReader(self.store, 0).chunk(FILE, index)
        assert rows is not None
        return self.source._order(FILE, index, rows, None)[0].node_id


def taken(stream: PieceStream) -> bytes:
    found = b"".join(bytes(piece) for piece in stream)
    assert len(found) == stream.length
    stream.close()
    return found


@pytest.fixture
def data(rng: random.Random) -> bytes:
    return rng.randbytes(3 * CHUNK + 77)


@pytest.fixture
def stored(tmp_path: Path, data: bytes) -> Iterator[Stored]:
    made = Stored(tmp_path, data, "a", "b", "c")
    yield made
    assert all(answer.closed for answer in made.cluster.network.answers)
    made.source.close()
    made.store.close()


def test_a_whole_file_and_every_kind_of_range(stored: Stored, data: bytes, rng: random.Random) -> None:
    assert stored.all() == data
    edges = [0, 1, PIECE - 1, PIECE, PIECE + 1, CHUNK - 1, CHUNK, CHUNK + 1, len(data) - 1]
    ranges = [(a, b) for a in edges for b in edges if a <= b]
    ranges += [tuple(sorted((rng.randrange(len(data)), rng.randrange(len(data))))) for _ in range(30)]  # type: ignore[misc]
    for first, last in ranges:
        assert stored.all(first, last) == data[first : last + 1]


def test_one_chunk_and_a_range_of_it(stored: Stored, data: bytes) -> None:
    stream = stored.source.read(FILE, 1)
    assert (stream.length, stream.checksum) == (CHUNK, sha(data[CHUNK : 2 * CHUNK]))
    assert taken(stream) == data[CHUNK : 2 * CHUNK]
    assert taken(stored.source.read(FILE, 1, 5, PIECE + 5)) == data[CHUNK + 5 : CHUNK + PIECE + 6]
    assert taken(stored.source.read(FILE, 1, 5, 4)) == b""
    for first, last in [(0, CHUNK), (-1, 3), (5, 3)]:
        with pytest.raises(errors.RangeNotSatisfiable):
            stored.source.read(FILE, 1, first, last)


def test_only_the_pieces_of_the_range_are_asked_for(stored: Stored) -> None:
    taken(stored.source.read(FILE, 0, PIECE + 1, PIECE + 2))
    asked = [pieces for node in stored.cluster.network.nodes.values() for pieces in node.pieces_asked]
    assert asked == ["1-1"]


def test_reads_spread_over_the_replicas(tmp_path: Path) -> None:
    stored = Stored(tmp_path, bytes(300), "a", "b", "c", chunk_size=1)
    assert stored.all() == bytes(300)
    calls = [node.calls.count("/get-chunk") for node in stored.cluster.network.nodes.values()]
    assert calls == [100, 100, 100]


def test_the_named_node_is_asked_and_one_row_looked_up(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored.store, "replicas", None)
    for name in "abc":
        taken(stored.source.read(FILE, 2, prefer=name))
        assert stored.cluster[name].calls.count("/get-chunk") == 1


@pytest.mark.parametrize("trouble", ["down", "unknown", "lost", "missing", "gone"])
def test_when_the_named_node_cannot_another_answers(stored: Stored, data: bytes, trouble: str) -> None:
    node = stored.cluster["a"]
    node.down, node.loses_answers = trouble == "down", trouble == "lost"
    if trouble == "missing":
        del node.chunks[FILE, 2]
    if trouble == "gone":
        node.erased.add(FILE)
    prefer = "z" if trouble == "unknown" else "a"
    assert taken(stored.source.read(FILE, 2, prefer=prefer)) == data[2 * CHUNK : 3 * CHUNK]
    assert bool(stored.bad) == (trouble in ("missing", "gone"))
    assert stored.cluster.suspects() == ({"a"} if trouble in ("down", "lost") else set())


@pytest.mark.parametrize("cut", [0, 1, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, CHUNK - 1])
def test_a_connection_that_breaks_anywhere_is_not_noticed_by_the_reader(stored: Stored, data: bytes, cut: int) -> None:
    stored.cluster[stored.first_asked()].cut = cut
    assert taken(stored.source.read(FILE, 0)) == data[:CHUNK]
    resumed = [node.pieces_asked for node in stored.cluster.network.nodes.values() if node.cut is None]
    assert [asked for pieces in resumed for asked in pieces] == [f"{cut // PIECE}-2"]


@pytest.mark.parametrize("flip", [0, PIECE - 1, PIECE, CHUNK - 1])
def test_no_byte_of_a_piece_that_does_not_verify_is_passed_on(stored: Stored, data: bytes, flip: int) -> None:
    stored.cluster[stored.first_asked()].flip = flip
    assert taken(stored.source.read(FILE, 0)) == data[:CHUNK]
    assert stored.bad == [(FILE, 0)]
    assert stored.cluster.suspects() == set()


def test_a_replica_with_other_bytes_than_its_row_says_is_never_used(stored: Stored, data: bytes) -> None:
    stored.cluster[stored.first_asked()].chunks[FILE, 0] = b"other bytes of this chunk"
    assert taken(stored.source.read(FILE, 0)) == data[:CHUNK]
    assert stored.bad == [(FILE, 0)]


def test_a_bad_replica_is_reported_once_in_a_while(stored: Stored) -> None:
    del stored.cluster[stored.first_asked()].chunks[FILE, 0]
    for _ in range(5):
        taken(stored.source.read(FILE, 0))
    assert len(stored.bad) == 1
    stored.clock.now += 3600
    taken(stored.source.read(FILE, 0))
    assert len(stored.bad) == 2


def test_what_is_remembered_of_reports_is_bounded(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dfs.cluster.reports._MOST", 5)
    for index in range(20):
        stored.source._reports.bad_replica(FILE, index, "a", errors.NotFound("none"))
    assert len(stored.bad) == 20
    assert len(stored.source._reports._told) == 5


def test_a_report_that_fails_disturbs_no_reader(stored: Stored, data: bytes) -> None:
    def broken(file_id: str, index: int) -> None:
        raise ZeroDivisionError

    stored.source._reports._on_bad = broken
    del stored.cluster[stored.first_asked()].chunks[FILE, 0]
    assert taken(stored.source.read(FILE, 0)) == data[:CHUNK]


def test_suspects_come_last_and_still_serve(stored: Stored, data: bytes) -> None:
    first = stored.first_asked()
    stored.cluster.membership.report_failure(first, "reset")
    assert taken(stored.source.read(FILE, 0)) == data[:CHUNK]
    assert "/get-chunk" not in stored.cluster[first].calls
    for name in "abc":
        stored.cluster.membership.report_failure(name, "reset")
    assert taken(stored.source.read(FILE, 0)) == data[:CHUNK]


def test_a_decommissioned_or_unregistered_node_is_not_asked(stored: Stored, data: bytes) -> None:
    stored.cluster.registry.change("a", admin_state=AdminState.DECOMMISSIONED)
    del stored.cluster.registry.nodes["b"]
    stored.cluster.clock.now += 10
    stored.cluster.membership.refresh()
    assert stored.all() == data
    assert [name for name in "abc" if "/get-chunk" in stored.cluster[name].calls] == ["c"]


def test_when_no_replica_can_serve_the_chunk_is_named(stored: Stored) -> None:
    for name in "abc":
        stored.cluster[name].down = True
    with pytest.raises(errors.NoReplica, match=f"chunk 1 of {FILE} .* a, b, c"):
        stored.source.read(FILE, 1)
    with pytest.raises(errors.NoReplica, match="chunk 0"):
        stored.all()


def test_rows_that_moved_are_read_again(stored: Stored, data: bytes) -> None:
    stored.all()
    for name in "abc":
        del stored.cluster[name].chunks[FILE, 0]
    moved = Cluster("a", "b", "c", "d")
    stored.cluster.registry.nodes["d"] = moved.registry.nodes["d"]
    stored.cluster.network.nodes["d"] = stored.cluster.network.at["d.test"] = moved["d"]
    stored.cluster.clock.now += 10
    stored.cluster.membership.refresh()
    moved["d"].chunks[FILE, 0] = data[:CHUNK]
    stored.store.transact(
        [PutReplica(stored.row(0, "d", data[:CHUNK])), *(RemoveReplica(FILE, 0, name) for name in "abc")]
    )
    assert stored.all() == data


def test_rows_are_remembered_for_a_while(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    taken(stored.source.read(FILE, 0))
    real, reads = stored.store.replicas, []
    monkeypatch.setattr(stored.store, "replicas", lambda *args: reads.append(args) or real(*args))
    taken(stored.source.read(FILE, 0))
    assert reads == []
    stored.clock.now += 31
    taken(stored.source.read(FILE, 0))
    assert reads == [(FILE, 0, 0)]


@pytest.mark.parametrize("how", ["record gone", "deleting"])
def test_a_file_that_is_being_erased_is_not_found(stored: Stored, how: str) -> None:
    stored.all()
    for name in "abc":
        stored.cluster[name].erased.add(FILE)
    changes = {"state": FileState.DELETING, "touched_at": 5}
    stored.store.transact([ChangeFile(FILE, frozenset({FileState.COMMITTED}), changes)])
    if how == "record gone":
        stored.store.transact([RemoveReplica(FILE, 0, name) for name in "abc"])
    with pytest.raises(errors.NotFound):
        stored.all()
    with pytest.raises(errors.NotFound):
        stored.source.read(FILE, 0, prefer="a")


def test_a_chunk_of_a_living_file_without_rows_is_unavailable_not_missing(stored: Stored) -> None:
    stored.store.transact([RemoveReplica(FILE, 1, name) for name in "abc"])
    with pytest.raises(errors.NoReplica, match="chunk 1"):
        stored.source.read(FILE, 1)
    stream = stored.source.stream(FILE, len(stored.data), CHUNK)
    with pytest.raises(errors.NoReplica, match="chunk 1"):
        taken(stream)


def test_rows_that_contradict_each_other_are_an_error(stored: Stored) -> None:
    stored.store.transact([PutReplica(stored.row(1, "b", b"other"))])
    assert taken(stored.source.read(FILE, 0))
    with pytest.raises(errors.CorruptChunk, match="contradict"):
        stored.source.read(FILE, 1)


def test_rows_that_change_to_other_bytes_under_a_reader_are_an_error(stored: Stored) -> None:
    taken(stored.source.read(FILE, 1))
    for name in "abc":
        stored.cluster[name].down = True
    stored.store.transact([PutReplica(stored.row(1, name, b"other")) for name in "abc"])
    with pytest.raises(errors.CorruptChunk, match="other bytes"):
        stored.source.read(FILE, 1)


def test_a_chunk_of_the_wrong_length_for_its_file_is_an_error(stored: Stored) -> None:
    with pytest.raises(errors.CorruptChunk, match="length"):
        taken(stored.source.stream(FILE, len(stored.data), CHUNK + 1))


def test_a_node_that_cuts_off_a_slow_reader_is_not_suspected(stored: Stored, data: bytes) -> None:
    stored.cluster[stored.first_asked()].cut = PIECE
    stream = stored.source.read(FILE, 0)
    found = bytes(next(stream))
    stored.clock.now += 60
    assert found + b"".join(bytes(piece) for piece in stream) == data[:CHUNK]
    assert stored.cluster.suspects() == set()


def test_a_reader_that_leaves_early_leaves_nothing_open(stored: Stored) -> None:
    stream = stored.source.read(FILE, 0)
    next(stream)
    stream.close()
    stream.close()
    assert list(stream) == []
    unread = stored.source.stream(FILE, len(stored.data), CHUNK)
    unread.close()


def test_every_replica_cut_at_another_place_still_makes_a_whole(stored: Stored, data: bytes) -> None:
    for name, cut in zip("abc", (PIECE, PIECE + 9, PIECE), strict=True):
        stored.cluster[name].cut = cut
    assert taken(stored.source.read(FILE, 0)) == data[:CHUNK]


def test_a_busy_node_is_passed_over_without_blame(stored: Stored, data: bytes) -> None:
    stored.cluster[stored.first_asked()].trouble = refuse(errors.Busy("no"), "/get-chunk")
    assert taken(stored.source.read(FILE, 0)) == data[:CHUNK]
    assert (stored.bad, stored.cluster.suspects()) == ([], set())


# --- rows ----------------------------------------------------------------------------------------------


def test_rows_of_a_large_file_are_read_by_pages_and_the_cache_is_bounded(tmp_path: Path) -> None:
    count = 3 * PAGE
    stored = Stored(tmp_path, bytes(count), "a", chunk_size=1)
    asked: list[Any] = []
    real = stored.store.replicas

    class Counting:
        def replicas(self, *args: Any) -> Iterator[ChunkReplica]:
            asked.append(args[1:])
            return real(*args)

    reader = RowReader(Counting(), 30, most=PAGE + 10, clock=stored.clock)  # type: ignore[arg-type]
    for index in range(count):
        assert reader.chunk(FILE, index, count - 1) is not None
    assert asked == [(0, PAGE - 1), (PAGE, 2 * PAGE - 1), (2 * PAGE, count - 1)]
    assert len(reader._cache) == PAGE + 10
    assert reader.chunk(FILE, count + 5) is None


def test_a_read_that_has_begun_waits_for_metadata_and_a_new_one_does_not(stored: Stored) -> None:
    failures = [errors.Unavailable("metadata is away")] * 3

    class Away:
        def replicas(self, *arguments: object) -> Iterator[object]:
            if failures:
                raise failures.pop()
            return stored.store.replicas(*arguments)  # type: ignore[arg-type]

    def pause(seconds: float) -> None:
        stored.clock.now += seconds

    reader = RowReader(Away(), 0, clock=stored.clock, pause=pause)  # type: ignore[arg-type]
    with pytest.raises(errors.Unavailable):
        reader.chunk(FILE, 0)
    assert reader.chunk(FILE, 1, begun=True) is not None and not failures
    failures[:] = [errors.Unavailable("metadata is away")] * 1000
    began = stored.clock.now
    with pytest.raises(errors.Unavailable):
        reader.chunk(FILE, 1, begun=True)
    assert PATIENCE <= stored.clock.now - began < PATIENCE + 1


def test_without_time_to_keep_them_rows_are_not_kept(stored: Stored) -> None:
    reader = RowReader(stored.store, 0)
    assert reader.chunk(FILE, 0) is not None
    assert not reader._cache
