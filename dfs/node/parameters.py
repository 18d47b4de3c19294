"""Reading what callers of a node send: query parameters, headers and JSON members.

Pure functions of their input. All raise `errors.BadRequest` (400) naming the field; parameters that
are not mentioned here are ignored, repeated ones are refused by `Query.get`.
"""

from __future__ import annotations

import ipaddress
import re
import struct
from dataclasses import dataclass
from typing import Any

from dfs.errors import BadIndex, BadRequest, RangeNotSatisfiable
from dfs.model import is_node_id, parse_file_id, parse_sha256
from dfs.store.chunk import PIECE
from dfs.wire.message import Headers, Query

INDEX_LIMIT = 1 << 31
SIZE_LIMIT = 1 << 53
"""Sizes above this are not exact in every JSON reader."""

MAX_ITEMS = 1000
"""Most file ids of one erase and notes of one call."""

MAX_CHUNKS = 256
"""Most chunks of one call that verifies."""

_DIGITS = re.compile(r"[0-9]{1,20}\Z")
_HEX = re.compile(r"[0-9a-fA-F]*\Z")
_PIECES = re.compile(r"([0-9]{1,10})-([0-9]{1,10})\Z")


def required(query: Query, name: str) -> str:
    """The query parameter `name`."""
    text = query.get(name)
    if text is None:
        raise BadRequest(f"the query parameter {name} is missing")
    return text


def chunk_key(query: Query) -> tuple[str, int]:
    """`file_id` and `chunk_index` of a call about one chunk."""
    file_id = parse_file_id(required(query, "file_id"))
    text = required(query, "chunk_index")
    if not _DIGITS.match(text) or int(text) >= INDEX_LIMIT:
        raise BadIndex(f"chunk_index must be digits, below {INDEX_LIMIT}, not {text[:80]!r}")
    return file_id, int(text)


def after_key(query: Query) -> tuple[str, int] | None:
    """The chunk after which a page begins: `after_file` and `after_index`; None when both are absent."""
    file_id, text = query.get("after_file"), query.get("after_index")
    if file_id is None and text is None:
        return None
    if file_id is None or text is None:
        raise BadRequest("after_file and after_index come together")
    return parse_file_id(file_id), _whole(text, "after_index", 0, INDEX_LIMIT - 1)


def number(query: Query, name: str, default: int, low: int, high: int) -> int:
    """The whole number `name`, from `low` to `high`; `default` when absent."""
    text = query.get(name)
    return default if text is None else _whole(text, name, low, high)


def header_number(headers: Headers, name: str, low: int, high: int) -> int | None:
    """The whole number in header `name`; None when absent."""
    text = single_header(headers, name)
    return None if text is None else _whole(text, name, low, high)


def _whole(text: str, name: str, low: int, high: int) -> int:
    if not _DIGITS.match(text) or not low <= int(text) <= high:
        raise BadRequest(f"{name} must be a whole number from {low} to {high}, not {text[:80]!r}")
    return int(text)


def single_header(headers: Headers, name: str) -> str | None:
    """Header `name`, which may come once only."""
    values = headers.get_all(name)
    if len(values) > 1:
        raise BadRequest(f"the header {name} comes {len(values)} times")
    return values[0] if values else None


def replica_type(query: Query) -> str:
    """`primary` or `secondary` (what a caller that says nothing stores is a primary)."""
    text = query.get("replica_type")
    if text not in (None, "primary", "secondary"):
        raise BadRequest(f"replica_type must be primary or secondary, not {text[:80]!r}")
    return text or "primary"


def piece_range(headers: Headers, count: int) -> tuple[int, int]:
    """First and last piece asked for by `X-Dfs-Pieces`, of a chunk that has `count` pieces.

    (0, count - 1) when the header is absent. Raises RangeNotSatisfiable beyond the chunk.
    """
    text = single_header(headers, "X-Dfs-Pieces")
    if text is None:
        return 0, count - 1
    match = _PIECES.match(text)
    if not match or int(match[1]) > int(match[2]):
        raise BadRequest(f"X-Dfs-Pieces must be FIRST-LAST, two piece numbers, not {text[:80]!r}")
    first, last = int(match[1]), int(match[2])
    if last >= count:
        raise RangeNotSatisfiable(f"the chunk has {count} pieces, X-Dfs-Pieces asks for {first} to {last}")
    return first, last


