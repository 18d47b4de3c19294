"""Request targets: the path, the query and the Host they belong to.

Everything is decoded exactly once, as strict UTF-8; whatever cannot be decoded is the sender's
mistake (`BadRequest`), never a guess.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from dfs.errors import BadRequest

MAX_QUERY_PAIRS = 100

_PERCENT = re.compile(rb"%([0-9A-Fa-f]{2})?")
_HOST = re.compile(r"(?:([A-Za-z0-9](?:[A-Za-z0-9_.-]{0,253}))|\[([0-9A-Fa-f:.]{2,45})\])(?::([0-9]{1,5}))?")
_AUTHORITY = re.compile(r"http://([^/?#]*)(.*)", re.IGNORECASE)


def percent_decode(text: str, *, plus: bool = False) -> str:
    """`text` with its percent escapes decoded once; `plus`: `+` is a space.

    Raises BadRequest for a `%` without two hex digits and for bytes that are not UTF-8.
    """
    if plus:
        text = text.replace("+", " ")
    if "%" not in text:
        return text

    def byte(match: re.Match[bytes]) -> bytes:
        digits = match[1]
        if digits is None:
            raise BadRequest("the request target has a % that two hex digits do not follow")
        return bytes((int(digits, 16),))

    try:
        return _PERCENT.sub(byte, text.encode("ascii")).decode("utf-8")
    except UnicodeError:
        raise BadRequest("the request target is not valid UTF-8 once decoded") from None


def is_host(text: str) -> bool:
    """Whether `text` is a host name, an IPv4 address or a bracketed IPv6 address, with or without port."""
    match = _HOST.fullmatch(text)
    if match is None or (match[3] is not None and int(match[3]) > 65535):
        return False
    if match[2] is None:
        return True
    try:
        ipaddress.IPv6Address(match[2])
    except ValueError:
        return False
    return True


def origin_form(target: str, host: str | None) -> str:
    """`target` as it stands when it begins with `/`; of an absolute URL, the part after the host.

    Raises BadRequest for every other form (`*`, `host:port`), for a fragment, and for an absolute
    URL whose host is not the request's Host.
    """
    if "#" in target:
        raise BadRequest("the request target contains a fragment")
    if target[0] == "/":
        return target
    match = _AUTHORITY.fullmatch(target)
    if match is None:
        raise BadRequest("the request target must begin with /")
    if host is not None and match[1].lower() != host.lower():
        raise BadRequest("the request target names another host than the Host header")
    if host is None and not is_host(match[1]):
        raise BadRequest("the request target names no valid host")
    rest = match[2]
    return rest if rest.startswith("/") else "/" + rest


class Query:
    """The decoded query of a request. A name may occur once only."""

    __slots__ = ("_pairs",)

    def __init__(self, text: str = "") -> None:
        """Parse `a=1&b=x+y` (without the `?`); raises BadRequest when it cannot be decoded."""
        pairs: list[tuple[str, str]] = []
        plain = "%" not in text and "+" not in text
        for part in text.split("&", MAX_QUERY_PAIRS) if text else ():
            if part:
                name, _, value = part.partition("=")
                if not plain:
                    name, value = percent_decode(name, plus=True), percent_decode(value, plus=True)
                pairs.append((name, value))
        if len(pairs) > MAX_QUERY_PAIRS:
            raise BadRequest(f"the query has more than {MAX_QUERY_PAIRS} parameters")
        self._pairs = tuple(pairs)

    def get(self, name: str) -> str | None:
        """The value of `name`, None when it is absent; raises BadRequest when it occurs twice."""
        found: str | None = None
        for key, value in self._pairs:
            if key == name:
                if found is not None:
                    raise BadRequest(f"the query parameter {name} occurs more than once")
                found = value
        return found

    @property
    def items(self) -> tuple[tuple[str, str], ...]:
        """All names and values in order."""
        return self._pairs

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._pairs)

    def __len__(self) -> int:
        return len(self._pairs)


EMPTY_QUERY = Query()
