from __future__ import annotations

from typing import Any

import pytest

from dfs.client import LocalFailure, Prefix
from dfs.client.results import (
    bucket_view,
    file_from_headers,
    moment,
    node_view,
    page,
    stored_file,
    upload_status,
)
from dfs.wire.message import Headers

FILE = {"path": "p", "file_id": "f", "etag": '"f"', "size": 3}
UPLOAD = {"file_id": "f", "state": "uploading", "size": 9, "chunk_size": 3, "chunks": 3, "missing": [[0, 1]]}


def test_members_that_are_not_there_are_none() -> None:
    found = stored_file(FILE, "default")
    assert (found.bucket, found.etag, found.sha256, found.chunks, found.modified) == ("default", "f", None, None, None)


@pytest.mark.parametrize("value", [None, [], "x", {}, FILE | {"size": "3"}, FILE | {"size": True}, FILE | {"file_id": 1}])
def test_a_file_without_what_is_needed_is_refused(value: Any) -> None:
    with pytest.raises(LocalFailure, match="makes no sense"):
        stored_file(value, "b")


def test_times_come_as_numbers_or_text() -> None:
    assert moment(5) == 5 and moment("2025-01-01T00:00:00Z") == 1735689600000
    assert moment("soon") is None and moment(1.5) is None and moment(True) is None


def test_a_page_is_one_byte_order() -> None:
    found = page({"files": [FILE | {"path": "b"}, FILE | {"path": "é"}], "prefixes": ["a/", "c/"], "cursor": None}, "x")
    assert [each.prefix if isinstance(each, Prefix) else each.path for each in found.entries()] == ["a/", "b", "c/", "é"]
    assert found.cursor is None


@pytest.mark.parametrize("missing", [[[0]], [[0, 3]], [[2, 1]], [[-1, 0]], [["0", 1]], [[True, False]], [5], None])
def test_ranges_that_make_no_sense_are_refused(missing: Any) -> None:
    assert upload_status(UPLOAD).missing == ((0, 1),)
    with pytest.raises(LocalFailure):
        upload_status(UPLOAD | {"missing": missing})


def test_a_head_is_read_leniently_but_for_the_etag() -> None:
    headers = [("ETag", '"f"'), ("Last-Modified", "yesterday"), ("X-File-SHA256", "AB")]
    found = file_from_headers(Headers(headers), 3, "b", "p")
    assert found.modified is None and found.sha256 == "ab"
    with pytest.raises(LocalFailure):
        file_from_headers(Headers(), 3, "b", "p")


def test_nodes_and_buckets() -> None:
    assert node_view({"node_id": "n"}).alive is False
    assert node_view({"node_id": "n", "alive": True, "port": 1}).port == 1
    assert bucket_view("b").name == "b" and bucket_view({"name": "b", "created": 7}).created == 7
    with pytest.raises(LocalFailure):
        bucket_view({})
