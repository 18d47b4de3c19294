"""Listing the trash: order, prefixes, pages, and an index that tells old tales."""

from __future__ import annotations

import base64
import random
from typing import Any

import pytest

from dfs.errors import BadRequest
from dfs.metadata import operations
from dfs.metadata.operations import ALWAYS
from dfs.metadata.sqlite import SqliteStore
from dfs.metadata.trashlist import trash_page
from dfs.model import FileRecord
from tests.support.metadata_records import NOW, put

B = "default"


def delete(store: SqliteStore, path: str, at: int = NOW) -> str:
    put(store, path, now=at)
    return operations.delete_path(store, B, path, ALWAYS, at + 1).file_id


def pages(store: SqliteStore, limit: int = 3, **more: Any) -> list[FileRecord]:
    found: list[FileRecord] = []
    cursor = None
    while True:
        page = trash_page(store, B, limit=limit, cursor=cursor, **more)
        assert len(page.records) <= limit
        found += page.records
        cursor = page.cursor
        if cursor is None:
            return found
        assert len(page.records) == limit


def test_the_order_is_by_path_and_of_one_path_the_oldest_first(store: SqliteStore, rng: random.Random) -> None:
    paths = ["b", "a", "a/b", "a0", "é", "\U0001f600", "z"] * 2
    rng.shuffle(paths)
    files = sorted((path, number, delete(store, path, NOW + 10 * number)) for number, path in enumerate(paths))
    found = pages(store)
    assert [record.file_id for record in found] == [file_id for _, _, file_id in files]
    assert {record.path for record in pages(store, prefix="a")} == {"a", "a/b", "a0"}
    assert [record.path for record in pages(store, limit=1, prefix="a/")] == ["a/b"] * 2
    assert pages(store, prefix="c") == [] == trash_page(store, "uploads").records


def test_paths_that_no_key_holds_are_found_by_any_prefix(store: SqliteStore) -> None:
    long = "d/" + "é" * 505
    paths = [long + tail for tail in ("xa", "xb", "y")] + ["d/e", long[:300], long[:420]]
    for path in paths:
        delete(store, path)
    for prefix in ("", "d/", long[:200], long[:409], long[:450], long, long + "x", long + "xa", long + "z"):
        found = [record.path for record in pages(store, limit=2, prefix=prefix)]
        assert sorted(found) == sorted(path for path in paths if path.startswith(prefix)), len(prefix)


def test_entries_are_checked_against_the_records(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, restored, purged, again = (delete(store, path) for path in "abcd")
    stale = store.gc_entries("trashed#default")
    operations.restore_path(store, B, "b", restored, NOW + 5)
    operations.purge_trashed(store, B, "c", purged, NOW + 5)
    operations.restore_path(store, B, "d", again, NOW + 5)
    operations.delete_path(store, B, "d", ALWAYS, NOW + 6)
    fresh = store.gc_entries("trashed#default")
    entries = sorted({entry.key: entry for entry in (*stale, *fresh)}.values(), key=lambda entry: entry.key)

    def lagging(partition: str, *, after: str | None = None, limit: int = 1000) -> Any:
        return [entry for entry in entries if after is None or entry.key > after][:limit]

    monkeypatch.setattr(store, "gc_entries", lagging)
    assert [record.file_id for record in pages(store, limit=1)] == [kept, again]
    assert [record.file_id for record in pages(store)] == [kept, again]


def test_the_end_is_told_without_an_empty_page(store: SqliteStore) -> None:
    for path in ("a/1", "a/2", "b"):
        delete(store, path)
    assert trash_page(store, B, limit=3).cursor is None
    assert trash_page(store, B, prefix="a/", limit=2).cursor is None
    assert trash_page(store, B, prefix="a/", limit=1).cursor is not None


@pytest.mark.parametrize("limit", [0, 1001])
def test_a_limit_out_of_bounds_is_refused(store: SqliteStore, limit: int) -> None:
    with pytest.raises(BadRequest):
        trash_page(store, B, limit=limit)


@pytest.mark.parametrize(
    "cursor", ["!", "é", "A", "x" * 5000, *(base64.urlsafe_b64encode(raw).decode().rstrip("=") for raw in (
        b"{}", b"[1,2]", b'[1,"a",true]', b'[2,3]', b'[2,"\\ud800"]', b"[" * 2000))],
)  # fmt: skip
def test_a_cursor_of_somebody_elses_is_refused(store: SqliteStore, cursor: str) -> None:
    with pytest.raises(BadRequest, match="cursor"):
        trash_page(store, B, cursor=cursor)
