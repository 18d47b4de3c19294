"""The audit: does every chunk have its replicas, on which node is it bad, what is there that should not be?

It compares all of metadata with all that the nodes say they hold. Both sides are written to a temporary
database as they come and joined in the order of their keys, so that memory does not grow with the number
of chunks. What does not match is a suspicion, confirmed by asking again before it becomes a finding. Chunks
found bad or short are marked for repair; nothing else is changed, and nothing is ever removed.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace

from dfs import errors, logs
from dfs.cluster.calls import NodeCalls
from dfs.cluster.notes import BATCH as NOTES_AT_ONCE
from dfs.cluster.notes import note_of
from dfs.cluster.records import mark_short
from dfs.cluster.upkeep import UpkeepCalls
from dfs.metadata.contract import MetadataStore
from dfs.metadata.heads import head_of
from dfs.model import ChunkReplica, FileRecord, FileState
from dfs.repair.auditresult import AuditResult, Kind, State, judge
from dfs.repair.comparison import KEPT, LIVING, STATES, ChunkFacts, Terms, fine, join
from dfs.repair.confirmation import BATCH, Confirmed, Confirmer
from dfs.repair.findings import Extra, Findings, Tally
from dfs.repair.holdings import Holdings
from dfs.repair.pace import Pace
from dfs.repair.roster import Roster
from dfs.repair.sorting import Fact, FactKind, Sorting, file_key
from dfs.wire.deadline import Deadline

MEGABYTE = 1_000_000
_PAGE = 2000
_NOTE_SECONDS = 30.0

# Comparing is nothing but computing: requests that this process serves get their turn in between.
_REST_EVERY = 100
_REST = 0.001

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be audited, and how. `verify`: every node re-reads everything, at most `mbps` megabytes a
    second each. `settle` (s): longer than any write can be under way between its bytes and its row."""

    id: str
    by: str
    factor: int
    settle: float
    verify: bool = False
    mbps: int = 200


