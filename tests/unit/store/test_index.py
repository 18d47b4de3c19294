"""Which record stands, in whatever order and however often the index is told of them."""

from __future__ import annotations

import itertools
import random
import sqlite3
from pathlib import Path

import pytest

from dfs.store.compare import compare_indexes
from dfs.store.entry import Entry
from dfs.store.index import Index, IndexDamaged
from dfs.store.index_change import VolumeRow
from dfs.store.index_file import SqliteFile
from dfs.store.record import Kind
from tests.support.disk import MemoryIndex

FILE, OTHER = b"f" * 16, b"o" * 16


def entry(
    kind: Kind, sequence: int, volume: int = 1, index: int = 0, file_id: bytes = FILE, copy: int = 0
) -> Entry:
    checksum = b"n" * 32 if kind == Kind.NOTE else bytes([sequence]) * 32
    place = sequence * 1000 + copy
    return Entry(int(kind), file_id, index, volume, place, 100 + sequence, sequence, 5, 10, checksum, 4, None)


def rows(*numbers: int) -> list[VolumeRow]:
    return [VolumeRow(number, bytes([number]) * 16, 100_000, True, False) for number in numbers]


def index_of(entries: list[Entry], batch: int = 100) -> Index:
    index = Index(MemoryIndex(), "disk")
    for start in range(0, len(entries), batch):
        index.apply(entries[start : start + batch], rows(1, 2, 3))
    return index


HISTORY = [
    entry(Kind.DATA, 1),
    entry(Kind.DATA, 2, 1, 1),
    entry(Kind.DROP, 3, 2),
    entry(Kind.DATA, 4, 2),
    entry(Kind.DATA, 4, 3, copy=7),  # the copy of a compaction
    entry(Kind.NOTE, 5, 2),
    entry(Kind.NOTE, 6, 3),
    entry(Kind.DATA, 7, 3, 0, OTHER),
]


def test_the_order_of_arrival_does_not_matter() -> None:
    expected = index_of(HISTORY)
    assert expected.lookup((FILE, 0)) == (False, HISTORY[4])
    assert expected.lookup((FILE, 1)) == (False, HISTORY[1])
    assert expected.lookup((FILE, 9)) == (False, None)
    rng = random.Random(1)
    for round_ in range(60):
        history = HISTORY + rng.choices(HISTORY, k=4)
        if round_ % 2:
            history.append(entry(Kind.ERASE, 8, 3))
        rng.shuffle(history)
        found = index_of(history, rng.choice((1, 3, 100)))
        told = index_of(HISTORY + ([entry(Kind.ERASE, 8, 3)] if round_ % 2 else []))
        assert compare_indexes(found, told) == [], history
        assert {n: (r.live, r.chunks) for n, r in found.volumes.items()} == {
            n: (r.live, r.chunks) for n, r in told.volumes.items()
        }
        assert found.chunks == told.chunks == (1 if round_ % 2 else 3)
        found._verify()
        found.close()
        told.close()


def test_what_counts_and_what_is_hidden() -> None:
    index = index_of(HISTORY)
    assert index.lacking_notes([(b"n" * 32, FILE), (b"m" * 32, FILE)]) == [b"m" * 32]
    standing = [item for item in HISTORY if index.stands(item)]
    assert standing == [HISTORY[1], HISTORY[4], HISTORY[6], HISTORY[7]]
    assert index.stands(entry(Kind.DATA, 99, 1, 55)), "a record that is not accounted for counts"
    assert index.stands(entry(Kind.ERASE, 99))
    assert index.hidden_elsewhere(entry(Kind.DROP, 9, 3))
    assert not index.hidden_elsewhere(entry(Kind.DROP, 9, 3, 1))
    assert index.hidden_elsewhere(entry(Kind.ERASE, 9, 3))
    assert not index.hidden_elsewhere(entry(Kind.ERASE, 9, 3, 0, OTHER))
    index.apply([entry(Kind.ERASE, 9, 3), entry(Kind.ERASE, 10, 2), entry(Kind.ERASE, 8, 1)])
    assert not any(index.stands(item) for item in HISTORY[:7])
    assert index.stands(entry(Kind.ERASE, 10, 2))
    assert not index.stands(entry(Kind.ERASE, 9, 3))
    assert index.lookup((FILE, 0))[0]
    assert index.is_erased(FILE)
    assert not index.is_erased(OTHER)
    assert index.lacking_notes([(b"n" * 32, FILE), (b"n" * 32, OTHER), (b"m" * 32, OTHER)]) == [
        b"n" * 32,
        b"m" * 32,
    ]
    assert index.counts() == (1, 1, 0)


