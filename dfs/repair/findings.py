"""What an audit has found so far: counted in full, told by examples. Memory does not grow with the number."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field, replace

from dfs.model import FileRecord
from dfs.repair.auditresult import MOST_EXAMPLES, MOST_LOST_FILES, AuditResult, Finding, Kind, LostFile
from dfs.repair.comparison import ChunkFacts, Found
from dfs.repair.confirmation import Confirmed

MOST_EXTRAS = 1000
"""Records without a row that are listed by name, to be moved aside."""


@dataclass(slots=True)
class Tally:
    """What metadata has, and when the nodes last verified what they hold of it."""

    files: int = 0
    chunks: int = 0
    replicas: int = 0
    bytes: int = 0
    oldest_verified: int = 0
    never_verified: int = 0

    def add(self, chunk: ChunkFacts) -> None:
        """Count a chunk of a file that is not being deleted."""
        if chunk.index == 0:
            self.files += 1
        self.chunks += 1
        self.replicas += len(chunk.rows)
        self.bytes += max((length for _, length in chunk.rows.values()), default=0)
        for node in chunk.rows:
            held = chunk.held.get(node)
            if held is not None and held.verified:
                earlier = min(self.oldest_verified or held.verified, held.verified)
                self.oldest_verified = earlier
            elif held is not None:
                self.never_verified += 1


@dataclass(slots=True)
class Extra:
    """A record without a row, by name."""

    file_id: str
    chunk_index: int
    node_id: str


@dataclass(slots=True)
class Findings:
    """Written by the audit's thread; `into` may be called by another."""

    counts: Counter[Kind] = field(default_factory=Counter)
    examples: dict[Kind, list[Finding]] = field(default_factory=dict)
    lost: dict[str, LostFile] = field(default_factory=dict)
    lost_more: bool = False
    extras: list[Extra] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, confirmed: Confirmed) -> None:
        """One chunk and all that is wrong with it."""
        with self._lock:
            for found in confirmed.assessment.found:
                self._count(confirmed, found)

    def _count(self, confirmed: Confirmed, found: Found) -> None:
        self.counts[found.kind] += 1
        examples = self.examples.setdefault(found.kind, [])
        record = confirmed.record
        if len(examples) < MOST_EXAMPLES:
            bucket, path = ("", "") if record is None else (record.bucket, record.path)
            place = (confirmed.file_id, confirmed.chunk_index, found.node_id)
            examples.append(Finding(*place, bucket, path, found.detail))
        if found.kind is Kind.NO_COPY and record is not None:
            self._lose(record)
        elif found.kind is Kind.EXTRA and len(self.extras) < MOST_EXTRAS:
            self.extras.append(Extra(confirmed.file_id, confirmed.chunk_index, found.node_id))

    def _lose(self, record: FileRecord) -> None:
        known = self.lost.get(record.file_id)
        if known is not None:
            self.lost[record.file_id] = replace(known, chunks=known.chunks + 1)
        elif len(self.lost) < MOST_LOST_FILES:
            self.lost[record.file_id] = LostFile(record.file_id, record.bucket, record.path, record.state.value)
        else:
            self.lost_more = True

    def into(self, result: AuditResult) -> AuditResult:
        """`result` with these findings."""
        with self._lock:
            return replace(
                result,
                counts=dict(self.counts),
                examples={kind: tuple(found) for kind, found in self.examples.items()},
                lost_files=tuple(self.lost.values()),
                lost_files_more=self.lost_more,
            )
