"""Listings against a naive model, and pages while the bucket changes."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfs.errors import BadRequest
from dfs.metadata.listing import MAX_PAGE, Page, list_page
from dfs.metadata.operations import head_of
from dfs.metadata.sqlite import SqliteStore
from dfs.model import Head
from tests.support.metadata_records import a_record, put


class Shelf:
    """The one method of a store that listing uses, over a sorted list; counts queries."""

    def __init__(self, paths: Any) -> None:
        self.heads = [head_of(a_record(path)) for path in sorted(set(paths))]
        self.queries = 0
        self.read = 0

    def scan_heads(
        self, bucket: str, *, start: str, inclusive: bool, end: str | None, limit: int
    ) -> list[Head]:
        self.queries += 1
        assert limit >= 1
        found = [
            head
            for head in self.heads
            if (head.path > start or (inclusive and head.path == start)) and (end is None or head.path < end)
        ][:limit]
        self.read += len(found)
        return found


def whole(store: Any, **options: Any) -> tuple[list[str], list[str], int]:
    """All pages of a listing; checks each page's size and order."""
    paths: list[str] = []
    prefixes: list[str] = []
    cursor, pages, last = None, 0, ""
    while True:
        page: Page = list_page(store, "default", cursor=cursor, **options)
        entries = sorted([*(head.path for head in page.heads), *page.prefixes])
        assert len(entries) <= options.get("limit", MAX_PAGE)
        assert not entries or not last or entries[0] > last
        last = entries[-1] if entries else last
        paths += [head.path for head in page.heads]
        prefixes += page.prefixes
        pages += 1
        if page.cursor is None:
            return paths, prefixes, pages
        assert entries, "an empty page that is not the last"
        cursor = page.cursor


def naive(paths: Any, prefix: str, delimiter: str) -> tuple[list[str], list[str]]:
    files, prefixes = [], []
    for path in sorted(set(paths)):
        if path.startswith(prefix):
            at = path.find(delimiter, len(prefix)) if delimiter else -1
            if at < 0:
                files.append(path)
            elif path[: at + len(delimiter)] not in prefixes:
                prefixes.append(path[: at + len(delimiter)])
    return files, prefixes


LETTERS = st.sampled_from(["a", "b", "/", "//", "é", "\ud7ff", "\ue000", "\U0010ffff", "0"])
PATHS = st.lists(st.lists(LETTERS, min_size=1, max_size=5).map("".join), max_size=25)


@given(
    PATHS,
    st.lists(LETTERS, max_size=2).map("".join),
    st.sampled_from(["", "/", "//", "a", "\U0010ffff"]),
    st.integers(1, 6),
)
def test_every_listing_equals_the_naive_one(
    paths: list[str], prefix: str, delimiter: str, limit: int
) -> None:
    files, prefixes, _ = whole(Shelf(paths), prefix=prefix, delimiter=delimiter, limit=limit)
    assert (files, prefixes) == naive(paths, prefix, delimiter)


def test_a_common_prefix_is_skipped_not_read_through() -> None:
    shelf = Shelf([f"{top}/{number:04d}" for top in "abc" for number in range(500)])
    assert whole(shelf, delimiter="/") == ([], ["a/", "b/", "c/"], 1)
    assert shelf.queries <= 4


def test_the_order_is_that_of_bytes(store: SqliteStore) -> None:
    paths = ["Z", "a", "a b", "a/b", "ab", "é", "\ue000", "🙂"]
    for path in paths:
        put(store, path)
    assert whole(store, limit=3) == (sorted(paths, key=str.encode), [], 3)


def test_pages_show_what_exists_throughout_once(store: SqliteStore) -> None:
    for number in range(10):
        put(store, f"p{number}")
    page = list_page(store, "default", limit=4)
    put(store, "p0a")
    put(store, "p5a")
    rest = list_page(store, "default", cursor=page.cursor)
    assert [head.path for head in rest.heads] == ["p4", "p5", "p5a", "p6", "p7", "p8", "p9"]


def test_a_full_last_page_has_no_cursor() -> None:
    shelf = Shelf(["a", "b"])
    assert list_page(shelf, "default", limit=2).cursor is None  # type: ignore[arg-type]
    assert list_page(shelf, "default", limit=1).cursor is not None  # type: ignore[arg-type]


def test_a_prefix_longer_than_any_path_finds_nothing() -> None:
    shelf = Shelf(["a" * 1024])
    assert whole(shelf, prefix="a" * 1025) == ([], [], 1)
    assert whole(shelf, prefix="a" * 1024) == (["a" * 1024], [], 1)


def test_a_cursor_of_another_prefix_stays_within_this_one() -> None:
    shelf = Shelf(["a/1", "b/1", "b/2", "c/1"])
    cursor = list_page(shelf, "default", limit=1).cursor  # type: ignore[arg-type]
    assert [h.path for h in list_page(shelf, "default", prefix="b/", cursor=cursor).heads] == ["b/1", "b/2"]  # type: ignore[arg-type]
    cursor = list_page(shelf, "default", prefix="c", limit=1).cursor  # type: ignore[arg-type]
    assert cursor is None


def encoded(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "!",
        "é",
        "YQ",
        "AAAA",
        "x" * 5000,
        "[" * 100,
        *map(
            encoded,
            [1, [], [2, "a", True], [1, 5, True], [1, "a", 1], [1, "\ud800", True], {"a": 1}, [1, "a"]],
        ),
    ],
)
def test_bad_cursors_are_bad_requests(cursor: str) -> None:
    with pytest.raises(BadRequest, match="cursor"):
        list_page(Shelf(["a"]), "default", cursor=cursor)  # type: ignore[arg-type]


def test_the_longest_paths_fit_a_cursor() -> None:
    paths = [
        char * (1024 // len(char.encode())) + char[:0]
        for char in ("a", "\x80", "é", "日", "🙂", "\U0010ffff")
    ]
    assert whole(Shelf(paths), limit=1) == (sorted(paths), [], len(paths))


@pytest.mark.parametrize("limit", [0, -1, MAX_PAGE + 1])
def test_bad_limits_are_bad_requests(limit: int) -> None:
    with pytest.raises(BadRequest, match="limit"):
        list_page(Shelf([]), "default", limit=limit)  # type: ignore[arg-type]


def test_little_is_read_of_what_lies_below_common_prefixes() -> None:
    shelf = Shelf([f"d{top:02d}/{number:03d}" for top in range(40) for number in range(200)])
    assert len(whole(shelf, delimiter="/")[1]) == 40
    assert shelf.queries <= 42 and shelf.read <= 40 * 8 + 100


def test_few_queries_are_made_where_little_lies_below_common_prefixes() -> None:
    shelf = Shelf([f"d{top:03d}/{number}" for top in range(500) for number in range(2)])
    assert len(whole(shelf, delimiter="/")[1]) == 500
    assert shelf.queries <= 20
    shelf = Shelf([f"f{number:04d}" for number in range(900)])
    assert len(whole(shelf, delimiter="/")[0]) == 900
    assert shelf.queries <= 5
