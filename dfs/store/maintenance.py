"""What a store does by itself: write the index, mark an idle volume, compact, mend the index.

Without `start` the same is done by the calls that need it.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from dfs import logs
from dfs.errors import DfsError, Unavailable
from dfs.store.chunk import CompactionResult, StoreOptions
from dfs.store.commit import NO_SPACE
from dfs.store.compact import Interrupted
from dfs.store.identity import DiskIdentity
from dfs.store.index import Index, IndexDamaged
from dfs.store.index_file import IndexFile
from dfs.store.index_upkeep import recall_bad
from dfs.store.parts import Parts
from dfs.store.rebuild import fill_index
from dfs.store.room import Room

_COALESCE_SECONDS = 0.05
_GATHER_STEPS = 5
"""For so many times _COALESCE_SECONDS records gather before they go to the index together: a transaction
costs as much as dozens of rows."""

_RETRY_SECONDS = 1.0
_TIGHT_SECONDS = 3.0
"""How often a disk with little space is looked at for volumes worth compacting."""

_TIGHT_DEAD_SHARE = 0.05
"""How much of a volume must be dead to compact it while space is tight."""


T = TypeVar("T")


class Maintenance:
    """The threads of one store, and the lock that keeps compaction and rebuilding apart."""

    def __init__(self, options: StoreOptions, now: Callable[[], int]) -> None:
        self._options = options
        self._now = now
        self._stopping = threading.Event()
        self._lock = threading.RLock()
        self._threads: list[threading.Thread] = []
        self._touched = 0.0
        self._paced = False
        self._next_copy = 0.0

    def attach(self, parts: Parts, index_file: IndexFile, identity: DiskIdentity, room: Room) -> None:
        """Say what to maintain."""
        self._parts = parts
        self._room = room
        self._index_file = index_file
        self._identity = identity

    def touch(self) -> None:
        """Records became durable just now."""
        self._touched = time.monotonic()

    def start(self) -> None:
        """Start the threads; once."""
        if self._threads:
            return
        self._parts.catalog.background = True
        for name, work in (("store-index", self._tend_index), ("store-compact", self._tend_volumes)):
            thread = threading.Thread(target=work, name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """End the threads; a compaction that runs is given up."""
        self._stopping.set()
        self._parts.catalog.wake()
        for thread in self._threads:
            thread.join()
        self._parts.catalog.background = False

    # --- the index thread -----------------------------------------------------------------------

    def _tend_index(self) -> None:
        while not self._stopping.is_set():
            self._parts.catalog.await_work(self._options.idle_seconds / 4, self._stopping.is_set)
            for _ in range(_GATHER_STEPS):
                if self._stopping.wait(_COALESCE_SECONDS) or self._parts.catalog.crowded:
                    break
            try:
                self.tend_once()
            except Exception as error:  # a bug must not end the thread that keeps memory bounded
                logs.error("store.maintenance_failed", exc=error)
                self._stopping.wait(_RETRY_SECONDS)

    def tend_once(self) -> None:
        """Bring the index up to date, mend it when it is damaged, MARK when a second was idle."""
        self._mend()
        if not self._parts.catalog.flush():
            self._stopping.wait(_RETRY_SECONDS)
        if time.monotonic() - self._touched >= self._options.idle_seconds:
            try:
                self._parts.committer.mark(self._now())
            except DfsError as error:
                logs.warning("store.not_marked", error=error)
                self._stopping.wait(_RETRY_SECONDS)

    def mend(self) -> None:
        """Rebuild a damaged index, unless the index thread does. Raises Unavailable when that fails."""
        here = self._parts.catalog.damage is not None and not self._parts.catalog.background
        if here and not self._mend():
            raise Unavailable("the index of this disk is damaged and cannot be rebuilt at the moment")

    def _mend(self) -> bool:
        with self._lock:
            damage = self._parts.catalog.damage
            if damage is None:
                return True
            self._parts.aside.report(
                "index_discarded",
                f"the index is made anew from the volume files ({damage}); when chunks were last verified is forgotten",
            )
            try:
                self._parts.catalog.replace_index(self._make_index)
            except (OSError, sqlite3.Error, IndexDamaged, Unavailable) as error:
                logs.error("store.rebuild_failed", error=error)
                return False
            return True

    def _make_index(self) -> Index:
        self._index_file.discard()
        index = Index(self._index_file, self._identity.disk_id)
        parts = self._parts
        try:
            active = parts.appender.active_number
            fill_index(
                index, parts.volumes, parts.files, parts.aside, active, lambda: not self._stopping.is_set()
            )
            recall_bad(index, parts.aside.records(), self._now())
        except BaseException:
            index.close()
            raise
        return index

    # --- compaction -----------------------------------------------------------------------------

    def _tend_volumes(self) -> None:
        while self._wait_to_compact():
            self._parts.ballast.take()
            self._paced = self._room.tight() is None
            try:
                self.compact(None)
            except DfsError as error:
                logs.warning("store.compaction_failed", error=error)
            except Exception as error:  # a bug must not end the thread that gives space back
                logs.error("store.maintenance_failed", exc=error)
            finally:
                self._paced = False

    def _wait_to_compact(self) -> bool:
        """Wait for the next time to compact; where space is tight that is soon, for writes may be waiting for
        what was just erased. False when the store is closing."""
        left = self._options.compact_interval
        while left > 0.0:
            step = min(left, _TIGHT_SECONDS)
            if self._stopping.wait(step):
                return False
            left -= step
            if self._room.tight() is not None:
                break
        return True

    def compact(self, volumes: Sequence[int] | None) -> CompactionResult:
        """Compact the given volumes as one, or in groups those worth it: where space is tight, those from
        which little is to be had too, until it is not tight any more."""
        compactor, newest = self._parts.compactor, self._parts.appender.newest
        with self._lock:
            self.mend()
            self._translated(compactor.settle)
            if volumes is None:
                self._parts.catalog.flush()
                free = self._room.tight()
                share = self._options.compact_dead_share
                groups = compactor.choose(share if free is None else min(share, _TIGHT_DEAD_SHARE), newest, free)
            else:
                free = None
                groups = [[number for number in volumes if number != newest]]
            total, failure = CompactionResult(), None
            waiting = [group for group in groups if group]
            while waiting:
                group = waiting.pop(0)
                if free is not None and total.volumes and self._room.tight() is None:
                    break
                try:
                    total = self._add(total, self._translated(partial(compactor.compact, group)))
                except Unavailable as error:  # one bad volume must not keep the others as they are
                    failure = error
                    if len(group) > 1 and volumes is None:
                        waiting += [[number] for number in group]
            if failure is not None:
                raise failure
            return total

    def _translated(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except OSError as error:
            if error.errno in NO_SPACE:
                self._parts.ballast.release()
            raise Unavailable(f"compaction failed: {error}") from error
        except (sqlite3.Error, IndexDamaged) as error:
            raise Unavailable(f"compaction failed, the index did not take it: {error}") from error
        except Interrupted as error:
            raise Unavailable(f"compaction was given up: {error}") from error

    @staticmethod
    def _add(total: CompactionResult, more: CompactionResult) -> CompactionResult:
        logs.event(
            "store.compacted", volumes=more.volumes, moved=more.moved_records, freed_bytes=more.freed_bytes,
            forgotten=more.forgotten,
        )  # fmt: skip
        return CompactionResult(
            total.volumes + more.volumes,
            total.moved_records + more.moved_records,
            total.moved_bytes + more.moved_bytes,
            total.freed_bytes + more.freed_bytes,
            total.forgotten + more.forgotten,
        )

    def pace(self, size: int) -> bool:
        """Keep the background compaction to its rate; False when the store is closing."""
        if self._paced:
            now = time.monotonic()
            self._next_copy = max(now, self._next_copy) + size / self._options.compact_bytes_per_second
            if self._next_copy - now > _COALESCE_SECONDS:
                self._stopping.wait(self._next_copy - now)
        return not self._stopping.is_set()
