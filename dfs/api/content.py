"""Sending a file: conditions, the range, and bytes that were verified before they are passed on."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from dfs.api.answers import etag_header, file_headers
from dfs.api.conditions import Outcome, check_read, http_date, range_applies
from dfs.api.ranges import parse_range
from dfs.api.service import Service
from dfs.errors import NotFound, Unavailable
from dfs.model import Head
from dfs.wire.message import Request, Response

_RESTARTS = 5
_CONDITIONS = frozenset(
    ("range", "if-range", "if-match", "if-none-match", "if-modified-since", "if-unmodified-since")
)
_FIELDS_KEPT = 2048
"""Files whose headers are kept as they were last sent; about 1 KiB each."""


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
    asked = None
    if not _CONDITIONS.isdisjoint([name.lower() for name, _ in headers]):
        if check_read(headers, head.file_id, head.modified) is Outcome.NOT_MODIFIED:
            return Response.empty(304, [etag_header(head), ("Last-Modified", http_date(head.modified))])
        ranges = headers.get_all("Range") if request.method == "GET" else []
        if len(ranges) == 1 and range_applies(headers, head.file_id, head.modified, service.now()):
            asked = parse_range(ranges[0], head.size)
    fields = _fields(head.content_type, head.file_id, head.modified, head.sha256)
    if asked is None:
        first, last = 0, head.size - 1
    else:
        first, last = asked.first, asked.last
        fields = (*fields, ("Content-Range", f"bytes {first}-{last}/{head.size}"))
    length = last - first + 1
    if request.method == "HEAD" or not length:
        return Response(200, fields, None, length)
    pieces = service.source.stream(
        head.file_id, head.size, head.chunk_size, first, last, checksum=head.sha256
    )
    body = pieces if pieces.whole is None else pieces.whole
    return Response(200 if asked is None else 206, fields, body, length)


@lru_cache(maxsize=_FIELDS_KEPT)
def _fields(
    content_type: str, file_id: str, modified: int, sha256: str | None
) -> tuple[tuple[str, str], ...]:
    return (("Content-Type", content_type), *file_headers(file_id, modified, sha256))
