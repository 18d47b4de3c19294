"""What the store says about chunks, notes and space."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from dfs import logs

PIECE = 256 * 1024
"""Bytes covered by one piece CRC; the last piece of a chunk may be shorter."""

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class StoredChunk:
    """A chunk that is durably on this disk.

    `sequence` orders everything this node ever wrote. `piece_crcs` holds the CRC-32 of each piece
    of 256 KiB; it is empty in pages of `ChunkStore.inventory`, which are read from the index.
    `chunk_size` and `file_size` are what the writer said of the file; `file_size` may be unknown.
    """

    file_id: str
    chunk_index: int
    length: int
    checksum: str
    chunk_size: int
    file_size: int | None
    sequence: int
    created: int
    piece_crcs: tuple[int, ...] = ()
    verified: int | None = None
    """In pages of the inventory: when it was last read back whole (ms), None if not since the index was made."""


@dataclass(frozen=True, slots=True)
class BadChunk:
    """A chunk whose standing copy on this disk is bad: found when (ms), and what is wrong with it."""

    file_id: str
    chunk_index: int
    found_at: int
    why: str


@dataclass(frozen=True, slots=True)
class StoredNote:
    """A note that is durably on this disk."""

    sequence: int
    note: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Usage:
    """Space of a data directory, in bytes, and whether the store takes chunks.

    `free_bytes` is what chunks may still take, without the reserve; `used_bytes` is what the volume
    files have; `capacity_bytes` is the whole file system. `full`: below the reserve, so that stores are refused. `read_only_reason` is None while the
    store takes writes.
    """

    free_bytes: int
    used_bytes: int
    capacity_bytes: int
    chunks: int
    full: bool
    read_only_reason: str | None
    bad_chunks: int = 0
    """How many chunks are known to be bad."""


@dataclass(frozen=True, slots=True)
class Report:
    """Something the store found wrong. `set_aside` names the file that keeps the bytes in question."""

    kind: str
    message: str
    at: int
    volume: int | None = None
    offset: int | None = None
    file_id: str | None = None
    chunk_index: int | None = None
    set_aside: str | None = None


@dataclass(frozen=True, slots=True)
class CompactionResult:
    """What a compaction did."""

    volumes: int = 0
    moved_records: int = 0
    moved_bytes: int = 0
    freed_bytes: int = 0
    forgotten: int = 0


def log_report(report: Report) -> None:
    """What is done with reports unless the owner of the store does something else."""
    fields = {
        name: getattr(report, name) for name in ("volume", "offset", "file_id", "chunk_index", "set_aside")
    }
    known = {name: value for name, value in fields.items() if value is not None}
    logs.warning(f"store.{report.kind}", message=report.message, **known)


def _log_fatal(reason: str) -> None:
    logs.error("store.stopped", reason=reason)


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """How a store behaves. Sizes are bytes, times are seconds.

    `pending_limit` records may be durable and not in the index yet: above it writers wait, so that neither
    memory nor what a start has to read again grows.
    A store refuses chunks when less than `reserve_bytes` (None: two volumes) would stay free.
    `on_report` is told of everything found wrong, `on_fatal` (once) when the store stops taking
    writes for good because its disk fails; both run on whatever thread noticed and must not block.
    """

    volume_size: int = 256 * MIB
    reserve_bytes: int | None = None
    ballast_bytes: int = 4 * MIB
    batch_bytes: int = 64 * MIB
    pending_limit: int = 16_000
    index_batch: int = 2_000
    idle_seconds: float = 1.0
    failures_until_stop: int = 3
    compact_dead_share: float = 0.4
    erase_memory_days: float = 30.0
    compact_interval: float = 30.0
    compact_bytes_per_second: int = 32 * MIB
    on_report: Callable[[Report], None] = field(default=log_report)
    on_fatal: Callable[[str], None] = field(default=_log_fatal)

    @property
    def reserve(self) -> int:
        """Bytes that stores leave free."""
        return 2 * self.volume_size if self.reserve_bytes is None else self.reserve_bytes
