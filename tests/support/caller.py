"""A small, independent HTTP caller for fault tests: the standard library's client, one answer per call."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from urllib.parse import quote, urlencode


class NoAnswer(Exception):
    """The connection failed or broke off: whatever was asked may or may not have happened."""


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, object]:
        value = json.loads(self.body)
        assert isinstance(value, dict)
        return value

    @property
    def etag(self) -> str:
        return self.headers["etag"].strip('"')

    @property
    def code(self) -> str:
        """The error code of a JSON error."""
        error = self.json["error"]
        assert isinstance(error, dict)
        return str(error["code"])


class Caller:
    """Keep-alive calls to one server. Not for two threads at once."""

    def __init__(self, port: int, *, timeout: float = 60) -> None:
        self.port = port
        self._timeout = timeout
        self._connection: http.client.HTTPConnection | None = None

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def call(self, method: str, target: str, body: bytes | None = None, **headers: str) -> Answer:
        """Make one call; keyword `If_Match` is the header `If-Match`. Raises NoAnswer."""
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        fresh = self._connection is None
        if self._connection is None:
            self._connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=self._timeout)
        try:
            self._connection.request(method, target, body=body, headers=names)
            answer = self._connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            if not fresh and method == "GET":
                return self.call(method, target, body, **headers)
            raise NoAnswer(str(error)) from error
        return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, content)

    def file(self, method: str, path: str, body: bytes | None = None, *, query: dict[str, str] | None = None,
             **headers: str) -> Answer:  # fmt: skip
        """A call to `/files/{path}`."""
        target = "/files/" + quote(path) + (f"?{urlencode(query)}" if query else "")
        return self.call(method, target, body, **headers)
