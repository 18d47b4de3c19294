"""What an audit found, as all servers see it: the documents `audit` (the latest, running or ended) and
`audit-last` (the latest that ended well), and the rule by which the findings become a verdict."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from dfs.metadata.contract import MetadataStore

DOCUMENT = "audit"
LAST_DOCUMENT = "audit-last"
EXTRAS_DOCUMENT = "audit-extras"

SERVER_STOPPED = "its API server was stopped"
"""The reason of an audit that ended with its server: whoever wants one may begin another at once."""

SILENCE_MS = 20_000
"""A running audit says so every two seconds: one that has been silent for this long has lost its server."""

MOST_EXAMPLES = 20
"""Findings of each kind that are told."""

MOST_LOST_FILES = 100
MOST_NODES = 100

_EXAMPLES_BYTES = 100_000
_LOST_BYTES = 80_000


class State(StrEnum):
    """How far an audit is. `failed` also when it was cancelled: `reason` says why."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class Verdict(StrEnum):
    """What a finished audit says of the data."""

    WHOLE = "whole"
    DEGRADED = "degraded"
    DATA_MISSING = "data_missing"


class Kind(StrEnum):
    """What may be wrong. `missing` to `extra` count replicas, `under` to `no_row` chunks."""

    MISSING = "missing"
    """A row, and the node, which answers, does not have the chunk."""
    CORRUPT = "corrupt"
    """The node has it and cannot verify it."""
    WRONG = "wrong"
    """The node has other bytes under that name than the row says."""
    STRAY_ROW = "stray_row"
    """A row without a file record, or of a chunk that its file does not have."""
    EXTRA = "extra"
    """Bytes without a row, older than any write that may still be under way."""
    UNDER = "under"
    """Fewer good copies than the replication factor on the nodes that answered."""
    OVER = "over"
    """More good copies than the replication factor."""
    SAME_ZONE = "same_zone"
    """Copies in fewer zones than the copies and the zones allow."""
    UNSEEN = "unseen"
    """No good copy on a node that answered, but nodes that did not answer may hold one."""
    NO_ROW = "no_row"
    """Nodes have the bytes, but no row leads to them: it cannot be read."""
    NO_COPY = "no_copy"
    """No copy left anywhere."""
    UNREACHABLE_NODES = "unreachable_nodes"
    """Nodes that are registered, not decommissioned, and did not answer."""


DEGRADING = (
    Kind.MISSING,
    Kind.CORRUPT,
    Kind.WRONG,
    Kind.STRAY_ROW,
    Kind.UNDER,
    Kind.SAME_ZONE,
    Kind.UNSEEN,
    Kind.NO_ROW,
)

_WORDS = {
    Kind.MISSING: ("replica is", "replicas are", "missing from a node that should hold it"),
    Kind.CORRUPT: ("replica is", "replicas are", "corrupt"),
    Kind.WRONG: ("replica has", "replicas have", "other bytes than recorded"),
    Kind.STRAY_ROW: ("row belongs", "rows belong", "to no chunk of a file"),
    Kind.EXTRA: ("stored record has", "stored records have", "no row"),
    Kind.UNDER: ("chunk has", "chunks have", "fewer good copies than the replication factor"),
    Kind.OVER: ("chunk has", "chunks have", "more copies than the replication factor"),
    Kind.SAME_ZONE: ("chunk has", "chunks have", "copies in one zone though others have room"),
    Kind.UNSEEN: ("chunk was", "chunks were", "found on no node that answered, but may lie on one that did not"),
    Kind.NO_ROW: ("chunk is", "chunks are", "on a node, but no row leads there"),
    Kind.NO_COPY: ("chunk has", "chunks have", "no copy left"),
    Kind.UNREACHABLE_NODES: ("node", "nodes", "did not answer"),
}


def sentence(kind: Kind, count: int) -> str:
    """`3 replicas are corrupt`."""
    one, many, rest = _WORDS[kind]
    return f"{count:,} {one if count == 1 else many} {rest}"


FEW_EXTRA = 10
EXTRA_SHARE = 0.01
"""More than FEW_EXTRA records without a row, and more than this share of all, are no remark: they look like
metadata that has lost its rows, with which everything that is left would seem whole."""


