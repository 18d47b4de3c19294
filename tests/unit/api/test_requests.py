from __future__ import annotations

import uuid
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dfs.api.plan import base_url
from dfs.api.requests import (
    chunk_index_of,
    file_id_of,
    flag_of,
    number_of,
    operation_id,
    optional_text,
    whole_number,
)
from dfs.api.sizes import check_chunk_size, check_chunks
from dfs.errors import BadIndex, BadRequest, TooManyChunks
from dfs.wire.message import Headers, Query, Request

ID = str(uuid.uuid4())


def request(query: str = "", host: str | None = None, **headers: str) -> Request:
    found = Headers([(name.replace("_", "-"), value) for name, value in headers.items()])
    server = cast(Any, SimpleNamespace(port=8080))
    body = cast(Any, None)
    return Request("GET", "/", "/", found, body, Query(query), host=host, server=server)


def test_file_ids() -> None:
    assert file_id_of(request(f"file_id={ID.upper()}")) == ID
    for query in ("", "file_id=", "file_id=x", f"file_id={ID}%00", f"file_id={ID}&file_id={ID}", "file_id=" + "0" * 36):
        with pytest.raises(BadRequest):
            file_id_of(request(query))


def test_chunk_indexes() -> None:
    assert chunk_index_of(request("chunk_index=007")) == 7
    for query in ("chunk_index=-1", "chunk_index=+1", "chunk_index=1.0", "chunk_index=" + "9" * 5000, "chunk_index=١"):
        with pytest.raises(BadIndex):
            chunk_index_of(request(query.replace("١", "%D9%A1")))
    with pytest.raises(BadRequest):
        chunk_index_of(request())


def test_flags_and_numbers() -> None:
    assert [flag_of(request(query), "f") for query in ("", "f=1", "f=true", "f=0", "f=false")] == [
        False, True, True, False, False,
    ]  # fmt: skip
    for query in ("f=", "f=2", "f=yes"):
        with pytest.raises(BadRequest, match="f must be"):
            flag_of(request(query), "f")
    assert number_of(request(), "n", 7, 1, 9) == 7
    assert number_of(request("n=3"), "n", 7, 1, 9) == 3
    for query in ("n=0", "n=10", "n=", "n=x", "n=" + "9" * 5000):
        with pytest.raises(BadRequest, match="from 1 to 9"):
            number_of(request(query), "n", 7, 1, 9)


def test_operation_ids() -> None:
    assert operation_id(request()) is None
    assert operation_id(request(X_Dfs_Op=ID.upper())) == ID
    assert operation_id(request(Idempotency_Key=f'"{ID}"')) == ID
    assert operation_id(request(X_Dfs_Op=ID, Idempotency_Key=ID)) == ID
    for bad in ({"X_Dfs_Op": "1"}, {"X_Dfs_Op": ""}, {"X_Dfs_Op": ID, "Idempotency_Key": str(uuid.uuid4())}):
        with pytest.raises(BadRequest):
            operation_id(request(**bad))


def test_members_of_json_bodies() -> None:
    assert whole_number({"n": 5}, "n") == 5
    assert whole_number({"n": None}, "n") is None
    for bad in (True, 1.0, "1", [], {}):
        with pytest.raises(BadRequest, match="n must be a whole number"):
            whole_number({"n": bad}, "n")
    assert optional_text({"t": "x"}, "t") == "x"
    assert optional_text({}, "t") is None
    for bad in ("", 1, [], False):
        with pytest.raises(BadRequest, match="t must be"):
            optional_text({"t": bad}, "t")


def test_the_base_of_urls() -> None:
    assert base_url("https://x", request(host="h"), "0.0.0.0") == "https://x"
    assert base_url(None, request(host="[::1]:80"), "0.0.0.0") == "http://[::1]:80"
    assert base_url(None, request(), "10.0.0.1") == "http://10.0.0.1:8080"
    assert base_url(None, request(), "::1") == "http://[::1]:8080"


def test_sizes() -> None:
    assert check_chunk_size(16, 16, "c") == 16
    for bad in (0, -1, 17, 1 << 63, 10**300):
        with pytest.raises(BadRequest, match="c must be from 1 to 16"):
            check_chunk_size(bad, 16, "c")
    assert check_chunks(0, 10, 3, 16) == 0
    assert check_chunks(30, 10, 3, 16) == 3
    with pytest.raises(TooManyChunks, match="smallest chunk size that fits is 11"):
        check_chunks(31, 10, 3, 16)
    with pytest.raises(TooManyChunks, match="largest file this cluster takes has 48 bytes"):
        check_chunks(49, 10, 3, 16)
