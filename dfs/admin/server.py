"""The API server as operators' commands speak to it: JSON in, JSON out, one error tree.

Several servers may be named (`--api`, DFS_API); they are asked in turn until one answers. A command whose
answer was lost is not sent to another server: it may have been done, and the error says so.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from types import TracebackType
from typing import Any, Self

from dfs import __version__
from dfs.client.endpoint import Endpoint, parse_endpoints
from dfs.client.failures import LocalFailure
from dfs.client.transport import Answer, Transport, read_json, refusal, translate
from dfs.errors import DfsError, Unavailable, Unknown
from dfs.settings import AdminSettings
from dfs.wire.client import HttpClient, TransportError
from dfs.wire.deadline import Deadline

TIMEOUT = 30.0
"""Seconds for one answer: plans read a good deal of metadata."""


class Server:
    """One of the API servers that `urls` names. Not thread-safe; close it, or use it as a context manager.

    Raises SettingsError for URLs that name no server.
    """

    def __init__(self, urls: str, *, transport: Transport | None = None) -> None:
        self._endpoints = list(parse_endpoints(urls))
        self._http: Transport = transport or HttpClient(user_agent=f"dfs-admin/{__version__}")

    @property
    def url(self) -> str:
        """The server that answered last (the first one named, before any did)."""
        return self._endpoints[0].url

    def call(
        self, method: str, path: str, *, body: dict[str, Any] | None = None, timeout: float = TIMEOUT
    ) -> dict[str, Any]:
        """The JSON object that `method path` (a request target, encoded) is answered with.

        Raises the error that a refusal stands for, Unavailable when no server answers within `timeout`
        seconds, Unknown when the answer to a change was lost, LocalFailure when it is not ours.
        """
        with contextlib.closing(self._ask(method, path, body, timeout)) as answer:
            found = _json_of(answer, method)
        if not isinstance(found, dict):
            raise LocalFailure("the server's answer is not a JSON object: is that URL a dfs API server?")
        return found

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def _ask(self, method: str, path: str, body: dict[str, Any] | None, timeout: float) -> Answer:
        """The answer of the first server that gives one. Who answered is asked first from then on."""
        failure: DfsError | None = None
        for endpoint in tuple(self._endpoints):
            try:
                answer = self._send(endpoint, method, path, body, timeout)
            except Unknown:
                raise
            except Unavailable as error:  # by its definition nothing was done: the next may do it
                failure = failure or error
                continue
            self._endpoints.remove(endpoint)
            self._endpoints.insert(0, endpoint)
            return answer
        assert failure is not None
        raise failure

    def _send(
        self, endpoint: Endpoint, method: str, path: str, body: dict[str, Any] | None, timeout: float
    ) -> Answer:
        data = None if body is None else json.dumps(body).encode()
        headers = [] if data is None else [("Content-Type", "application/json")]
        try:
            answer = self._http.request(
                endpoint.host,
                endpoint.port,
                method,
                path,
                headers=headers,
                body=data,
                deadline=Deadline(timeout),
                stall=timeout,
                repeatable=method == "GET",
            )
        except TransportError as error:
            raise translate(error, endpoint, writes=method != "GET") from error
        if 200 <= answer.status < 300:
            return answer
        raise refusal(answer, path)


def _json_of(answer: Answer, method: str) -> object:
    """The JSON value; a connection that breaks within the answer as an error of the tree."""
    try:
        return read_json(answer)
    except TransportError as error:
        if method == "GET":
            raise Unavailable(f"the answer broke off: {error}", retry_after=0) from error
        raise Unknown(f"the answer broke off, so the outcome is not known: {error}", retry_after=0) from error


def add_api_option(parser: argparse.ArgumentParser) -> None:
    """The option `--api` of a command that talks to a server."""
    parser.add_argument("--api", metavar="URL", help="the API server, or several, comma-separated (default: DFS_API)")


def connect(settings: AdminSettings, arguments: argparse.Namespace) -> Server:
    """The server that `--api` or else DFS_API names; raises SettingsError."""
    return Server(arguments.api or settings.api)
