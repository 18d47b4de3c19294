"""dfs.node.parameters: what callers may send."""

from __future__ import annotations

from typing import Any

import pytest

from dfs.errors import BadIndex, BadRequest, RangeNotSatisfiable
from dfs.node import parameters
from dfs.node.parameters import PullSource
from dfs.wire.message import Headers
from dfs.wire.target import Query
from tests.unit.node.fakes import FILE_ID

PULL: dict[str, Any] = {
    "node_id": "n2", "address": "10.0.0.2", "port": 8081, "checksum": "AB" * 32, "length": 5, "chunk_size": 8,
    "file_size": 13,
}  # fmt: skip


@pytest.mark.parametrize(("text", "index"), [("0", 0), ("007", 7), (str(2**31 - 1), 2**31 - 1)])
def test_a_chunks_key(text: str, index: int) -> None:
    query = Query(f"file_id={FILE_ID.upper()}&chunk_index={text}&whatever=x")
    assert parameters.chunk_key(query) == (FILE_ID, index)


@pytest.mark.parametrize("text", ["", "-1", "+1", "1.0", "1e3", "0x1", "%D9%A3", "1%00", "1%0A", "2147483648", "9" * 30])
def test_texts_that_are_no_index(text: str) -> None:
    with pytest.raises(BadIndex, match="chunk_index must be digits"):
        parameters.chunk_key(Query(f"file_id={FILE_ID}&chunk_index={text}"))


@pytest.mark.parametrize(
    "query",
    ["", f"file_id={FILE_ID}", "chunk_index=1", "file_id=..%2F..%2Fetc&chunk_index=1", "file_id=%00&chunk_index=1",
     f"file_id={FILE_ID}&file_id={FILE_ID}&chunk_index=1", f"file_id={FILE_ID}&chunk_index=1&chunk_index=1"],
)  # fmt: skip
def test_a_missing_bad_or_repeated_parameter_is_refused(query: str) -> None:
    with pytest.raises(BadRequest):
        parameters.chunk_key(Query(query))


def test_numbers_have_defaults_and_bounds() -> None:
    assert parameters.number(Query(""), "limit", 7, 1, 10) == 7
    assert parameters.number(Query("limit=10"), "limit", 7, 1, 10) == 10
    for text in ("0", "11", "x", "", "-1", "1_0"):
        with pytest.raises(BadRequest, match="limit must be a whole number from 1 to 10"):
            parameters.number(Query(f"limit={text}"), "limit", 7, 1, 10)


def test_header_numbers() -> None:
    assert parameters.header_number(Headers([]), "X-Dfs-File-Size", 0, 9) is None
    assert parameters.header_number(Headers([("x-dfs-file-size", "9")]), "X-Dfs-File-Size", 0, 9) == 9
    for values in (["10"], ["a"], [""], ["1", "1"]):
        with pytest.raises(BadRequest, match="X-Dfs-File-Size"):
            parameters.header_number(Headers([("X-Dfs-File-Size", value) for value in values]), "X-Dfs-File-Size", 0, 9)


def test_replica_types() -> None:
    assert parameters.replica_type(Query("")) == "primary"
    assert parameters.replica_type(Query("replica_type=secondary")) == "secondary"
    with pytest.raises(BadRequest, match="primary or secondary"):
        parameters.replica_type(Query("replica_type=tertiary"))


def test_pieces() -> None:
    assert parameters.piece_range(Headers([]), 3) == (0, 2)
    assert parameters.piece_range(Headers([]), 0) == (0, -1)
    assert parameters.piece_range(Headers([("X-Dfs-Pieces", "1-1")]), 3) == (1, 1)
    assert parameters.piece_range(Headers([("X-Dfs-Pieces", "0-2")]), 3) == (0, 2)


@pytest.mark.parametrize("text", ["", "1", "-1", "1-", "2-1", "a-b", "0-1,2-3", " 0-1", "0--1", "0-9" + "9" * 20, "٠-١"])
def test_texts_that_are_no_piece_range(text: str) -> None:
    with pytest.raises(BadRequest, match="X-Dfs-Pieces must be FIRST-LAST"):
        parameters.piece_range(Headers([("X-Dfs-Pieces", text)]), 3)


@pytest.mark.parametrize(("text", "count"), [("0-3", 3), ("3-3", 3), ("0-0", 0)])
def test_pieces_beyond_the_chunk(text: str, count: int) -> None:
    with pytest.raises(RangeNotSatisfiable):
        parameters.piece_range(Headers([("X-Dfs-Pieces", text)]), count)


def test_file_ids_of_an_erase() -> None:
    assert parameters.file_ids({"file_ids": [FILE_ID.upper()], "more": 1}) == [FILE_ID]
    assert parameters.file_ids({"file_ids": []}) == []
    assert len(parameters.file_ids({"file_ids": [FILE_ID] * 1000})) == 1000


@pytest.mark.parametrize(
    "payload",
    [{}, {"file_ids": None}, {"file_ids": FILE_ID}, {"file_ids": {}}, {"file_ids": [1]}, {"file_ids": [None]},
     {"file_ids": ["x"]}, {"file_ids": [[FILE_ID]]}, {"file_ids": [FILE_ID] * 1001}],
)  # fmt: skip
def test_a_bad_erase(payload: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        parameters.file_ids(payload)


def test_notes() -> None:
    assert parameters.notes({"notes": [{"op": "commit"}]}) == [{"op": "commit"}]
    for bad in ({}, {"notes": "x"}, {"notes": [1]}, {"notes": [{}] * 1001}):
        with pytest.raises(BadRequest):
            parameters.notes(bad)


def test_a_pull_names_its_source_and_what_the_chunk_must_be() -> None:
    source = PullSource.parse(PULL, 100)
    assert source == PullSource("n2", "10.0.0.2", 8081, "ab" * 32, 5, 8, 13)
    assert PullSource.parse(PULL | {"file_size": None}, 100).file_size is None
    empty = PullSource.parse(PULL | {"length": 0, "chunk_size": 1, "file_size": 0, "address": "::1"}, 100)
    assert (empty.length, empty.address) == (0, "::1")


@pytest.mark.parametrize(
    ("name", "value"),
    [("node_id", None), ("node_id", "-"), ("node_id", 3), ("address", "localhost"), ("address", None),
     ("address", "http://10.0.0.1"), ("address", 2130706433), ("port", 0), ("port", 65536), ("port", True),
     ("port", "80"), ("port", None), ("checksum", None), ("checksum", "ab"), ("length", -1), ("length", 101),
     ("length", 5.0), ("chunk_size", 4), ("chunk_size", 0), ("chunk_size", None), ("file_size", 4),
     ("file_size", "13"), ("file_size", True)],
)  # fmt: skip
def test_a_bad_pull(name: str, value: object) -> None:
    with pytest.raises(BadRequest, match=name):
        PullSource.parse(PULL | {name: value}, 100)
