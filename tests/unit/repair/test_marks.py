"""Marks of chunks that are short of a copy."""

from __future__ import annotations

from pathlib import Path

from dfs.metadata.contract import GcKind, MetadataStore
from dfs.metadata.sqlite import SqliteStore
from dfs.metadata.steps import PutFile
from dfs.model import FileState
from dfs.repair.marks import mark_short
from tests.support.metadata_records import NOW, a_record


def marks(store: MetadataStore) -> list[tuple[str, int | None, int]]:
    partitions = store.gc_partitions(GcKind.SHORT)
    return [(entry.id, entry.chunk_index, entry.at) for name in partitions for entry in store.gc_entries(name)]


def test_a_chunk_is_marked_unless_its_file_is_going_or_gone(tmp_path: Path) -> None:
    store = SqliteStore(str(tmp_path / "metadata.sqlite"))
    store.create()
    kept, going = a_record("a"), a_record("b", state=FileState.DELETING)
    store.transact([PutFile(kept), PutFile(going)])
    for file_id in (kept.file_id, going.file_id, a_record("c").file_id):
        mark_short(store, file_id, 3, NOW)
    assert marks(store) == [(kept.file_id, 3, NOW)]
    mark_short(store, kept.file_id, 3, NOW + 1)
    assert marks(store) == [(kept.file_id, 3, NOW + 1)], "the later finding counts"
    store.close()
