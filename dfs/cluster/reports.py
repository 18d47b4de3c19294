"""Reports of bad replicas, passed on once in a while for each."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from dfs import logs
from dfs.errors import DfsError

_SILENT = 600.0
_MOST = 4096


class Reports:
    """Tells `on_bad(file_id, chunk_index)`; the same replica again only after ten minutes, so that a
    popular file with a bad replica is not a write to metadata for each read. Thread-safe."""

    def __init__(self, on_bad: Callable[[str, int], None], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._on_bad = on_bad
        self._clock = clock
        self._lock = threading.Lock()
        self._told: OrderedDict[tuple[str, int, str], float] = OrderedDict()

    def bad_replica(self, file_id: str, chunk_index: int, node_id: str, error: DfsError) -> None:
        """`node_id` should hold the chunk and answered `error`. Does not raise."""
        key = (file_id, chunk_index, node_id)
        with self._lock:
            now = self._clock()
            if self._told.get(key, float("-inf")) > now - _SILENT:
                return
            self._told.pop(key, None)
            self._told[key] = now
            while len(self._told) > _MOST:
                self._told.popitem(last=False)
        logs.warning(
            "replica.bad",
            file_id=file_id,
            chunk_index=chunk_index,
            node_id=node_id,
            code=error.code,
            reason=error.message,
        )
        try:
            self._on_bad(file_id, chunk_index)
        except Exception as failure:  # a reader has no use for it
            logs.error("replica.bad_not_reported", exc=failure, file_id=file_id, chunk_index=chunk_index)