def piece_crcs(headers: Headers, length: int) -> tuple[int, ...] | None:
    """`X-Dfs-Piece-Crcs` of a body of `length` bytes: eight hexadecimal digits for each piece; None when absent."""
    text = single_header(headers, "X-Dfs-Piece-Crcs")
    if text is None:
        return None
    pieces = -(-length // PIECE)
    if len(text) != 8 * pieces or not _HEX.match(text):
        raise BadRequest(
            f"X-Dfs-Piece-Crcs must have 8 hexadecimal digits for each of {pieces} pieces of {PIECE} bytes"
        )
    return struct.unpack(f">{pieces}I", bytes.fromhex(text))


def verified_by_caller(headers: Headers) -> bool:
    """Whether the caller checks every piece itself (`X-Dfs-Verify: caller`)."""
    return single_header(headers, "X-Dfs-Verify") == "caller"


def file_ids(payload: dict[str, Any]) -> list[str]:
    """The member `file_ids`: at most MAX_ITEMS UUIDs."""
    items = _members(payload, "file_ids")
    return [parse_file_id(item if isinstance(item, str) else repr(item)) for item in items]


def chunk_keys(payload: dict[str, Any]) -> list[tuple[str, int]]:
    """The member `chunks`: at most MAX_CHUNKS pairs of file id and chunk index."""
    items = payload.get("chunks")
    if not isinstance(items, list) or len(items) > MAX_CHUNKS:
        raise BadRequest(f"chunks must be a list of at most {MAX_CHUNKS} pairs [file_id, index]")
    found = []
    for item in items:
        if not isinstance(item, list) or len(item) != 2 or not isinstance(item[0], str):
            raise BadRequest("every chunk must be a pair [file_id, index]")
        if type(item[1]) is not int or not 0 <= item[1] < INDEX_LIMIT:  # not isinstance: true is no number
            raise BadIndex(f"an index must be a whole number below {INDEX_LIMIT}")
        found.append((parse_file_id(item[0]), item[1]))
    return found


def notes(payload: dict[str, Any]) -> list[dict[str, Any]]:
    """The member `notes`: at most MAX_ITEMS objects."""
    items = _members(payload, "notes")
    for item in items:
        if not isinstance(item, dict):
            raise BadRequest("every note must be an object")
    return items


def _members(payload: dict[str, Any], name: str) -> list[Any]:
    items = payload.get(name)
    if not isinstance(items, list) or len(items) > MAX_ITEMS:
        raise BadRequest(f"{name} must be a list of at most {MAX_ITEMS} items")
    return items


@dataclass(frozen=True, slots=True)
class PullSource:
    """Where to pull a chunk from, and what it must turn out to be."""

    node_id: str
    address: str
    port: int
    checksum: str
    length: int
    chunk_size: int
    file_size: int | None

    @classmethod
    def parse(cls, payload: dict[str, Any], max_length: int) -> PullSource:
        """From the body of a pull call; `max_length` is the longest chunk taken here."""
        node_id, checksum = payload.get("node_id"), payload.get("checksum")
        if not isinstance(node_id, str) or not is_node_id(node_id):
            raise BadRequest("node_id must name the node to pull from")
        if not isinstance(checksum, str):
            raise BadRequest("checksum must be 64 hexadecimal digits")
        length = _integer(payload, "length", 0, max_length)
        return cls(
            node_id=node_id,
            address=_ip_address(payload.get("address")),
            port=_integer(payload, "port", 1, 65535),
            checksum=parse_sha256(checksum, "checksum"),
            length=length,
            chunk_size=_integer(payload, "chunk_size", max(1, length), SIZE_LIMIT),
            file_size=None if payload.get("file_size") is None else _integer(payload, "file_size", length, SIZE_LIMIT),
        )


def _integer(payload: dict[str, Any], name: str, low: int, high: int) -> int:
    value = payload.get(name)
    if type(value) is not int or not low <= value <= high:  # not isinstance: true is no number
        raise BadRequest(f"{name} must be a whole number from {low} to {high}")
    return value


def _ip_address(value: object) -> str:
    try:
        if isinstance(value, str):
            return str(ipaddress.ip_address(value))
    except ValueError:
        pass  # falls through to the one refusal below
    raise BadRequest("address must be the IP address of the node to pull from")
