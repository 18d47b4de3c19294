"""A node in memory whose chunks also lie on a simulated disk, so that its power can be cut."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dfs.errors import Gone
from dfs.wire.message import Request
from tests.support.disk import MemoryIndex, SimDisk, Wreck
from tests.support.memory_node import MemoryNode
from tests.support.store_model import open_store, small


class DiskNode(MemoryNode):
    """A memory node whose chunks and notes also go through a real chunk store on a simulated disk.

    `cut_power` makes it what it finds when it starts again: everything synced, nothing else. With
    `power_fails` set, the power goes in the middle of the next sync.
    """

    def __init__(self, node_id: str, cluster_id: str) -> None:
        self.disk = SimDisk()
        self._store_on_disk = open_store(self.disk, MemoryIndex(), small(volume_size=1 << 20))
        self._cut_at: int | None = None
        self.power_fails: Callable[[], None] | None = None
        self.disk.faults = self._called
        super().__init__(node_id, cluster_id)

    def _called(self, name: str) -> bool:
        if name == "sync" and self.power_fails is not None:
            fails, self.power_fails = self.power_fails, None
            self._cut_at = len(self.disk.trace)
            fails()
        return False

    def _keep(self, key: tuple[str, int], data: bytes, checksum: str) -> None:
        super()._keep(key, data, checksum)
        self._store_on_disk.put(*key, data, checksum=checksum, chunk_size=max(1, len(data)), file_size=None)

    def _erase(self, request: Request) -> Any:
        before = set(self.erased)
        response = super()._erase(request)
        self._store_on_disk.erase(sorted(self.erased - before))
        return response

    def _forget(self, key: tuple[str, int]) -> bytes | None:
        self._store_on_disk.drop(*key)
        return super()._forget(key)

    def lose(self, key: tuple[str, int]) -> None:
        """A chunk vanishes from the disk, and nobody is told."""
        self._forget(key)

    def _notes(self, request: Request) -> Any:
        have = len(self.noted)
        response = super()._notes(request)
        self._store_on_disk.note(self.noted[have:])
        return response

    def kept_notes(self) -> list[dict[str, Any]]:
        """The notes as the store has them."""
        return [found.note for found in self._store_on_disk.notes(0, 10_000)]

    def was_erased(self, file_id: str) -> bool:
        """Whether the store would refuse a chunk of the file for ever."""
        try:
            self._store_on_disk.stat(file_id, 0)
        except Gone:
            return True
        return False

    def cut_power(self) -> None:
        """Lose what is not synced (or was not when the power failed), and start again."""
        wreck = Wreck(self.disk)
        for event in self.disk.trace[: self._cut_at]:
            wreck.step(event)
        self.disk = SimDisk.holding(wreck.image(lambda _: False, lambda _: None))
        self.disk.faults = self._called
        self._store_on_disk = open_store(self.disk, MemoryIndex(), small(volume_size=1 << 20))
        self._cut_at = None
        with self.lock:
            self.chunks, self.sums, self.sequences = {}, {}, {}
            self.corrupt, self.verified = set(), {}
            for chunk in self._store_on_disk.inventory(0, 10_000):
                key = chunk.file_id, chunk.chunk_index
                with self._store_on_disk.open_chunk(*key) as reader:
                    self.chunks[key] = b"".join(bytes(piece) for piece in reader.pieces())
                self.sums[key] = chunk.checksum
                self.sequences[key] = chunk.sequence
            self.noted = self.kept_notes()
            self.erased = {file_id for file_id in self.erased if self.was_erased(file_id)}