class Audit:
    """One audit. `run` does it; `result` may be asked by another thread meanwhile. `stopping` ends it early."""

    def __init__(
        self,
        order: Order,
        store: MetadataStore,
        calls: NodeCalls,
        *,
        stopping: threading.Event,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        clock: Callable[[], float] = time.monotonic,
        upkeep: UpkeepCalls | None = None,
    ) -> None:
        self._order = order
        self._store = store
        self._calls = calls
        self._upkeep = upkeep or UpkeepCalls(calls)
        self._stopping = stopping
        self._now_ms = now_ms
        self._clock = clock
        self._began = now_ms()
        self._findings = Findings()
        self._tally = Tally()
        self._roster = Roster()
        self._phase = "beginning"
        self._done = 0
        self._total = 0
        self._counting = threading.Lock()
        self._verified = 0
        self._noted = 0
        self._marked = 0
        self._paces: dict[str, Pace] = {}
        self._mark = mark_short(store, now_ms)

    # --- what others ask ---

    def result(self) -> AuditResult:
        """How far it is and what it has found."""
        tally = self._tally
        result = AuditResult(
            id=self._order.id,
            state=State.RUNNING,
            began_at=self._began,
            at=self._now_ms(),
            by=self._order.by,
            verify=self._order.verify,
            phase=self._phase,
            done=self._done,
            total=self._total,
            factor=self._order.factor,
            files=tally.files,
            chunks=tally.chunks,
            replicas=tally.replicas,
            bytes=tally.bytes,
            unreachable=self._roster.away,
            oldest_verified=tally.oldest_verified,
            never_verified=tally.never_verified,
            verified_now=self._verified,
            notes_sent=self._noted,
            marked_short=self._marked,
        )
        result = self._findings.into(result)
        return replace(result, counts={**result.counts, Kind.UNREACHABLE_NODES: len(self._roster.away)})

    def extras(self) -> list[Extra]:
        """Records without a row, by name; as many as are listed."""
        return list(self._findings.extras)

    # --- the audit ---

    def run(self) -> AuditResult:
        """Audit; the result with its verdict. Raises InterruptedError when stopped, and Unavailable (or what
        else metadata raises) when it cannot be done."""
        self._roster = Roster(self._store.list_nodes)
        there = sum(node.chunks for node in self._roster.asked.values())
        with closing(Sorting(expected=2 * there, interrupted=self._stopping.is_set)) as sorting:
            self._begin("reading metadata", 0)
            self._write_metadata(sorting)
            self._begin("verifying what nodes hold" if self._order.verify else "reading what nodes hold", there)
            self._write_holdings(sorting)
            self._begin("comparing", 0)
            self._compare(sorting)
        result = self.result()
        verdict, reason = judge(result.counts, result.replicas)
        logs.event("audit.done", id=result.id, verdict=verdict.value, reason=reason, chunks=result.chunks)
        return replace(result.ended(State.DONE, self._now_ms(), reason=reason), verdict=verdict, phase="")

    def _begin(self, phase: str, total: int) -> None:
        self._go_on()
        self._done, self._total, self._phase = 0, total, phase

    def _go_on(self) -> None:
        if self._stopping.is_set():
            raise InterruptedError("stopping")

    def _progress(self, count: int) -> None:
        with self._counting:
            self._done += count
            self._total = max(self._total, self._done) if self._total else 0

    def _write_metadata(self, sorting: Sorting) -> None:
        for page in _pages(map(self._fact, self._store.scan_rows())):
            self._go_on()
            sorting.add(page)
            self._progress(len(page))

    def _fact(self, row: FileRecord | ChunkReplica) -> Fact:
        key = file_key(row.file_id)
        if isinstance(row, ChunkReplica):
            number = self._roster.number(row.node_id)
            checksum = bytes.fromhex(row.checksum)
            return Fact(key, row.chunk_index, FactKind.ROW, number, checksum, row.length, 0, 0)
        note = audit_note(row) if row.state in KEPT else b""
        state = STATES.index(row.state)
        return Fact(key, -1, FactKind.FILE, row.chunk_count, note, row.size, state, row.chunk_size)

    def _write_holdings(self, sorting: Sorting) -> None:
        def told(count: int) -> None:
            self._progress(count)
            if self._order.verify:
                with self._counting:
                    self._verified += count

        Holdings(
            self._upkeep,
            self._roster,
            sorting.add,
            verify=self._order.verify,
            allowance=self._pace,
            at_once=self._order.mbps * MEGABYTE,
            stopping=self._stopping,
            now_ms=self._now_ms,
            told=told,
        ).read_all()

    def _pace(self, node_id: str) -> Pace:
        """How fast the node may be made to read."""
        return self._paces.setdefault(
            node_id, Pace(self._order.mbps * MEGABYTE, self._clock, self._stopping.wait)
        )

    def _compare(self, sorting: Sorting) -> None:
        roster, order = self._roster, self._order
        roster.look_again()
        answering = roster.answering()
        horizon = self._began - round(order.settle * 1000)
        numbers = {node_id: roster.number(node_id) for node_id in roster.asked}
        terms = Terms(
            order.factor,
            frozenset(numbers[node_id] for node_id in answering),
            {number: roster.zone(node_id) for node_id, number in numbers.items()},
            roster.spread(),
            horizon,
        )
        with ExitStack() as ending:
            confirmer = Confirmer(
                self._store,
                self._upkeep,
                roster,
                factor=order.factor,
                horizon=horizon,
                allowance=self._pace,
                wait=self._stopping.wait,
            )
            ending.callback(confirmer.close)
            notes = _Outboxes(self._calls, roster)
            suspicions: list[ChunkFacts] = []
            for chunk in join(sorting.sorted()):
                self._count(chunk)
                notes.put(chunk)
                if not fine(chunk, terms):
                    suspicions.append(chunk)
                    if len(suspicions) == BATCH:
                        self._settle(confirmer, suspicions)
                        suspicions = []
                self._noted = notes.sent
            self._settle(confirmer, suspicions)
            notes.flush()
            self._noted = notes.sent

    def _count(self, chunk: ChunkFacts) -> None:
        self._done += 1
        if not self._done % _REST_EVERY:
            self._stopping.wait(_REST)
            self._go_on()
        if chunk.record is not None and chunk.record.state in LIVING and (chunk.rows or chunk.record.state in KEPT):
            self._tally.add(chunk)

    def _settle(self, confirmer: Confirmer, suspicions: list[ChunkFacts]) -> None:
        self._go_on()
        for confirmed in confirmer.confirm(suspicions):
            self._findings.add(confirmed)
            if confirmed.assessment.mark:
                self._have_repaired(confirmed)

    def _have_repaired(self, confirmed: Confirmed) -> None:
        self._mark(confirmed.file_id, confirmed.chunk_index)
        self._marked += 1


def audit_note(record: FileRecord) -> bytes:
    """The note about a committed or trashed file, the same whenever it is made: nodes keep it once."""
    at = record.modified if record.state is FileState.COMMITTED else record.touched_at
    return _encode(note_of(head_of(record), op="audit", op_id=None, state=record.state, at=at)).encode()


class _Outboxes:
    """Notes on their way to the nodes that hold chunk 0, a batch for each. Notes are for a rebuild only: a node
    that does not take them is told in the log, and again by the next audit."""

    def __init__(self, calls: NodeCalls, roster: Roster) -> None:
        self._calls = calls
        self._roster = roster
        self._waiting: dict[int, list[bytes]] = {}
        self.sent = 0

    def put(self, chunk: ChunkFacts) -> None:
        """The note of the chunk's file, if this is its first chunk."""
        if chunk.index or chunk.record is None or not chunk.record.note:
            return
        for node in chunk.rows:
            waiting = self._waiting.setdefault(node, [])
            waiting.append(chunk.record.note)
            if len(waiting) >= NOTES_AT_ONCE:
                self._send(node)

    def flush(self) -> None:
        """Send what is left."""
        for node in list(self._waiting):
            self._send(node)

    def _send(self, number: int) -> None:
        notes = self._waiting.pop(number)
        node = self._roster.asked.get(self._roster.name(number))
        if node is None or self._roster.is_away(node.node_id):
            return
        try:
            self._calls.notes(node, notes, deadline=Deadline(_NOTE_SECONDS))
            self.sent += len(notes)
        except errors.DfsError as error:
            logs.warning("audit.notes_not_sent", node_id=node.node_id, count=len(notes), reason=error.message)


def _pages(facts: Iterable[Fact]) -> Iterator[list[Fact]]:
    page: list[Fact] = []
    for fact in facts:
        page.append(fact)
        if len(page) == _PAGE:
            yield page
            page = []
    yield page
