"""Requests of one connection, one after the other: parse, route, handle, answer.

This is the only place where errors become answers.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, cast

from dfs import logs
from dfs.errors import DfsError, PayloadTooLarge
from dfs.wire.answer import Answer, AnswerBroken, error_response
from dfs.wire.body import Body
from dfs.wire.connection import Connection, Fate
from dfs.wire.head import HeadLimits, RequestHead, RequestHeads
from dfs.wire.link import PeerGone
from dfs.wire.message import Request, Response
from dfs.wire.pace import Pace, TooSlow
from dfs.wire.target import EMPTY_QUERY, Query, origin_form, percent_decode

if TYPE_CHECKING:
    from dfs.wire.server import HttpServer

_CLOSE = "Connection: close\r\n"
_KEEP = "Connection: keep-alive\r\n"


class Exchanges:
    """Serves the requests of connections for `server`; used by every worker at once."""

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._limits = server.limits
        self._heads = RequestHeads(HeadLimits(server.limits.line_bytes, server.limits.header_lines))

    def serve(self, connection: Connection) -> Fate:
        """Answer requests as long as they come at once; then say what shall become of the connection."""
        link, limits, server = connection.link, self._limits, self._server
        while True:
            fate = self._one(connection)
            if fate is not Fate.WAIT or connection.skip:
                return fate
            crowded = server.crowded()
            if not link.data:
                if crowded or not (server.at_ease() or link.readable(limits.hot_seconds)):
                    return Fate.WAIT
                came = link.listen()
                if not came:
                    return Fate.WAIT if came is None else Fate.CLOSE
            if not connection.has_work(limits):
                return Fate.WAIT
            if crowded:
                return Fate.READY

    def _one(self, connection: Connection) -> Fate:
        request_id = self._server.next_request_id()
        connection.requests += 1
        cast(Pace, connection.link.patience).restart()
        try:
            head = self._heads.parse(connection.take_head(self._limits))
        except DfsError as error:
            return self._refuse(connection, error, request_id)
        started = time.monotonic()
        framing = head.framing
        length = None if framing.chunked else framing.length or 0
        body = Body(connection.link, length, expects_continue=head.expects_continue)
        try:
            response = self._handle(connection, head, body, request_id)
        except Exception as error:
            response = self._failure(error, head, request_id)
        fate, status, sent = self._answer(connection, head, body, response, request_id)
        if self._server.access_log:
            logs.event(
                "request",
                id=request_id,
                peer=connection.peer[0],
                method=head.method,
                path=head.target.partition("?")[0],
                status=status,
                sent=sent,
                ms=round((time.monotonic() - started) * 1000.0, 1),
                fate=fate.value,
            )
        return fate

    def _handle(self, connection: Connection, head: RequestHead, body: Body, request_id: str) -> Response:
        target = head.target if head.target[0] == "/" and "#" not in head.target else ""
        if not target:
            target = origin_form(head.target, head.host)
        raw_path, mark, raw_query = target.partition("?")
        route, params = self._server.router.find(head.method, raw_path)
        query = Query(raw_query) if mark else EMPTY_QUERY
        limit = route.body_limit
        if limit is not None:
            length = body.length
            if length is None:
                if not limit:
                    raise PayloadTooLarge("this endpoint takes no body")
                body.limit = limit
            elif length > limit:
                raise PayloadTooLarge(
                    f"the body is larger than {limit} bytes" if limit else "this endpoint takes no body"
                )
        request = Request(
            head.method,
            head.target,
            percent_decode(raw_path),
            head.headers,
            body,
            query,
            params,
            connection.peer,
            request_id,
            self._server,
            head.host,
        )
        return route.handler(request)

    def _failure(self, error: Exception, head: RequestHead, request_id: str) -> Response:
        """The answer that `error` stands for; what is not a DfsError is a bug: logged, never sent."""
        if isinstance(error, DfsError):
            try:
                return error_response(error, request_id)
            except (TypeError, ValueError) as bug:  # details that are no JSON
                error = bug
        path = head.target.partition("?")[0]
        logs.error("internal_error", exc=error, id=request_id, method=head.method, path=path)
        return error_response(DfsError("internal error; the server's log has it by this id"), request_id)

    def _refuse(self, connection: Connection, error: DfsError, request_id: str) -> Fate:
        """Answer a head that cannot be trusted; nothing behind it is ever looked at."""
        answer = Answer(error_response(error, request_id))
        answer.prepare(self._server.writer, request_id, method="GET", version=1, connection=_CLOSE)
        if self._server.access_log:
            logs.event(
                "refused", id=request_id, peer=connection.peer[0], status=error.status, code=error.code
            )
        try:
            answer.send(connection.link)
        except (PeerGone, TooSlow):
            return Fate.CLOSE
        return Fate.LINGER

    def _answer(
        self, connection: Connection, head: RequestHead, body: Body, response: Response, request_id: str
    ) -> tuple[Fate, int, int]:
        """Send `response`; returns the connection's fate, the status sent and the body bytes sent."""
        unread = body.unread
        keep = (
            head.persistent
            and unread is not None
            and unread <= self._limits.skip_bytes
            and not self._server.draining
        )
        if not keep:
            persistence = _CLOSE
        else:
            persistence = "" if head.version else _KEEP
        answer = Answer(response)
        try:
            try:
                answer.prepare(
                    self._server.writer,
                    request_id,
                    method=head.method,
                    version=head.version,
                    connection=persistence,
                )
            except Exception as error:  # the body's first step failed, before anything was sent
                self._close(answer, request_id)
                response = self._failure(error, head, request_id)
                keep, answer = False, Answer(response)
                answer.prepare(
                    self._server.writer,
                    request_id,
                    method=head.method,
                    version=head.version,
                    connection=_CLOSE,
                )
            cast(Pace, connection.link.patience).restart()  # a slow body must not cost the answer its time
            answer.send(connection.link)
        except (PeerGone, TooSlow) as error:
            logs.event("answer_cut", level=10, id=request_id, peer=connection.peer[0], why=error)
            return Fate.RESET, response.status, answer.sent
        except Exception as error:  # too late for an error answer: it must not look complete
            known = isinstance(error, (DfsError, AnswerBroken))
            logs.error("answer_broken", exc=None if known else error, id=request_id, why=error)
            return Fate.RESET, response.status, answer.sent
        finally:
            self._close(answer, request_id)
        rest = body.unread
        if keep and rest is not None and not answer.until_close:
            connection.skip = rest
            return Fate.WAIT, response.status, answer.sent
        plain = not head.persistent and rest == 0 and not connection.link.data
        return Fate.CLOSE if plain else Fate.LINGER, response.status, answer.sent

    def _close(self, answer: Answer, request_id: str) -> None:
        try:
            answer.close()
        except Exception as error:
            logs.error("answer_close_failed", exc=error, id=request_id)