def test_a_volume_that_is_removed_takes_its_rows_along() -> None:
    index = index_of([*HISTORY, entry(Kind.ERASE, 20, 2, 0, b"e" * 16)])
    index.apply((), remove=[3, 1])
    assert index.lookup((FILE, 0)) == (False, None)
    assert index.notes_after(0, 9) == []
    assert sorted(index.volumes) == [2]
    assert index.chunks == 0
    index._verify()
    index.apply((), remove=[2, 77])
    assert not index.is_erased(b"e" * 16)
    index._verify()


def test_tombstones_are_forgotten_where_they_are_and_nowhere_else() -> None:
    drop, erase = entry(Kind.DROP, 5, 1), entry(Kind.ERASE, 6, 1, 0, OTHER)
    index = index_of([drop, erase])
    index.apply((), forget=[drop._replace(offset=1), erase._replace(volume=2)])
    assert index.lookup((FILE, 0))[1] == drop
    assert index.is_erased(OTHER)
    index.apply((), forget=[drop, erase])
    assert index.lookup((FILE, 0)) == (False, None)
    assert not index.is_erased(OTHER)
    assert index.volumes[1].live == 0
    index._verify()


def test_pages_by_sequence() -> None:
    index = index_of(HISTORY)
    assert [item.sequence for item in index.chunks_after(0, 10)] == [2, 4, 7]
    assert [item.sequence for item in index.chunks_after(2, 1)] == [4]
    assert index.chunks_after(7, 10) == []
    assert index.notes_after(0, 10) == [(6, 3, 6000)]
    assert index.sequence() == 0
    index.apply((), sequence=9)
    index.apply((), sequence=3)
    assert index.sequence() == 9


def test_when_a_chunk_was_verified_belongs_to_its_record() -> None:
    index = index_of(HISTORY)
    index.apply((), verified=[((FILE, 1), 2, 1234), ((FILE, 0), 1, 99)])
    assert index.verified((FILE, 1)) == 1234
    assert index.verified((FILE, 0)) is None
    assert index.verified((OTHER, 5)) is None


def test_a_failed_transaction_leaves_no_trace() -> None:
    file = MemoryIndex()
    index = Index(file, "disk")
    index.apply(HISTORY[:2], rows(1))
    for statement, rollback in itertools.product(("INSERT OR REPLACE INTO chunks", "COMMIT"), (True, False)):

        def fail(sql: str, statement: str = statement, rollback: bool = rollback) -> None:
            if sql.startswith(statement) or (sql == "ROLLBACK" and not rollback):
                raise sqlite3.OperationalError("disk I/O error")

        file.faults = fail
        with pytest.raises(sqlite3.OperationalError):
            index.apply(HISTORY[2:], rows(2, 3), synced=True)
        file.faults = None
        assert index.lookup((FILE, 0)) == (False, HISTORY[0])
        assert index.chunks == 2
        assert sorted(index.volumes) == [1]
    index.apply(HISTORY[2:], rows(2, 3))
    index._verify()


def test_values_that_cannot_be_are_damage() -> None:
    for sql in (
        "UPDATE chunks SET volume = 'x'",
        "UPDATE chunks SET file_id = 5 WHERE chunk_index = 1",
        "UPDATE facts SET value = 'x' WHERE name = 'sequence'",
        "DELETE FROM facts WHERE name = 'sequence'",
    ):
        index = index_of(HISTORY)
        index._writer.execute(sql)
        with pytest.raises((IndexDamaged, sqlite3.Error)):
            index.chunks_after(0, 10)
            index.sequence()
        index.close()
    index = index_of(HISTORY)
    with pytest.raises(IndexDamaged):
        index.apply([HISTORY[0]._replace(sequence="x")])  # type: ignore[arg-type]


def test_readers_read_beside_the_writer(tmp_path: Path) -> None:
    index = Index(SqliteFile(str(tmp_path / "index.db"), 2), "disk")
    index.apply(HISTORY, rows(1, 2, 3))
    with index._reader() as first, index._reader() as second:
        assert first is not second
        index.apply([entry(Kind.DATA, 30, 1, 30)], rows(1))
    assert index.lookup((FILE, 30))[1] is not None
    with pytest.raises(sqlite3.OperationalError):
        with index._reader() as reader:
            reader.execute("SELECT nonsense FROM nowhere")
    assert index.counts() == (4, 0, 1)
    with index._reader() as reader:
        index.close(clean=True)
        reader.execute("SELECT 1")
    assert index._spare == []


def test_a_connection_that_cannot_be_set_up_is_closed(tmp_path: Path) -> None:
    (tmp_path / "index.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(sqlite3.DatabaseError):
        SqliteFile(str(tmp_path / "index.db")).connect()


def test_differences_are_found_on_both_sides() -> None:
    full, empty = index_of(HISTORY), index_of([])
    assert compare_indexes(full, full) == []
    assert len(compare_indexes(full, empty)) == len(compare_indexes(empty, full)) > 4
    full._writer.execute("UPDATE chunks SET file_id = 'text' WHERE chunk_index = 1")
    assert any("'text'" in text for text in compare_indexes(full, empty))
