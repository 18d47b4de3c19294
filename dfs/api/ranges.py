"""The `Range` header of a read: pure.

One range of bytes is honoured. Several ranges, another unit and anything malformed are ignored, as
RFC 9110 allows, so that the whole file is sent with 200.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from dfs.errors import RangeNotSatisfiable

_RANGE = re.compile(r"bytes[ \t]*=[ \t]*([0-9]*)[ \t]*-[ \t]*([0-9]*)[ \t]*\Z", re.IGNORECASE)
_FAR = 1 << 62
_DIGITS = 18


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Bytes `first` to `last` of a file, both included."""

    first: int
    last: int

    @property
    def length(self) -> int:
        return self.last - self.first + 1


def parse_range(value: str | None, size: int) -> ByteRange | None:
    """The range asked for within a file of `size` bytes, cut at its end; None: send all of it.

    Raises RangeNotSatisfiable (with the `Content-Range` that tells the size) when the range has no
    byte of the file.
    """
    match = _RANGE.match(value.strip()) if value is not None else None
    if match is None:
        return None
    first_text, last_text = match[1], match[2]
    if first_text:
        first = _number(first_text)
        last = _number(last_text) if last_text else _FAR
        if last < first:
            return None
    elif last_text:
        suffix = _number(last_text)
        first, last = (max(0, size - suffix), _FAR) if suffix else (size, _FAR)
    else:
        return None
    if first >= size:
        raise RangeNotSatisfiable(
            f"the file has {size} bytes; the range lies outside it",
            headers=(("Content-Range", f"bytes */{size}"),),
        )
    return ByteRange(first, min(last, size - 1))


def _number(digits: str) -> int:
    """Python refuses to read very long numbers; all of them lie beyond any file."""
    digits = digits.lstrip("0")
    return _FAR if len(digits) > _DIGITS else int(digits or "0")
