"""The seam between the client and the wire: what it asks of a connection pool, and how requests
are spelt. Tests put a scripted transport here."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, Protocol
from urllib.parse import quote

from dfs import errors
from dfs.client.endpoint import Endpoint
from dfs.client.failures import LocalFailure, Unreachable
from dfs.errors import DfsError
from dfs.wire.client import ConnectFailed, TransportError
from dfs.wire.deadline import Deadline
from dfs.wire.message import Headers

Body = bytes | memoryview | Iterable[bytes] | None

MAX_JSON = 16 << 20
"""Largest JSON answer that is read into memory; longer ones are streamed or not ours."""

_MAX_ERROR = 64 << 10
_PIECE = 64 << 10
_ERRNO = re.compile(r"\[Errno -?[0-9]+\] ")
_HEADER_VALUE = re.compile(r"[\x20-\x7e]*")


class Answer(Protocol):
    """The answer to a request: head read, body not."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Headers: ...
    @property
    def length(self) -> int | None: ...
    def read(self, n: int = -1) -> bytes: ...
    def close(self) -> None: ...


class Transport(Protocol):
    """What `dfs.wire.client.HttpClient` does."""

    def request(
        self,
        host: str,
        port: int,
        method: str,
        target: str,
        *,
        headers: Sequence[tuple[str, str]] = (),
        body: Body = None,
        length: int | None = None,
        deadline: Deadline,
        stall: float,
        expect_continue: bool = False,
        repeatable: bool = False,
    ) -> Answer: ...

    def close(self) -> None: ...


def target(path: str, **query: str | int | None) -> str:
    """A request target: `path` is already encoded, `query` members that are None are left out."""
    pairs = "&".join(f"{name}={quote(str(value), safe='')}" for name, value in query.items() if value is not None)
    return f"{path}?{pairs}" if pairs else path


def file_target(path: str, **query: str | int | None) -> str:
    """The target of `/files/{path}`, percent-encoded once."""
    return target("/files/" + quote(path, safe="/"), **query)


def header(name: str, value: str) -> tuple[str, str]:
    """A request header; raises BadRequest for a value that cannot be one."""
    if not _HEADER_VALUE.fullmatch(value):
        raise errors.BadRequest(f"{name} must be printable ASCII, not {value[:80]!r}")
    return name, value


def translate(error: TransportError, endpoint: Endpoint, *, writes: bool) -> DfsError:
    """A failed connection as an error of the tree.

    Nothing was sent: `Unreachable`. Lost in the middle: `Unavailable` for reads, `Unknown` for
    writes, whose outcome only a repeat under the same operation id tells. No server asked for a
    pause, so `retry_after` is 0.
    """
    reason = _ERRNO.sub("", str(error)) or f"no answer from {endpoint.url}"
    if isinstance(error, ConnectFailed):
        return Unreachable(reason, retry_after=0)
    if writes:
        return errors.Unknown(f"{reason}, so the outcome is not known", retry_after=0)
    return errors.Unavailable(reason, retry_after=0)


_BY_STATUS: dict[int, type[DfsError]] = {
    304: errors.ConditionFailed,
    403: errors.Forbidden,
    404: errors.NotFound,
    408: errors.RequestTimeout,
    410: errors.Gone,
    412: errors.ConditionFailed,
    416: errors.RangeNotSatisfiable,
}


def refusal(answer: Answer, what: str) -> DfsError:
    """The error that a non-2xx `answer` stands for; reads and closes it.

    An answer without a body (to HEAD) is judged by its status. `what` names the thing asked for.
    """
    status = answer.status
    after = _retry_after(answer.headers)
    try:
        data = answer.read(_MAX_ERROR)
    except TransportError:
        data = b""  # its status says enough
    finally:
        answer.close()
    try:
        payload = json.loads(data)
    except (ValueError, RecursionError):
        payload = None
    if not data and status in _BY_STATUS:
        return _BY_STATUS[status](_phrase(status, what), retry_after=after)
    return errors.from_answer(status, payload, after)


def _phrase(status: int, what: str) -> str:
    phrases = {
        304: "it is still the same file",
        404: "there is no such file",
        410: "it was deleted for good",
        412: "the condition does not hold",
    }
    return f"{what}: {phrases.get(status, f'the server answered {status}')}"


def _retry_after(headers: Headers) -> int | None:
    text = headers.get("Retry-After") or ""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 6 else None


def read_json(answer: Answer) -> Any:
    """The JSON value of a 2xx `answer`, read to its end and closed.

    Raises LocalFailure when it is not JSON or longer than MAX_JSON.
    """
    data = bytearray()
    while len(data) <= MAX_JSON and (piece := answer.read(_PIECE)):
        data += piece
    answer.close()
    if len(data) > MAX_JSON:
        raise LocalFailure("the server's answer is too long: is that URL a dfs API server?")
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise LocalFailure("the server's answer is not JSON: is that URL a dfs API server?") from None
