"""Listing the trash of a bucket, page by page.

Led by the index, whose entries are checked against the file records: what is listed was in the trash when
it was looked at; what came there a moment ago may be missing still. The order is the index's: by path in
byte order, of one path the oldest first. Paths of more than 880 bytes, which no key holds, come where
their first 815 bytes put them, in no order of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from dfs.errors import BadRequest
from dfs.metadata import cursor as cursors
from dfs.metadata import keys
from dfs.metadata.contract import GcEntry, GcKind, MetadataStore
from dfs.metadata.listing import MAX_PAGE
from dfs.model import FileRecord, FileState

Fetch = Callable[[Callable[[str], FileRecord | None], Iterable[str]], Iterable[FileRecord | None]]


@dataclass(frozen=True, slots=True)
class TrashPage:
    """Files in the trash; `cursor` continues, None at the end."""

    records: list[FileRecord]
    cursor: str | None


def trash_page(
    store: MetadataStore,
    bucket: str,
    *,
    prefix: str = "",
    limit: int = MAX_PAGE,
    cursor: str | None = None,
    fetch: Fetch = map,
) -> TrashPage:
    """At most `limit` (1 to MAX_PAGE) files in the trash whose path begins with `prefix`.

    `fetch` is `map`, or what reads several records at once. Raises BadRequest.
    """
    if not 1 <= limit <= MAX_PAGE:
        raise BadRequest(f"limit must be 1 to {MAX_PAGE}")
    (partition,) = keys.gc_partitions(GcKind.TRASHED, [bucket])
    after, end = keys.trash_bounds(prefix)
    if cursor is not None:
        after = max(after, _decode(cursor))
    records: list[FileRecord] = []
    while True:
        page = store.gc_entries(partition, after=after or None, limit=limit - len(records))
        within = [entry for entry in page if end is None or entry.key < end]
        records += _checked(store, [each for each in within if (each.path or prefix).startswith(prefix)], prefix, fetch)
        if not page or len(within) < len(page):
            return TrashPage(records, None)
        after = page[-1].key
        if len(records) == limit:
            more = store.gc_entries(partition, after=after, limit=1)
            return TrashPage(records, cursors.encode([2, after]) if more and (end is None or more[0].key < end) else None)


def _checked(store: MetadataStore, entries: list[GcEntry], prefix: str, fetch: Fetch) -> list[FileRecord]:
    """The records of those entries that still tell the truth."""
    records = fetch(store.get_file, [entry.id for entry in entries])
    return [
        record
        for entry, record in zip(entries, records, strict=True)
        if record is not None
        and record.state is FileState.TRASHED
        and (record.version, record.touched_at) == (entry.version, entry.at)
        and record.path.startswith(prefix)
    ]


def _decode(cursor: str) -> str:
    match cursors.decode(cursor):
        case [2, str(key)]:
            return key
    raise cursors.foreign()
