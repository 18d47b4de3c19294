from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from dfs.client.failures import LocalFailure
from dfs.client.jsonstream import ArrayReader


def reader(data: bytes, sizes: Callable[[], int]) -> Callable[[int], bytes]:
    rest = memoryview(data)

    def read(n: int) -> bytes:
        nonlocal rest
        count = min(n, sizes())
        piece, rest = bytes(rest[:count]), rest[count:]
        return piece

    return read


def parse(data: bytes, member: str | None = None, step: int = 1) -> tuple[list[Any], dict[str, Any]]:
    found = ArrayReader(reader(data, lambda: step), member)
    return list(found), found.others


def test_an_array_by_itself() -> None:
    assert parse(b' [ {"a": 1} , 12345, "x", [] ,null] ')[0] == [{"a": 1}, 12345, "x", [], None]
    assert parse(b"[]") == ([], {})


def test_a_member_with_others_around_it() -> None:
    text = b'{"file_id": "f", "n": 1234, "items": [1, 2], "after": {"x": [3]}}'
    assert parse(text, "items") == ([1, 2], {"file_id": "f", "n": 1234, "after": {"x": [3]}})


def test_random_values_in_random_pieces() -> None:
    seed = random.randrange(1 << 30)
    print("seed", seed)
    rng = random.Random(seed)
    for _ in range(200):
        items = [
            rng.choice([rng.randrange(10**9), "é€😀" * rng.randrange(4), None, True, 1.5, {"k": ["]", "}", ","]}])
            for _ in range(rng.randrange(8))
        ]
        text = json.dumps({"a": 1, "items": items, "z": "last"}, ensure_ascii=rng.random() < 0.5).encode()
        found = ArrayReader(reader(text, lambda: rng.randrange(1, 9)), "items")
        assert list(found) == items and found.others == {"a": 1, "z": "last"}


@pytest.mark.parametrize(
    "text",
    [b"", b"[", b"[1", b"[1,", b"[1 2]", b"{}", b"[1] x", b"<html>", b"[\xff]", b'[{"a":]', b"[" * 5000, b'["a', b"]"],
)
def test_what_is_not_an_array_is_refused(text: bytes) -> None:
    with pytest.raises(LocalFailure, match="is that URL a dfs API server"):
        parse(text, step=1000)


@pytest.mark.parametrize(
    "text", [b"[]", b"{}", b'{"items": 1}', b'{"x": 1}', b'{"items": [1]', b"{1: 2}", b'{"items":[],"a" 1}']
)
def test_an_object_without_the_array_is_refused(text: bytes) -> None:
    with pytest.raises(LocalFailure):
        parse(text, "items", step=1000)


def test_a_value_without_end_is_not_collected_for_ever() -> None:
    with pytest.raises(LocalFailure):
        parse(b'["' + b"a" * (3 << 20), step=1 << 16)
