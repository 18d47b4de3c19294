"""The table of endpoints: method, pattern, handler, body limit."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dfs.errors import MethodNotAllowed, NotFound
from dfs.wire.message import Request, Response
from dfs.wire.target import percent_decode

Handler = Callable[[Request], Response]

_PARAMETER = re.compile(r"\{([a-z_]+)(\+?)\}")


@dataclass(frozen=True)
class Route:
    """One endpoint.

    `pattern` is a path whose segments are literal, `{name}` (one segment) or, last, `{name+}` (all
    the rest, with its slashes). `body_limit` is the largest body in bytes: 0 takes none, None any
    (the handler streams it). A GET route answers HEAD too, unless HEAD has a route of its own.
    """

    method: str
    pattern: str
    handler: Handler
    body_limit: int | None = 0
    name: str = ""
    doc: str = ""


class _Pattern:
    """A pattern taken apart, and its routes by method."""

    def __init__(self, pattern: str) -> None:
        if not pattern.startswith("/"):
            raise ValueError(f"the pattern {pattern!r} must begin with /")
        self.routes: dict[str, Route] = {}
        self.segments: list[tuple[str, bool]] = []  # (literal or parameter name, is parameter)
        self.rest: str | None = None
        parts = pattern[1:].split("/")
        for at, part in enumerate(parts):
            match = _PARAMETER.fullmatch(part)
            if match is None:
                if "{" in part or "}" in part:
                    raise ValueError(f"the pattern {pattern!r} has a malformed parameter")
                self.segments.append((part, False))
            elif not match[2]:
                self.segments.append((match[1], True))
            elif at == len(parts) - 1:
                self.rest = match[1]
            else:
                raise ValueError(f"the pattern {pattern!r} has a parameter for the rest before its end")

    def vagueness(self) -> tuple[bool, int]:
        """What patterns are tried in the order of: the more literal first."""
        return self.rest is not None, sum(is_parameter for _, is_parameter in self.segments)

    def first_is_literal(self) -> bool:
        """Whether only paths with one very first segment can match."""
        return bool(self.segments) and not self.segments[0][1]

    def match(self, parts: Sequence[str]) -> dict[str, str] | None:
        """The parameters when the raw path segments `parts` fit; raises BadRequest on a bad escape."""
        count = len(self.segments)
        if len(parts) != count if self.rest is None else len(parts) <= count:
            return None
        params: dict[str, str] = {}
        for (name, is_parameter), part in zip(self.segments, parts, strict=False):
            if is_parameter:
                params[name] = percent_decode(part)
            elif part != name and ("%" not in part or percent_decode(part) != name):
                return None
        if self.rest is not None:
            params[self.rest] = percent_decode("/".join(parts[count:]))
        return params


class Router:
    """Finds the route of a request."""

    def __init__(self, routes: Sequence[Route]) -> None:
        """Raises ValueError for a malformed pattern and for two routes of one method and pattern."""
        patterns: dict[str, _Pattern] = {}
        for route in routes:
            known = patterns.setdefault(route.pattern, _Pattern(route.pattern))
            if route.method in known.routes:
                raise ValueError(f"two routes for {route.method} {route.pattern}")
            known.routes[route.method] = route
        for known in patterns.values():
            if "GET" in known.routes:
                known.routes.setdefault("HEAD", known.routes["GET"])
        self.routes = tuple(routes)
        self._patterns = sorted(patterns.values(), key=_Pattern.vagueness)
        self._by_first: dict[str, list[_Pattern]] = {}
        for name in {each.segments[0][0] for each in self._patterns if each.first_is_literal()}:
            self._by_first[name] = [
                each for each in self._patterns if not each.first_is_literal() or each.segments[0][0] == name
            ]
        self._exact = {
            "/" + "/".join(name for name, _ in each.segments): each.routes
            for each in self._patterns
            if each.vagueness() == (False, 0)
        }

    def find(self, method: str, path: str) -> tuple[Route, dict[str, str]]:
        """The route of `method` and the raw (still escaped) `path`, and its parameters.

        Literal patterns win over patterns with parameters, those over patterns with a rest.
        Raises NotFound, MethodNotAllowed (with an Allow header), BadRequest (a bad escape).
        """
        exact = self._exact.get(path)
        if exact is not None:
            route = exact.get(method)
            if route is not None:
                return route, {}
        parts = path[1:].split("/")
        allowed: set[str] = set()
        for pattern in self._by_first.get(parts[0], self._patterns):  # an escaped one may be any
            params = pattern.match(parts)
            if params is None:
                continue
            route = pattern.routes.get(method)
            if route is not None:
                return route, params
            allowed.update(pattern.routes)
        percent_decode(path)
        if not allowed:
            raise NotFound("there is no such endpoint")
        allow = ", ".join(sorted(allowed))
        raise MethodNotAllowed(f"this endpoint takes {allow} only", headers=(("Allow", allow),))
