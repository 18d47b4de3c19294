"""Reports of bad replicas, passed on once in a while for each."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from dfs import logs
from dfs.cluster.background import Background
from dfs.errors import DfsError

_SILENT = 600.0
_MOST = 4096
_MOST_LOOKS = 64


class Reports:
    """Tells `on_bad(file_id, chunk_index)`; the same replica again only after ten minutes, so that a
    popular file with a bad replica is not a write to metadata for each read. Thread-safe.

    `look(file_id, chunk_index, node_id)` has the node look at its copy; it runs in the background, and
    is left out when too many wait: the chunk is marked by then, and the node's own rounds come to it.
    """

    def __init__(
        self,
        on_bad: Callable[[str, int], None],
        look: Callable[[str, int, str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._on_bad = on_bad
        self._look = look
        self._clock = clock
        self._lock = threading.Lock()
        self._told: OrderedDict[tuple[str, int, str], float] = OrderedDict()
        self._background = Background("dfs-look", _MOST_LOOKS)

    def close(self) -> None:
        """End background work; what waits is left out."""
        self._background.close()

    def bad_replica(
        self, file_id: str, chunk_index: int, node_id: str, error: DfsError, *, look: bool = False
    ) -> None:
        """`node_id` should hold the chunk and answered `error`, or with `look` sent bytes that do not
        verify. Does not raise."""
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
        if look and not self._background.submit(lambda: self._have_looked(file_id, chunk_index, node_id)):
            logs.warning("replica.not_looked_at", file_id=file_id, chunk_index=chunk_index, node_id=node_id)

    def _have_looked(self, file_id: str, chunk_index: int, node_id: str) -> None:
        try:
            self._look(file_id, chunk_index, node_id)
        except DfsError as error:  # CorruptChunk: set aside now; others: it could not be asked
            found, why = error.code, error.message
        else:
            found, why = "good", "its bytes verify: they were damaged on the way"
        logs.event(
            "replica.looked_at", file_id=file_id, chunk_index=chunk_index, node_id=node_id, found=found, why=why
        )
