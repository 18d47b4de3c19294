"""Taking files out of the trash for good, many at a time: each only if it is there since the index said.

What a restore was quicker with is passed over. The bytes go later, when the eraser's grace is over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dfs.metadata import cursor as cursors
from dfs.metadata.contract import GcEntry, GcKind, MetadataStore, OutcomeUnknown, StepsRefused
from dfs.metadata.restore import expire

PAGE = 1000
"""Entries of the index read at once."""

_TOGETHER = 50
_MOST_READ = 20_000
_MOST_PURGED = 2_000


@dataclass(frozen=True, slots=True)
class Amount:
    """A number of files and the sum of their sizes, one copy each."""

    files: int = 0
    bytes: int = 0

    def plus(self, entries: Sequence[GcEntry]) -> Amount:
        """This and the files of `entries`."""
        return Amount(self.files + len(entries), self.bytes + sum(entry.size for entry in entries))


@dataclass(frozen=True, slots=True)
class Purged:
    """What one step of an order to empty the trash did (or, planned, would do); `cursor` goes on, None: done."""

    amount: Amount
    oldest_at: int | None
    cursor: str | None


def discard(
    store: MetadataStore, entries: Sequence[GcEntry], now_ms: int, between: Callable[[], None] = lambda: None
) -> list[GcEntry]:
    """Have the files of `entries` erased after the grace; returns those that are known to go by this call.

    Calls `between` after each transaction. Raises Unavailable. Harmless to repeat, and to break off."""
    gone: list[GcEntry] = []
    for start in range(0, len(entries), _TOGETHER):
        batch = entries[start : start + _TOGETHER]
        if _sent(store, batch, now_ms):
            gone += batch
        elif len(batch) > 1:  # one that was restored, or went before, refuses all of them
            gone += [entry for entry in batch if _sent(store, [entry], now_ms)]
        between()
    return gone


def _sent(store: MetadataStore, entries: Sequence[GcEntry], now_ms: int) -> bool:
    try:
        store.transact([expire(entry, now_ms) for entry in entries])
    except (StepsRefused, OutcomeUnknown):
        return False
    return True


def purge_some(
    store: MetadataStore, *, bucket: str | None, before: int, plan: bool, cursor: str | None, now_ms: int
) -> Purged:
    """One step of emptying the trash of `bucket` (None: of all) of what came there before `before` (ms).

    Bounded, so that it can be asked for over HTTP; asked again with the cursor it goes on. With `plan` nothing
    is changed. Raises BadRequest for a foreign cursor.
    """
    partitions = [
        name for name in sorted(store.gc_partitions(GcKind.TRASHED)) if bucket is None or name == f"trashed#{bucket}"
    ]
    place = _place(cursor) if cursor is not None else ("", None)
    amount, oldest, read = Amount(), None, 0
    for partition in partitions:
        if partition < place[0]:
            continue
        after = place[1] if partition == place[0] else None
        while page := store.gc_entries(partition, after=after, limit=PAGE):
            due = [entry for entry in page if entry.at < before]
            going = due if plan else discard(store, due, now_ms)
            amount = amount.plus(going)
            oldest = min([entry.at for entry in going] + ([] if oldest is None else [oldest]), default=None)
            after = page[-1].key
            read += len(page)
            if read >= _MOST_READ or (amount.files >= _MOST_PURGED and not plan):
                return Purged(amount, oldest, cursors.encode([3, partition, after]))
    return Purged(amount, oldest, None)


def _place(cursor: str) -> tuple[str, str | None]:
    match cursors.decode(cursor):
        case [3, str(partition), str(after)]:
            return partition, after
    raise cursors.foreign()
