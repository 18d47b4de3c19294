"""Metadata against what nodes hold, chunk by chunk: pure.

`join` puts together what sorted facts say of each chunk, `fine` picks out those about which there is
nothing to ask, and `assess` judges one of the others by what was found when it was asked about again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

from dfs.model import FileRecord, FileState, chunk_length
from dfs.repair.auditresult import Kind
from dfs.repair.sorting import Fact, FactKind

STATES = tuple(FileState)
KEPT = frozenset({FileState.COMMITTED, FileState.TRASHED})
"""States of files whose chunks must have all their copies."""

LIVING = KEPT | {FileState.UPLOADING}


class FileFacts(NamedTuple):
    """What is used of a file record, as it was when it was read."""

    state: FileState
    chunks: int
    size: int
    chunk_size: int
    note: bytes

    @property
    def expected(self) -> int:
        """Chunks with replicas: an empty file has one, of no bytes."""
        return max(1, self.chunks)


class Held(NamedTuple):
    """A record on a node: times in ms, `verified` 0 for never."""

    checksum: bytes
    length: int
    created: int
    verified: int


@dataclass(slots=True)
class ChunkFacts:
    """All facts about one chunk; nodes by their numbers."""

    file: bytes
    index: int
    record: FileFacts | None
    rows: dict[int, tuple[bytes, int]] = field(default_factory=dict)
    held: dict[int, Held] = field(default_factory=dict)
    bad: dict[int, str] = field(default_factory=dict)


def join(facts: Iterable[Fact]) -> Iterator[ChunkFacts]:
    """Every chunk of which sorted `facts` know, and every chunk that a committed or trashed file should have,
    in the order of their keys."""
    for file, of_file in groupby(facts, key=attrgetter("file")):
        record: FileFacts | None = None
        upcoming = 0
        for index, of_chunk in groupby(of_file, key=attrgetter("chunk")):
            if index < 0:
                record = _file_facts(list(of_chunk)[-1])
                continue
            end = _end(record)
            while upcoming < min(index, end):
                yield ChunkFacts(file, upcoming, record)
                upcoming += 1
            upcoming = index + 1
            yield _chunk_facts(file, index, record, of_chunk)
        for missing in range(upcoming, _end(record)):
            yield ChunkFacts(file, missing, record)


def _end(record: FileFacts | None) -> int:
    return record.expected if record is not None and record.state in KEPT else 0


def _file_facts(fact: Fact) -> FileFacts:
    return FileFacts(STATES[fact.one], fact.node, fact.length, fact.two, fact.checksum)


def _chunk_facts(file: bytes, index: int, record: FileFacts | None, facts: Iterable[Fact]) -> ChunkFacts:
    chunk = ChunkFacts(file, index, record)
    for fact in facts:
        if fact.kind == FactKind.ROW:
            chunk.rows[fact.node] = (fact.checksum, fact.length)
        elif fact.kind == FactKind.HELD:
            chunk.held[fact.node] = Held(fact.checksum, fact.length, fact.one, fact.two)
        else:
            chunk.bad[fact.node] = fact.checksum.decode("utf-8", "replace")
    return chunk


# --- what is beyond question ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Terms:
    """By what chunks are judged. `answered` and `zones` (by number): nodes that told all they hold;
    `spread`: zones over which copies can be spread; `horizon` (ms): a record without a row that is younger
    may belong to a write that is under way."""

    factor: int
    answered: frozenset[int]
    zones: Mapping[int, str | None]
    spread: int
    horizon: int


def fine(chunk: ChunkFacts, terms: Terms) -> bool:
    """Whether there is nothing to ask about the chunk: as many good copies as there should be, where they
    should be, or nothing that is not still under way."""
    record = chunk.record
    if record is not None and record.state is FileState.DELETING:
        return True
    if record is None or (record.state in KEPT and chunk.index >= record.expected):
        return not chunk.rows and not _old(chunk, terms)
    if any(not _held_well(chunk, node, row, terms) for node, row in chunk.rows.items()):
        return False
    if record.state is FileState.UPLOADING:
        return True
    return (
        len(chunk.rows) == terms.factor
        and not chunk.bad
        and len(set(chunk.rows.values())) == 1
        and next(iter(chunk.rows.values()))[1] == _length(record.size, record.chunk_size, chunk.index)
        and len({terms.zones[node] for node in chunk.rows}) >= min(terms.factor, terms.spread)
        and not _old(chunk, terms)
    )


def _held_well(chunk: ChunkFacts, node: int, row: tuple[bytes, int], terms: Terms) -> bool:
    held = chunk.held.get(node)
    return (
        node in terms.answered
        and held is not None
        and (held.checksum, held.length) == row
        and node not in chunk.bad
    )


def _old(chunk: ChunkFacts, terms: Terms) -> bool:
    """Whether a record without a row is too old to be explained by a write under way."""
    return any(node not in chunk.rows and held.created < terms.horizon for node, held in chunk.held.items())


def _length(size: int, chunk_size: int, index: int) -> int:
    return chunk_length(size, chunk_size, index) if size else 0


# --- the others, asked about again ---------------------------------------------------------------------


class Copy(StrEnum):
    """What became of one replica that a row promises."""

    GOOD = "good"
    MISSING = "missing"
    CORRUPT = "corrupt"
    WRONG = "wrong"
    AWAY = "away"  # its node did not answer
    GONE = "gone"  # its node is decommissioned or not registered


class Found(NamedTuple):
    """What is wrong: with the replica on a node, or (no node) with the chunk."""

    kind: Kind
    node_id: str = ""
    detail: str = ""


class Assessment(NamedTuple):
    """What was found of a chunk. `mark`: repair should look at it now."""

    found: list[Found]
    mark: bool = False


_BAD_COPIES = {Copy.MISSING: Kind.MISSING, Copy.CORRUPT: Kind.CORRUPT, Copy.WRONG: Kind.WRONG}


def assess(
    record: FileRecord | None,
    index: int,
    rows: Mapping[str, tuple[str, int]],
    copies: Mapping[str, Copy],
    *,
    extra: Collection[str],
    details: Mapping[str, str],
    zones: Mapping[str, str | None],
    spread: int,
    factor: int,
    may_hide: bool,
) -> Assessment:
    """What is wrong with a chunk whose file is `record` now, whose `rows` are (checksum, length) by node, and
    whose replicas are `copies`.

    `extra`: nodes that hold it without a row; `details`: words about a node's copy; `may_hide`: some node
    did not answer, so that a chunk without rows may lie there.
    """
    bytes_without_row = [Found(Kind.EXTRA, node) for node in sorted(extra)]
    if record is None:
        strays = [Found(Kind.STRAY_ROW, node, "the file has no record") for node in sorted(rows)]
        return Assessment(strays + bytes_without_row)
    if record.state is FileState.DELETING:
        return Assessment([])
    found = _bad(copies, details)
    if record.state is FileState.UPLOADING:  # how many chunks it has may be learnt only at its end
        return Assessment(found, mark=bool(found))
    if index >= max(1, record.chunk_count):
        why = f"the file has {record.chunk_count} chunks"
        return Assessment([Found(Kind.STRAY_ROW, node, why) for node in sorted(rows)] + bytes_without_row)
    good = [node for node, copy in copies.items() if copy is Copy.GOOD]
    away = [node for node, copy in copies.items() if copy is Copy.AWAY]
    mark = bool(found) or len(good) + len(away) < factor
    found += _contradictions(record, index, rows)
    if not good:
        found.append(_nothing_good(record, away, extra, may_hide=may_hide and not rows))
    elif len(good) < factor:
        said = f"{len(good)} of {factor} copies"
        silent = f", {', '.join(sorted(away))} did not answer" if away else ""
        found.append(Found(Kind.UNDER, "", said + silent))
    elif len(good) > factor:
        found.append(Found(Kind.OVER, "", f"{len(good)} copies instead of {factor}"))
    places = {zones.get(node) for node in good}
    if good and len(places) < min(len(good), factor, spread):
        found.append(Found(Kind.SAME_ZONE, "", f"all {len(good)} copies in {len(places)} of {spread} zones"))
    return Assessment(found + bytes_without_row, mark)


def _bad(copies: Mapping[str, Copy], details: Mapping[str, str]) -> list[Found]:
    return [
        Found(_BAD_COPIES[copy], node, details.get(node, ""))
        for node, copy in sorted(copies.items())
        if copy in _BAD_COPIES
    ]


def _contradictions(record: FileRecord, index: int, rows: Mapping[str, tuple[str, int]]) -> list[Found]:
    if len(set(rows.values())) > 1:
        return [Found(Kind.WRONG, "", "the rows of the chunk contradict each other")]
    expected = _length(record.size, record.chunk_size, index)
    if any(length != expected for _, length in rows.values()):
        return [Found(Kind.WRONG, "", f"its rows say another length than the {expected} bytes it must have")]
    return []


def _nothing_good(record: FileRecord, away: Collection[str], extra: Collection[str], *, may_hide: bool) -> Found:
    if extra:
        return Found(Kind.NO_ROW, "", f"the bytes are on {', '.join(sorted(extra))}")
    if away:
        return Found(Kind.UNSEEN, "", f"{', '.join(sorted(away))} did not answer")
    if may_hide:
        return Found(Kind.UNSEEN, "", "it has no row, and some nodes did not answer")
    if not record.size:  # nothing can be missing from an empty file
        return Found(Kind.UNDER, "", "no node knows this empty file")
    return Found(Kind.NO_COPY)
