"""dfs.model: names that are taken and refused, and the arithmetic of chunks."""

from __future__ import annotations

import dataclasses

import pytest

from dfs import model
from dfs.errors import BadPath, BadRequest


@pytest.mark.parametrize(
    "path",
    ["a", "a/b.txt", "täst/ü", "a b+c", "...", ".hidden", "a/..b", "-", "%2e%2e", "x" * 1024, "ü" * 512, "a\u2028b"],
)
def test_paths_that_are_taken_as_they_stand(path: str) -> None:
    assert model.check_path(path) == path


@pytest.mark.parametrize(
    "path",
    ["", "/a", "a/", "a//b", ".", "..", "a/./b", "a/../b", "../a", "a\0b", "a\nb", "a\x7fb", "a\x85b", "x" * 1025,
     "ü" * 513, "a\ud800"],
)  # fmt: skip
def test_paths_that_are_refused(path: str) -> None:
    with pytest.raises(BadPath):
        model.check_path(path)


@pytest.mark.parametrize("name", ["a", "default", "0-9", "a.b_c-d", "a" * 63])
def test_bucket_names(name: str) -> None:
    assert model.check_bucket(name) == name


@pytest.mark.parametrize("name", ["", "A", ".a", "-a", "#buckets", "a/b", "a" * 64, "a\n", "ä"])
def test_texts_that_are_no_bucket_name(name: str) -> None:
    with pytest.raises(BadPath):
        model.check_bucket(name)


def test_file_ids_are_canonical() -> None:
    made = model.new_file_id()
    assert model.is_file_id(made)
    assert model.parse_file_id(made) == made
    assert model.parse_file_id(made.upper()) == made
    assert model.new_file_id() != made


@pytest.mark.parametrize(
    "text",
    ["", "x", "bd08c6c6-3b5d-1f28-a32a-2bab04d1aba5", "bd08c6c6-3b5d-4f28-c32a-2bab04d1aba5",
     "bd08c6c63b5d4f28a32a2bab04d1aba5", "{bd08c6c6-3b5d-4f28-a32a-2bab04d1aba5}",
     "bd08c6c6-3b5d-4f28-a32a-2bab04d1aba5\n", "../../etc/passwd"],
)  # fmt: skip
def test_texts_that_are_no_file_id(text: str) -> None:
    assert not model.is_file_id(text)
    with pytest.raises(BadRequest):
        model.parse_file_id(text)


def test_checksums_are_lower_case() -> None:
    assert model.parse_sha256("AB" * 32, "X-Chunk-Checksum") == "ab" * 32
    for bad in ("", "ab" * 31, "ab" * 33, "zz" * 32, "ab" * 32 + "\n"):
        with pytest.raises(BadRequest, match="X-Chunk-Checksum"):
            model.parse_sha256(bad, "X-Chunk-Checksum")


@pytest.mark.parametrize(
    ("text", "good"),
    [("a", True), ("node-1.example_x", True), ("a" * 64, True), ("a" * 65, False), ("-a", False), ("", False),
     ("a#b", False), ("a\n", False), ("ä", False)],
)  # fmt: skip
def test_node_ids(text: str, good: bool) -> None:
    assert model.is_node_id(text) is good


@pytest.mark.parametrize(
    ("size", "chunk_size", "lengths"),
    [(0, 4, []), (1, 4, [1]), (3, 4, [3]), (4, 4, [4]), (5, 4, [4, 1]), (8, 4, [4, 4]), (3, 1, [1, 1, 1])],
)
def test_the_chunks_of_a_file(size: int, chunk_size: int, lengths: list[int]) -> None:
    count = model.chunk_count(size, chunk_size)
    assert [model.chunk_length(size, chunk_size, index) for index in range(count)] == lengths


def test_what_crosses_layers_cannot_be_changed() -> None:
    bucket = model.Bucket("default", 0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        bucket.name = "other"  # type: ignore[misc]
