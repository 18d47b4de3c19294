from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfs.api.names import check_content_type, check_filename, cut_utf8, upload_path
from dfs.errors import BadRequest
from dfs.model import check_path

ID = str(uuid.uuid4())


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=3000).filter(lambda text: "\0" not in text))
def test_every_filename_makes_a_legal_path(filename: str) -> None:
    path = upload_path(ID, check_filename(filename))
    assert check_path(path) == path
    assert path.startswith(ID + "/") and path.count("/") == 1


@pytest.mark.parametrize("value", [None, "", 5, True, "a\0b", "\ud800", ["a"]])
def test_filenames_that_are_none(value: object) -> None:
    with pytest.raises(BadRequest, match="filename"):
        check_filename(value)


def test_cutting_keeps_characters_whole() -> None:
    assert cut_utf8("aé", 2) == "a"
    assert cut_utf8("aé", 3) == "aé"


@pytest.mark.parametrize(
    "value", ["text/plain", "text/html; charset=utf-8", 'a/b;x="y;\\" z" ; q=1', "application/vnd.x+json", "a/b;"]
)
def test_content_types(value: str) -> None:
    assert check_content_type(f" {value} ") == value


def test_no_content_type() -> None:
    assert check_content_type(None) == check_content_type(" ") == "application/octet-stream"


@pytest.mark.parametrize("value", ["text", "/", "a/", "a /b", "a/b c", "a/b; x", "é/b", "a/b\r\nX: y", "a/b, c/d", "a/" + "b" * 254])
def test_content_types_that_are_none(value: str) -> None:
    with pytest.raises(BadRequest, match="content type"):
        check_content_type(value)
