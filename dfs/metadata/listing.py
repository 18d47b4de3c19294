"""Listing paths: prefix, delimiter, pages. Each page is read strongly consistently.

A path that exists during the whole listing is listed once, in whichever pages it is asked for.
Common prefixes are skipped over, not read through: listing the top of a bucket costs at most one query
per prefix however many files lie below. How much is read at once follows what the reads before it
were good for: little where much lies below each prefix, much where most of it is listed. (Python compares text by code points, which is the order of
its UTF-8 bytes.)
"""

from __future__ import annotations

from dataclasses import dataclass

from dfs.errors import BadRequest
from dfs.metadata import cursor as cursors
from dfs.metadata.contract import MetadataStore
from dfs.metadata.keys import prefix_end
from dfs.model import MAX_PATH_BYTES, Head

MAX_PAGE = 1000
_FIRST_READ = 64
_SMALLEST_READ = 8


@dataclass(frozen=True, slots=True)
class Page:
    """Heads and common prefixes in byte order; `cursor` continues, None at the end."""

    heads: list[Head]
    prefixes: list[str]
    cursor: str | None


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a listing goes on: after `path`, or at it if `inclusive`."""

    path: str
    inclusive: bool


def list_page(
    store: MetadataStore,
    bucket: str,
    *,
    prefix: str = "",
    delimiter: str = "",
    limit: int = MAX_PAGE,
    cursor: str | None = None,
) -> Page:
    """At most `limit` (1 to MAX_PAGE) entries, heads and prefixes together. Raises BadRequest."""
    if not 1 <= limit <= MAX_PAGE:
        raise BadRequest(f"limit must be 1 to {MAX_PAGE}")
    place: _Place | None = _Place(prefix, True)
    if cursor is not None:
        place = max(_Place(prefix, True), _decode(cursor), key=lambda p: (p.path, not p.inclusive))
    if len(prefix.encode()) > MAX_PATH_BYTES:
        return Page([], [], None)
    end = prefix_end(prefix)
    heads: list[Head] = []
    prefixes: list[str] = []
    read = _FIRST_READ if delimiter else MAX_PAGE
    while place is not None and not _past(place, end):
        room = limit - len(heads) - len(prefixes)
        if room == 0:
            more = store.scan_heads(bucket, start=place.path, inclusive=place.inclusive, end=end, limit=1)
            return Page(heads, prefixes, cursors.encode([1, place.path, place.inclusive]) if more else None)
        wanted = min(room, read)
        found = store.scan_heads(bucket, start=place.path, inclusive=place.inclusive, end=end, limit=wanted)
        place = _take(found, place, prefix, delimiter, heads, prefixes) if found else None
        if len(found) < wanted:
            place = None
        useful = room - (limit - len(heads) - len(prefixes))
        if useful * 2 > wanted:
            read = min(read * 4, MAX_PAGE)
        elif useful * 8 < wanted:
            read = max(read // 4, _SMALLEST_READ)
    return Page(heads, prefixes, None)


def _take(
    found: list[Head], place: _Place, prefix: str, delimiter: str, heads: list[Head], prefixes: list[str]
) -> _Place | None:
    """Sort heads into files and common prefixes; returns where to go on, None when nothing can follow."""
    for head in found:
        if head.path < place.path:
            continue  # Below a common prefix that was just skipped.
        at = head.path.find(delimiter, len(prefix)) if delimiter else -1
        if at < 0:
            heads.append(head)
            place = _Place(head.path, False)
            continue
        common = head.path[: at + len(delimiter)]
        prefixes.append(common)
        beyond = prefix_end(common)
        if beyond is None:
            return None
        place = _Place(beyond, True)
    return place


def _past(place: _Place, end: str | None) -> bool:
    return end is not None and place.path >= end


def _decode(cursor: str) -> _Place:
    match cursors.decode(cursor):
        case [1, str(path), bool(inclusive)]:
            return _Place(path, inclusive)
    raise cursors.foreign()
