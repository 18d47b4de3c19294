"""The `If-…` headers: pure. ETags are quoted file ids, so a matching ETag means the same bytes.

Entity tags that cannot be read are an error rather than ignored: a write whose condition is silently
dropped overwrites what its sender meant to protect. Dates that cannot be read are ignored (RFC 9110).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from email.utils import formatdate
from enum import Enum

from dfs.errors import BadRequest, ConditionFailed
from dfs.metadata.operations import Precondition
from dfs.wire.message import Headers

_DATES = ("%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %d %H:%M:%S %Y")
_TAG = re.compile(r'[ \t]*(W/)?"([\x21\x23-\x7e\x80-\xff]*)"[ \t]*(?:,|\Z)')


@dataclass(frozen=True, slots=True)
class Tags:
    """An entity-tag list: `*`, or tags in order as (weak, text without quotes)."""

    anything: bool
    tags: tuple[tuple[bool, str], ...] = ()

    def strong(self) -> tuple[str, ...]:
        """What a strong comparison may match (If-Match, If-Range)."""
        return ("*",) if self.anything else tuple(text for weak, text in self.tags if not weak)

    def weak(self) -> tuple[str, ...]:
        """What a weak comparison may match (If-None-Match)."""
        return ("*",) if self.anything else tuple(text for _, text in self.tags)


class Outcome(Enum):
    """What the conditions of a read lead to when none of them fails."""

    SEND = 200
    NOT_MODIFIED = 304


def etag(file_id: str) -> str:
    """The entity tag of a file."""
    return f'"{file_id}"'


def http_date(milliseconds: int) -> str:
    """A time as HTTP writes it (whole seconds, GMT)."""
    return formatdate(milliseconds // 1000, usegmt=True)


def parse_tags(name: str, values: Sequence[str]) -> Tags | None:
    """The entity tags of header `name` (its field lines in order); None when it is absent."""
    if not values:
        return None
    value = ",".join(values).strip(" \t")
    if value == "*":
        return Tags(anything=True)
    tags: list[tuple[bool, str]] = []
    position = 0
    while position < len(value):
        match = _TAG.match(value, position)
        if match is None:
            break
        tags.append((match[1] is not None, match[2]))
        position = match.end()
    if position < len(value) or not tags or value.endswith(","):
        raise BadRequest(f"{name} must be * or a list of quoted entity tags")
    return Tags(anything=False, tags=tuple(tags))


def write_condition(headers: Headers) -> Precondition:
    """The condition of a write: If-Match and If-None-Match.

    A date condition is refused: times of one second cannot protect a write.
    """
    for name in ("If-Unmodified-Since", "If-Modified-Since"):
        if name in headers:
            raise BadRequest(f"{name} does not protect a write here; use If-Match with the ETag")
    match = parse_tags("If-Match", headers.get_all("If-Match"))
    none_match = parse_tags("If-None-Match", headers.get_all("If-None-Match"))
    return Precondition(
        if_match=match.strong() if match else None,
        if_none_match=none_match.weak() if none_match else None,
    )


def check_read(headers: Headers, file_id: str, modified: int) -> Outcome:
    """Evaluate a read's conditions in the order of RFC 9110, 13.2.2. Raises ConditionFailed."""
    match = parse_tags("If-Match", headers.get_all("If-Match"))
    none_match = parse_tags("If-None-Match", headers.get_all("If-None-Match"))
    if match is not None:
        if not match.anything and file_id not in match.strong():
            raise ConditionFailed("the file is another one than If-Match names")
    else:
        limit = _seconds(headers.get("If-Unmodified-Since"))
        if limit is not None and modified // 1000 > limit:
            raise ConditionFailed("the file was modified after If-Unmodified-Since")
    if none_match is not None:
        if none_match.anything or file_id in none_match.weak():
            return Outcome.NOT_MODIFIED
    else:
        since = _seconds(headers.get("If-Modified-Since"))
        if since is not None and modified // 1000 <= since:
            return Outcome.NOT_MODIFIED
    return Outcome.SEND


def range_applies(headers: Headers, file_id: str, modified: int, now: int) -> bool:
    """Whether If-Range (if any) lets the Range count.

    A date counts only when it is the file's own and at least a second old: a file replaced within
    the second would share it.
    """
    value = headers.get("If-Range")
    if value is None:
        return True
    if value.lstrip().startswith(('"', "W/")):
        try:
            tags = parse_tags("If-Range", [value])
        except BadRequest:
            return False
        return tags is not None and len(tags.tags) == 1 and file_id in tags.strong()
    return _seconds(value) == modified // 1000 and now - modified >= 1000


def _seconds(value: str | None) -> int | None:
    """An HTTP date in any of its three forms, as seconds since 1970; None when it is none."""
    for form in _DATES if value is not None else ():
        try:
            moment = datetime.strptime(value or "", form)
        except ValueError:
            continue
        return int((moment - datetime(1970, 1, 1)).total_seconds())
    return None
