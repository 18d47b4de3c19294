"""Requests and responses as handlers see them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dfs.wire.strict_json import parse_json_object
from dfs.wire.target import EMPTY_QUERY, Query

if TYPE_CHECKING:
    from dfs.wire.body import Body
    from dfs.wire.server import HttpServer

__all__ = ["Headers", "Piece", "Query", "Request", "Response", "parse_json_object"]


class Headers:
    """Header fields: ordered, case-insensitive, immutable; values are latin-1 text."""

    __slots__ = ("_first", "_items", "_raw")

    def __init__(self, items: Iterable[tuple[str, str]] = ()) -> None:
        self._items: tuple[tuple[str, str], ...] | None = tuple(items)
        self._raw: Sequence[tuple[bytes, bytes]] = ()
        self._first: dict[str, str] | None = None

    @classmethod
    def from_raw(cls, raw: Sequence[tuple[bytes, bytes]]) -> Headers:
        """Headers of validated wire bytes, decoded only when somebody looks."""
        made = cls.__new__(cls)
        made._items = None
        made._first = None
        made._raw = raw
        return made

    def _all(self) -> tuple[tuple[str, str], ...]:
        if self._items is None:
            self._items = tuple(
                (name.decode("latin-1"), value.strip(b" \t").decode("latin-1")) for name, value in self._raw
            )
        return self._items

    def get(self, name: str, default: str | None = None) -> str | None:
        """The first value of `name`, else `default`."""
        first = self._first
        if first is None:
            first = self._first = {key.lower(): value for key, value in reversed(self._all())}
        return first.get(name.lower(), default)

    def get_all(self, name: str) -> list[str]:
        """Every value of `name`, in order."""
        first = self.get(name)
        if first is None:
            return []
        if self._first is not None and len(self._first) == len(self._all()):  # no name comes twice
            return [first]
        wanted = name.lower()
        return [value for key, value in self._all() if key.lower() == wanted]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.get(name) is not None

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def __repr__(self) -> str:
        return f"Headers({list(self._all())!r})"


@dataclass(slots=True)
class Request:
    """One request. `target` is raw; `path` is decoded once; `params` come from the route's pattern.

    `host` is the Host header, its syntax checked; None when an HTTP/1.0 client sent none.
    """

    method: str
    target: str
    path: str
    headers: Headers
    body: Body
    query: Query = EMPTY_QUERY
    params: dict[str, str] = field(default_factory=dict)
    peer: tuple[str, int] = ("", 0)
    request_id: str = ""
    server: HttpServer | None = None
    host: str | None = None


Piece = bytes | bytearray | memoryview


@dataclass(slots=True)
class Response:
    """An answer.

    `body` bytes are sent with their Content-Length. An iterable with `length` must produce exactly
    that many bytes, else the connection is aborted so that the answer never looks complete; without
    `length` it is sent chunked. Each piece is sent before the next is asked for. The first piece is
    asked for before the head is sent: an error raised there still becomes a proper error answer.
    An iterable's `close()`, where it has one, is always called.
    """

    status: int
    headers: Sequence[tuple[str, str]] = ()
    body: Piece | Iterable[Piece] | None = None
    length: int | None = None

    @classmethod
    def json(cls, status: int, obj: Any, headers: Sequence[tuple[str, str]] = ()) -> Response:
        """`obj` as a JSON body, one line."""
        data = json.dumps(obj, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return cls(status, [("Content-Type", "application/json"), *headers], data.encode("utf-8") + b"\n")

    @classmethod
    def text(cls, status: int, text: str, headers: Sequence[tuple[str, str]] = ()) -> Response:
        """`text` as a plain UTF-8 body, as it stands."""
        return cls(status, [("Content-Type", "text/plain; charset=utf-8"), *headers], text.encode("utf-8"))

    @classmethod
    def empty(cls, status: int, headers: Sequence[tuple[str, str]] = ()) -> Response:
        """No body."""
        return cls(status, list(headers), None)