def judge(counts: Mapping[Kind, int], replicas: int) -> tuple[Verdict, str]:
    """The verdict and its reason, from the number of findings of each kind and of all `replicas` in rows.

    `whole`: every chunk of every committed and trashed file has its replicas, seen on nodes that answered.
    Surplus copies and a few bytes without a row do not speak against it, nor does a node that did not answer when
    nothing depends on it (whatever it should have held was found elsewhere in full number; else the chunks
    count as `under`). `data_missing`: a chunk has no copy on any node, and no node that did not answer may
    hold one. Everything between is `degraded`.
    """
    found = {kind: counts.get(kind, 0) for kind in Kind}
    why = [sentence(kind, found[kind]) for kind in DEGRADING if found[kind]]
    if found[Kind.EXTRA] > max(FEW_EXTRA, EXTRA_SHARE * (replicas + found[Kind.EXTRA])):
        why.append(f"{sentence(Kind.EXTRA, found[Kind.EXTRA])}, so many that metadata may have lost rows")
    if found[Kind.UNREACHABLE_NODES] and why:
        why.append(sentence(Kind.UNREACHABLE_NODES, found[Kind.UNREACHABLE_NODES]))
    if found[Kind.NO_COPY]:
        return Verdict.DATA_MISSING, "; ".join([sentence(Kind.NO_COPY, found[Kind.NO_COPY]), *why])
    if why:
        return Verdict.DEGRADED, "; ".join(why)
    remarks = [
        sentence(kind, found[kind])
        for kind in (Kind.EXTRA, Kind.OVER, Kind.UNREACHABLE_NODES)
        if found[kind]
    ]
    return Verdict.WHOLE, "; ".join(["every chunk has its replicas", *remarks])


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found: a chunk, the node concerned (none where it is the chunk's own trouble), what file it
    is of as far as known, and in words what is wrong."""

    file_id: str
    chunk_index: int
    node_id: str = ""
    bucket: str = ""
    path: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class LostFile:
    """A file with a chunk that has no copy left; `state` as in the file record."""

    file_id: str
    bucket: str
    path: str
    state: str = ""
    chunks: int = 1


@dataclass(frozen=True, slots=True)
class AuditResult:
    """An audit. Times in ms; `at` is when this was last written; `by` names the server.

    While it runs, `phase` is in words and `done` of `total` counts what the phase counts (total 0: not known).
    `files` to `bytes` (each chunk counted once) are what metadata has, without files being deleted. `oldest_verified` is the earliest
    last verification (0: nothing was ever verified, or nothing is stored), `never_verified` counts replicas.
    """

    id: str
    state: State
    began_at: int
    at: int
    by: str
    verify: bool
    ended_at: int = 0
    phase: str = ""
    done: int = 0
    total: int = 0
    factor: int = 0
    files: int = 0
    chunks: int = 0
    replicas: int = 0
    bytes: int = 0
    counts: Mapping[Kind, int] = field(default_factory=dict)
    examples: Mapping[Kind, tuple[Finding, ...]] = field(default_factory=dict)
    lost_files: tuple[LostFile, ...] = ()
    lost_files_more: bool = False
    unreachable: tuple[str, ...] = ()
    oldest_verified: int = 0
    never_verified: int = 0
    verified_now: int = 0
    notes_sent: int = 0
    marked_short: int = 0
    verdict: Verdict | None = None
    reason: str = ""

    def count(self, kind: Kind) -> int:
        return self.counts.get(kind, 0)

    def runs(self, now_ms: int) -> bool:
        """Whether it is under way: one whose server has been silent for SILENCE_MS is not."""
        return self.state is State.RUNNING and now_ms - self.at < SILENCE_MS

    def to_json(self) -> dict[str, Any]:
        """As a document, always small enough for one: with fewer examples and lost files if their names are
        long."""
        value: dict[str, Any] = {name: getattr(self, name) for name in _PLAIN}
        value["state"] = self.state.value
        value["verdict"] = None if self.verdict is None else self.verdict.value
        value["counts"] = {kind.value: self.count(kind) for kind in Kind}
        share = _EXAMPLES_BYTES // len(Kind)
        value["examples"] = {
            kind.value: _fitting((_plain(each) for each in found[:MOST_EXAMPLES]), share)
            for kind, found in self.examples.items()
            if found
        }
        lost = _fitting((_plain(each) for each in self.lost_files[:MOST_LOST_FILES]), _LOST_BYTES)
        value["lost_files"] = lost
        value["lost_files_more"] = self.lost_files_more or len(lost) < len(self.lost_files)
        value["unreachable"] = list(self.unreachable[:MOST_NODES])
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> AuditResult:
        """The result that `to_json` made, by this release or another: unknown kinds and members are left out."""
        kinds = {kind.value: kind for kind in Kind}
        given = {name: value[name] for name in _PLAIN if name in value}
        return cls(
            **given,
            state=State(value["state"]),
            verdict=None if value.get("verdict") is None else Verdict(value["verdict"]),
            counts={kinds[name]: count for name, count in value.get("counts", {}).items() if name in kinds},
            examples={
                kinds[name]: tuple(Finding(**_known(Finding, each)) for each in found)
                for name, found in value.get("examples", {}).items()
                if name in kinds
            },
            lost_files=tuple(LostFile(**_known(LostFile, each)) for each in value.get("lost_files", ())),
            lost_files_more=bool(value.get("lost_files_more")),
            unreachable=tuple(value.get("unreachable", ())),
        )

    def ended(self, state: State, at: int, *, reason: str | None = None) -> AuditResult:
        """This, ended."""
        return replace(self, state=state, at=at, ended_at=at, reason=self.reason if reason is None else reason)


_PLAIN = (
    "id", "began_at", "at", "ended_at", "by", "verify", "phase", "done", "total", "factor", "files", "chunks",
    "replicas", "bytes", "oldest_verified", "never_verified", "verified_now", "notes_sent", "marked_short", "reason",
)  # fmt: skip


def load(store: MetadataStore) -> AuditResult | None:
    """The latest audit, running or ended; None when there never was one."""
    return _load(store, DOCUMENT)


def load_last(store: MetadataStore) -> AuditResult | None:
    """The latest audit that came to a verdict; None when none did."""
    return _load(store, LAST_DOCUMENT)


def _load(store: MetadataStore, name: str) -> AuditResult | None:
    document = store.read_document(name)
    return None if document is None or not document.value else AuditResult.from_json(document.value)


def _plain(each: Finding | LostFile) -> dict[str, Any]:
    return {name: getattr(each, name) for name in each.__slots__}


def _known(kind: type[Any], value: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value[name] for name in kind.__slots__ if name in value}


def _fitting(values: Iterable[dict[str, Any]], room: int) -> list[dict[str, Any]]:
    """The first of `values` that take at most `room` bytes as JSON together."""
    kept = []
    for value in values:
        room -= len(json.dumps(value)) + 1
        if room < 0:
            break
        kept.append(value)
    return kept
