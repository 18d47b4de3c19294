"""Below the reserve: while a node has no space left, the oldest trash goes before its time.

As much as is needed and no more: enough rows on the full nodes that a fiftieth of their capacity is free, less
what is on its way out already. Then nothing for as long as it takes until that space is there: the grace in which
late requests may still read the bytes (it stays), and some time for the nodes to compact.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from dfs import logs
from dfs.cluster.membership import Membership
from dfs.metadata.contract import GcEntry, GcKind, MetadataStore
from dfs.repair.purge import PAGE, Amount, discard

SETTLE_SECONDS = 120.0
"""How long nodes may take to give back the space of erased files: a few looks of their compaction."""

_SHARE = 50
"""Freed of a full node's capacity: one part in so many."""

_CANDIDATES = 5_000
_WALKS = 8
_MOST_LEAVING = 10_000


@dataclass(frozen=True, slots=True)
class Relieved:
    """What went, of which nodes the space was needed, and until when (ms) nothing more goes."""

    amount: Amount
    nodes: tuple[str, ...]
    until: int


class Relief:
    """See the module's text. `largest`: bytes of the largest chunk; a node without room for it counts as full.
    `grace`, `settle`: seconds."""

    def __init__(
        self,
        store: MetadataStore,
        membership: Membership,
        *,
        largest: int,
        grace: float,
        settle: float = SETTLE_SECONDS,
    ) -> None:
        self._store = store
        self._membership = membership
        self._largest = largest
        self._wait_ms = round((grace + settle) * 1000)

    def run(self, now_ms: int, go_on: Callable[[], None]) -> Relieved | None:
        """Free what full nodes lack; None when none lacks any. Raises Unavailable, and what `go_on` raises."""
        need = self._needs()
        if not _open(need):
            return None
        names = tuple(sorted(need))
        leaving = self._subtract_leaving(need, go_on)
        needed = sum(need.values())
        gone: list[GcEntry] = []
        for _ in range(_WALKS):
            if not _open(need):
                break
            found = self._oldest(go_on)
            went = self._discard(found, need, now_ms, go_on)
            gone += went
            if len(found) < _CANDIDATES or not went:
                break
        amount = Amount().plus(gone)
        logs.warning(
            _event(gone, need),
            nodes=",".join(names),
            files=amount.files,
            bytes=amount.bytes,
            needed_bytes=needed,
            leaving_bytes=leaving,
            still_needed_bytes=sum(need.values()),
        )
        return Relieved(amount, names, now_ms + self._wait_ms)

    def _needs(self) -> dict[str, int]:
        """Bytes to free on each full node, so that it is not full again with the next file. (What a node says of
        its space may be older than its refusal: then its next heartbeat tells.)"""
        need = {}
        for member in self._membership.view().members:
            info = member.info
            if member.full or (member.writable and info.free_bytes < self._largest):
                wanted = max(info.capacity_bytes // _SHARE, self._largest)
                need[info.node_id] = max(0, wanted - info.free_bytes)
        return need

    def _subtract_leaving(self, need: dict[str, int], go_on: Callable[[], None]) -> int:
        """Take from `need` what files that wait to be erased will free; returns how much that was."""
        looked, before = 0, sum(need.values())
        for partition in self._store.gc_partitions(GcKind.DELETING):
            after: str | None = None
            while page := self._store.gc_entries(partition, after=after, limit=PAGE):
                after = page[-1].key
                for entry in page:
                    if not _open(need):
                        return before
                    self._take(entry.id, need)
                    looked += 1
                    if looked % 100 == 0:
                        go_on()
                if looked >= _MOST_LEAVING:  # so many are enough to wait for, whatever their sizes
                    need.update(dict.fromkeys(need, 0))
                    return before
        return before - sum(need.values())

    def _take(self, file_id: str, need: dict[str, int]) -> bool:
        """Whether the file has bytes on a node that needs them; takes them from `need`."""
        useful = False
        for row in self._store.replicas(file_id):
            if need.get(row.node_id, 0) > 0 and row.length:
                need[row.node_id] = max(0, need[row.node_id] - row.length)
                useful = True
            if not _open(need):
                break
        return useful

    def _oldest(self, go_on: Callable[[], None]) -> list[GcEntry]:
        """The oldest of the trash, oldest first: one walk through the index, memory for _CANDIDATES entries."""
        heap: list[tuple[int, str, str, GcEntry]] = []
        for page in self._pages():
            for entry in page:
                item = (-entry.at, entry.partition, entry.key, entry)
                if len(heap) < _CANDIDATES:
                    heapq.heappush(heap, item)
                elif item > heap[0]:
                    heapq.heapreplace(heap, item)
            go_on()
        return [entry for _, _, _, entry in sorted(heap, reverse=True)]

    def _pages(self) -> Iterable[list[GcEntry]]:
        for partition in self._store.gc_partitions(GcKind.TRASHED):
            after: str | None = None
            while page := self._store.gc_entries(partition, after=after, limit=PAGE):
                yield page
                after = page[-1].key

    def _discard(
        self, entries: list[GcEntry], need: dict[str, int], now_ms: int, go_on: Callable[[], None]
    ) -> list[GcEntry]:
        gone = []
        for entry in entries:
            if not _open(need):
                break
            left = dict(need)
            if self._take(entry.id, left) and discard(self._store, [entry], now_ms):
                need.update(left)
                gone.append(entry)
            go_on()
        return gone


def _event(gone: list[GcEntry], need: dict[str, int]) -> str:
    if gone:
        return "trash.purged_for_space"
    return "trash.nothing_to_purge_for_space" if _open(need) else "trash.space_on_its_way"


def _open(need: dict[str, int]) -> bool:
    return any(value > 0 for value in need.values())
