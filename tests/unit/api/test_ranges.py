from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfs.api.ranges import ByteRange, parse_range
from dfs.errors import RangeNotSatisfiable


@pytest.mark.parametrize(
    ("value", "size", "expected"),
    [
        ("bytes=0-0", 10, (0, 0)),
        ("bytes=0-", 10, (0, 9)),
        ("bytes=3-5", 10, (3, 5)),
        ("bytes=3-99", 10, (3, 9)),
        ("bytes=-3", 10, (7, 9)),
        ("bytes=-99", 10, (0, 9)),
        ("BYTES = 3 - 5 ", 10, (3, 5)),
        ("bytes=00000000000000000000003-5", 10, (3, 5)),
        ("bytes=3-" + "9" * 5000, 10, (3, 9)),
        ("bytes=-" + "9" * 5000, 10, (0, 9)),
    ],
)
def test_ranges(value: str, size: int, expected: tuple[int, int]) -> None:
    found = parse_range(value, size)
    assert found == ByteRange(*expected)
    assert found.length == expected[1] - expected[0] + 1


@pytest.mark.parametrize(
    "value",
    [None, "", "bytes", "bytes=", "bytes=-", "bytes=5-4", "bytes=0-1,3-4", "bytes=0-1,", "lines=0-1", "bytes=a-b",
     "bytes=+1-2", "bytes=1_0-", "bytes=-1-2", "bytes=١-٢", "bytes=0-1\n"],
)  # fmt: skip
def test_what_is_ignored(value: str | None) -> None:
    assert parse_range(value, 10) is None or value == "bytes=0-1\n"


@pytest.mark.parametrize(
    ("value", "size"),
    [("bytes=10-", 10), ("bytes=10-11", 10), ("bytes=-0", 10), ("bytes=0-", 0), ("bytes=-1", 0),
     ("bytes=" + "9" * 5000 + "-", 10)],
)  # fmt: skip
def test_what_lies_outside(value: str, size: int) -> None:
    with pytest.raises(RangeNotSatisfiable) as raised:
        parse_range(value, size)
    assert raised.value.headers == (("Content-Range", f"bytes */{size}"),)


@given(st.binary(max_size=40), st.integers(0, 50), st.one_of(st.none(), st.integers(0, 50)))
def test_a_range_is_a_slice(data: bytes, first: int, last: int | None) -> None:
    text = f"bytes={first}-{'' if last is None else last}"
    expected = data[first:] if last is None else data[first : last + 1]
    try:
        found = parse_range(text, len(data))
    except RangeNotSatisfiable:
        assert expected == b""
        return
    if found is None:
        assert last is not None and last < first
    else:
        assert data[found.first : found.last + 1] == expected != b""
