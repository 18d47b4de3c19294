"""What handlers read out of requests: every parameter has one reader, and one complaint."""

from __future__ import annotations

import re
from typing import Any

from dfs.api.known import Buckets
from dfs.errors import BadIndex, BadRequest
from dfs.model import DEFAULT_BUCKET, is_file_id, parse_file_id
from dfs.wire.message import Request

_DIGITS = re.compile(r"[0-9]{1,18}\Z")
_FLAGS = {"1": True, "true": True, "0": False, "false": False}


def bucket_of(buckets: Buckets, request: Request) -> str:
    """The optional query parameter `bucket`, a bucket that exists. Raises NotFound, BadPath."""
    name = request.query.get("bucket")
    return buckets.require(DEFAULT_BUCKET if name is None else name)


def file_id_of(request: Request) -> str:
    """The required query parameter `file_id`."""
    text = request.query.get("file_id")
    if not text:
        raise BadRequest("the query parameter file_id is missing")
    return parse_file_id(text)


def file_id_of_path(request: Request) -> str:
    """The path parameter `file_id`."""
    return parse_file_id(request.params["file_id"])


def chunk_index_of(request: Request) -> int:
    """The required query parameter `chunk_index`."""
    text = request.query.get("chunk_index")
    if not text:
        raise BadRequest("the query parameter chunk_index is missing")
    if not _DIGITS.match(text):
        raise BadIndex(f"chunk_index must be a whole number from 0, not {text[:40]!r}")
    return int(text)


def flag_of(request: Request, name: str) -> bool:
    """The optional query parameter `name`: 1 or true, 0 or false; absent is false."""
    text = request.query.get(name)
    if text is None:
        return False
    if text not in _FLAGS:
        raise BadRequest(f"the query parameter {name} must be 1 or 0, not {text[:40]!r}")
    return _FLAGS[text]


def number_of(request: Request, name: str, default: int, low: int, high: int) -> int:
    """The optional query parameter `name`, a whole number from `low` to `high`."""
    text = request.query.get(name)
    if text is None:
        return default
    if not _DIGITS.match(text) or not low <= int(text) <= high:
        raise BadRequest(f"the query parameter {name} must be a whole number from {low} to {high}, not {text[:40]!r}")
    return int(text)


def operation_id(request: Request) -> str | None:
    """The operation id that the client chose (`X-Dfs-Op` or `Idempotency-Key`), None without one.

    Only version 4 UUIDs: for an upload it becomes the file id, and an id that others might choose
    too ("1") would make two uploads one. Raises BadRequest.
    """
    given = {
        text.strip().strip('"')
        for name in ("X-Dfs-Op", "Idempotency-Key")
        for text in request.headers.get_all(name)
    }
    if not given:
        return None
    if len(given) > 1:
        raise BadRequest("X-Dfs-Op and Idempotency-Key name different operations")
    text = given.pop()
    if not is_file_id(text):
        raise BadRequest(f"an operation id (X-Dfs-Op, Idempotency-Key) must be a version 4 UUID, not {text[:80]!r}")
    return text.lower()


def expects_continue(request: Request) -> bool:
    """Whether the client waits for a word from us before it sends its body."""
    return (request.headers.get("Expect") or "").lower() == "100-continue" and not request.body.started


def optional_text(fields: dict[str, Any], name: str) -> str | None:
    """An optional string of a JSON body; raises BadRequest for anything else."""
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or not value:
        raise BadRequest(f"{name} must be a non-empty string")
    return value


def whole_number(fields: dict[str, Any], name: str) -> int | None:
    """An optional whole number of a JSON body; true, 1.5, 1.0 and "1" are none."""
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise BadRequest(f"{name} must be a whole number")
    return value
