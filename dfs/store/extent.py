"""What of a volume file counts: where it ends, and what below its end is damage."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from dfs.store.disk import DiskFile
from dfs.store.record import Record
from dfs.store.scan import Damage, body_is_good, walk


class Extent:
    """One pass over the bytes `start` to `limit` of a volume file.

    What lies below `durable` was durable once, by other evidence; every record read may raise it by
    its own durable_upto. Damage below it is corruption and is handed out like the records; above it
    the volume ends at the first bad record, or one whose body is bad. Bodies below it are not read.

    After the pass `end`, `durable`, `sequence` (the highest read, of records beyond the end too),
    `volume_id` and `last` (the last record read) tell the result. `unreadable`: the disk could not read
    something; then nothing is known of the end, and all of it counts until another pass. Memory is bounded by the records
    of one batch: only those above `durable` are held back.
    """

    def __init__(self, file: DiskFile, volume_id: bytes | None, start: int, limit: int, durable: int) -> None:
        self._file = file
        self._start = start
        self.volume_id = volume_id
        self.end = limit
        self.durable = durable
        self.sequence = 0
        self.last: Record | None = None
        self.unreadable = False

    def __iter__(self) -> Iterator[Record | Damage]:
        waiting: deque[Record | Damage] = deque()
        for item in walk(self._file, self.volume_id, self._start, self.end):
            if isinstance(item, Record):
                self.volume_id = item.volume_id
                self.sequence = max(self.sequence, item.sequence)
                self.durable = max(self.durable, item.durable_upto)
                self.last = item
            elif item.unreadable:
                self.unreadable = True
            waiting.append(item)
            while waiting and waiting[0].offset < self.durable:
                yield waiting.popleft()
        while waiting:
            item = waiting.popleft()
            if not self._counts(item):
                self.end = item.offset
                return
            yield item

    def _counts(self, item: Record | Damage) -> bool:
        if self.unreadable:
            return True
        if isinstance(item, Damage):
            return False
        try:
            return body_is_good(self._file, item)
        except OSError:
            self.unreadable = True
            return True
