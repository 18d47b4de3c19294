"""Where a listing goes on, as clients carry it: opaque text, checked when it comes back."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

from dfs.errors import BadRequest
from dfs.model import MAX_PATH_BYTES

_LONGEST = 4 * MAX_PATH_BYTES


def encode(place: Sequence[Any]) -> str:
    """A cursor that stands for `place`, a short list of texts, numbers and flags."""
    raw = json.dumps(place, ensure_ascii=False).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def decode(cursor: str) -> list[Any]:
    """The place that a cursor stands for. Whoever asks checks what is in it, and may raise `foreign`.

    Raises BadRequest for what `encode` cannot have made."""
    try:
        if len(cursor) > _LONGEST:
            raise ValueError
        raw = base64.b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        place = json.loads(raw)
        json.dumps(place, ensure_ascii=False).encode()  # half of a surrogate pair is no text
    except (ValueError, RecursionError):
        raise foreign() from None
    if not isinstance(place, list):
        raise foreign()
    return place


def foreign() -> BadRequest:
    """The error for a cursor that another listing gave, or nobody."""
    return BadRequest("cursor is not one that this listing gave")
