"""Sending a file: conditions, the range, and bytes that were verified before they are passed on."""

from __future__ import annotations

from collections.abc import Callable

from dfs.api.answers import etag_header, file_headers
from dfs.api.conditions import Outcome, check_read, http_date, range_applies
from dfs.api.ranges import parse_range
from dfs.api.service import Service
from dfs.errors import NotFound, Unavailable
from dfs.model import Head
from dfs.wire.message import Request, Response

_RESTARTS = 5


def send_file(service: Service, request: Request, find: Callable[[], Head]) -> Response:
    """Answer a GET or HEAD of the file that `find` names (it raises NotFound when there is none).

    The first piece is fetched before the answer begins: a chunk that no node can serve is a clean
    503, and a file that is gone by then (replaced and erased between two looks) is looked up again.
    """
    for _ in range(_RESTARTS):
        head = find()
        try:
            return _answer(service, request, head)
        except NotFound:
            continue
    raise Unavailable("the file changes faster than it can be read; try again")


def _answer(service: Service, request: Request, head: Head) -> Response:
    headers = request.headers
    if check_read(headers, head.file_id, head.modified) is Outcome.NOT_MODIFIED:
        return Response.empty(304, [etag_header(head), ("Last-Modified", http_date(head.modified))])
    ranges = headers.get_all("Range") if request.method == "GET" else []
    asked = None
    if len(ranges) == 1 and range_applies(headers, head.file_id, head.modified, service.now()):
        asked = parse_range(ranges[0], head.size)
    first, last = (0, head.size - 1) if asked is None else (asked.first, asked.last)
    fields = [("Content-Type", head.content_type), *file_headers(head)]
    if asked is not None:
        fields.append(("Content-Range", f"bytes {first}-{last}/{head.size}"))
    length = last - first + 1
    if request.method == "HEAD" or not length:
        return Response(200, fields, None, length)
    pieces = service.source.stream(head.file_id, head.size, head.chunk_size, first, last)
    return Response(200 if asked is None else 206, fields, pieces, length)
