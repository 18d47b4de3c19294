"""The trash of all buckets: what has been there long enough goes, and how much there is is known.

A sweep reads the index alone: its keys tell when each file came to the trash, why, and its size. The next
one is due when the first file that stayed can go, but the more there is the rarer it is: what a sweep costs
grows with the trash. It can be broken off anywhere: the next begins again, and what went is not there any
more. Runs under the eraser's lease; the figures are a document that all servers read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from dfs import errors, logs
from dfs.metadata.contract import GcKind, MetadataStore
from dfs.model import Document
from dfs.repair.purge import PAGE, Amount, discard
from dfs.repair.relief import Relief, Relieved
from dfs.repair.retention import Retention

DOCUMENT = "trash"

_GAP_PER_FILE_MS = 1.0
_LONGEST_GAP_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class TrashStatus:
    """The trash at the end of the last complete sweep. Times are ms since 1970, 0: never, or none.

    `files` and `bytes` (one copy of each) stayed; the oldest came at `oldest_at`. The next sweep begins at
    `next_at`. `expired_files` and `expired_bytes` went by the last sweep. The `relief` members tell when trash
    last had to go before its time, because of which full nodes, and how much; until `relief_until` that
    space is awaited.
    """

    at: int = 0
    files: int = 0
    bytes: int = 0
    oldest_at: int = 0
    next_at: int = 0
    deleted_ms: int = 0
    replaced_ms: int = 0
    expired_files: int = 0
    expired_bytes: int = 0
    relief_at: int = 0
    relief_until: int = 0
    relief_files: int = 0
    relief_bytes: int = 0
    relief_nodes: tuple[str, ...] = ()


def load(store: MetadataStore) -> TrashStatus | None:
    """The figures, None before the first sweep. Raises Unavailable."""
    document = store.read_document(DOCUMENT)
    return None if document is None else _from_json(document.value)


def _from_json(value: dict[str, Any]) -> TrashStatus:
    """Members that another release wrote are passed over; what it did not write is as at first."""
    known = {field.name: value[field.name] for field in fields(TrashStatus) if field.name in value}
    return TrashStatus(**known | {"relief_nodes": tuple(known.get("relief_nodes", ()))})


class Trash:
    """See the module's text. `relief` frees space of full nodes."""

    def __init__(self, store: MetadataStore, retention: Retention, relief: Relief) -> None:
        self._store = store
        self._retention = retention
        self._relief = relief
        self._awaited_until = 0

    def run(self, now_ms: int, go_on: Callable[[], None]) -> None:
        """What is due at `now_ms`; calls `go_on` between steps, which may raise to break it off.

        Raises Unavailable."""
        document = self._store.read_document(DOCUMENT)
        status = TrashStatus() if document is None else _from_json(document.value)
        if self._due(status, now_ms):
            status = self._sweep(status, now_ms, go_on)
            document = self._save(status, document)
        if now_ms >= max(status.relief_until, self._awaited_until) or status.relief_at > now_ms:
            relieved = self._relief.run(now_ms, go_on)
            if relieved is not None:
                self._awaited_until = relieved.until  # the document may fail to keep it
                self._save(_with_relief(status, relieved, now_ms), document)

    def _due(self, status: TrashStatus, now_ms: int) -> bool:
        """Also when the settings have changed since, or the clock that planned it was ahead of this one."""
        kept = (status.deleted_ms, status.replaced_ms) != (self._retention.deleted_ms, self._retention.replaced_ms)
        return now_ms >= status.next_at or kept or status.at > now_ms

    def _sweep(self, before: TrashStatus, now_ms: int, go_on: Callable[[], None]) -> TrashStatus:
        expired, left = Amount(), Amount()
        oldest = 0
        soonest = now_ms + self._retention.shortest  # of what comes while and after this goes through
        for partition in self._store.gc_partitions(GcKind.TRASHED):
            after: str | None = None
            while page := self._store.gc_entries(partition, after=after, limit=PAGE):
                after = page[-1].key
                due = [entry for entry in page if self._retention.ends(entry) <= now_ms]
                expired = expired.plus(discard(self._store, due, now_ms, go_on))
                kept = [entry for entry in page if self._retention.ends(entry) > now_ms]
                left = left.plus(kept)
                for entry in kept:
                    soonest = min(soonest, self._retention.ends(entry))
                    oldest = min(oldest or entry.at, entry.at)
                go_on()
        gap = round(min(_LONGEST_GAP_MS, left.files * _GAP_PER_FILE_MS))
        status = replace(
            before,
            at=now_ms,
            files=left.files,
            bytes=left.bytes,
            oldest_at=oldest,
            next_at=max(soonest, now_ms + gap),
            deleted_ms=self._retention.deleted_ms,
            replaced_ms=self._retention.replaced_ms,
            expired_files=expired.files,
            expired_bytes=expired.bytes,
        )
        logs.event(
            "trash.swept",
            files=left.files,
            bytes=left.bytes,
            expired_files=expired.files,
            expired_bytes=expired.bytes,
            next_in_seconds=round((status.next_at - now_ms) / 1000, 1),
        )
        return status

    def _save(self, status: TrashStatus, seen: Document | None) -> Document | None:
        """Failing this, the next run does too much; never too little."""
        try:
            return self._store.write_document(DOCUMENT, asdict(status), seen)
        except errors.Unknown as error:
            logs.warning("trash.figures_not_kept", reason=error.message)
            return None


def _with_relief(status: TrashStatus, relieved: Relieved, now_ms: int) -> TrashStatus:
    return replace(
        status,
        relief_at=now_ms,
        relief_until=relieved.until,
        relief_files=relieved.amount.files,
        relief_bytes=relieved.amount.bytes,
        relief_nodes=relieved.nodes,
        files=max(0, status.files - relieved.amount.files),
        bytes=max(0, status.bytes - relieved.amount.bytes),
    )


