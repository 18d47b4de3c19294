"""Suspicions, confirmed or dropped: nothing is reported because two readings of different moments differ.

What a scan of metadata and the inventories of nodes say is hours old in a large cluster, and files were put,
deleted and repaired meanwhile. So of every chunk that looks wrong the rows and the file record are read again,
consistently; the nodes are asked about every copy of which there is any doubt, and re-read it; then the rows
and the record are read once more. Only what stands still all that time is a finding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import NamedTuple

from dfs import errors
from dfs.cluster.nodeanswers import Verified
from dfs.cluster.upkeep import MAX_VERIFY
from dfs.metadata.contract import MetadataStore
from dfs.model import FileRecord, FileState
from dfs.repair.comparison import Assessment, ChunkFacts, Copy, assess
from dfs.repair.holdings import VERIFY_SECONDS, Allowance, Asked, Lost, ask_patiently
from dfs.repair.roster import Roster
from dfs.repair.sorting import file_id_of
from dfs.wire.deadline import Deadline

BATCH = 256
"""Suspicions that are confirmed together."""

_ROUNDS = 4
_READERS = 8

Key = tuple[str, int]
Rows = Mapping[str, tuple[str, int]]
"""Of one chunk: (checksum, length) by node."""


class _Now(NamedTuple):
    """A chunk's file record and rows, read now."""

    record: FileRecord | None
    rows: Rows


class Confirmed(NamedTuple):
    """A chunk, its file as it is now, and what is wrong with it."""

    file_id: str
    chunk_index: int
    record: FileRecord | None
    assessment: Assessment


@dataclass(slots=True)
class _Case:
    """One suspicious chunk."""

    facts: ChunkFacts
    key: Key
    now: _Now = field(default_factory=lambda: _Now(None, {}))
    verdicts: dict[str, Verified | errors.DfsError] = field(default_factory=dict)


class Confirmer:
    """Asks again. `horizon` (ms): a record without a row that is younger may belong to a write under way; `wait`
    (seconds) tells whether to stop. Raises whatever metadata raises, and InterruptedError when the audit is to stop."""

    def __init__(
        self,
        store: MetadataStore,
        calls: Asked,
        roster: Roster,
        *,
        factor: int,
        horizon: int,
        allowance: Callable[[str], Allowance],
        wait: Callable[[float], bool],
    ) -> None:
        self._store = store
        self._calls = calls
        self._roster = roster
        self._factor = factor
        self._horizon = horizon
        self._allowance = allowance
        self._wait = wait
        self._spread = 0
        self._pool = ThreadPoolExecutor(_READERS, thread_name_prefix="dfs-confirm")

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(cancel_futures=True)

    def confirm(self, suspicions: Sequence[ChunkFacts]) -> list[Confirmed]:
        """Those of the suspicions (in the order of their keys) that hold, in that order."""
        self._spread = self._roster.spread()
        cases = [_Case(facts, (file_id_of(facts.file), facts.index)) for facts in suspicions]
        self._look(cases)
        left = cases
        for _ in range(_ROUNDS):
            self._ask_nodes(left)
            wrong = [case for case in left if self._assess(case).found]
            before = [case.now for case in wrong]
            self._look(wrong)
            left = [case for case, seen in zip(wrong, before, strict=True) if not _same(case.now, seen)]
            if not left:
                break
        self._ask_nodes(left)  # of those that never stand still the latest counts
        confirmed = []
        for case in cases:
            assessment = self._assess(case)
            if assessment.found:
                confirmed.append(Confirmed(*case.key, case.now.record, assessment))
        return confirmed

    # --- metadata ---

    def _look(self, cases: Sequence[_Case]) -> None:
        """Read file records and rows of the cases."""
        by_file = [list(group) for _, group in groupby(cases, key=lambda case: case.key[0])]
        for group, found in zip(by_file, self._pool.map(self._read, by_file), strict=True):
            for case, now in zip(group, found, strict=True):
                case.now = now
        if any(not case.now.rows.keys() <= self._roster.asked.keys() for case in cases):
            self._roster.look_again()  # a node that joined since the audit began

    def _read(self, cases: Sequence[_Case]) -> list[_Now]:
        """Of chunks of one file."""
        file_id = cases[0].key[0]
        record = self._store.get_file(file_id)
        wanted: dict[int, dict[str, tuple[str, int]]] = {case.key[1]: {} for case in cases}
        if record is None or record.state is not FileState.DELETING:
            for row in self._store.replicas(file_id, min(wanted), max(wanted)):
                if row.chunk_index in wanted:
                    wanted[row.chunk_index][row.node_id] = (row.checksum, row.length)
        return [_Now(record, wanted[case.key[1]]) for case in cases]

    # --- nodes ---

    def _ask_nodes(self, cases: Sequence[_Case]) -> None:
        """Have nodes verify every copy in doubt that was not verified yet."""
        doubtful: dict[str, list[_Case]] = {}
        for case in cases:
            for node_id in self._doubtful(case):
                doubtful.setdefault(node_id, []).append(case)
        for work in [self._pool.submit(self._verify, node_id, asked) for node_id, asked in doubtful.items()]:
            work.result()

    def _doubtful(self, case: _Case) -> Iterable[str]:
        now = case.now
        if now.record is not None and now.record.state is FileState.DELETING:
            return ()
        held = self._held(case)
        rows = [node_id for node_id, row in now.rows.items() if held.get(node_id) != row]
        return [
            node_id
            for node_id in (*rows, *self._rowless(case))
            if node_id not in case.verdicts and node_id in self._roster.asked and not self._roster.is_away(node_id)
        ]

    def _held(self, case: _Case) -> dict[str, tuple[str, int]]:
        """Copies that are beyond doubt: listed by a node that answers, and not as bad."""
        answering = self._roster.answering()
        named = ((self._roster.name(number), number, held) for number, held in case.facts.held.items())
        return {
            name: (held.checksum.hex(), held.length)
            for name, number, held in named
            if name in answering and number not in case.facts.bad
        }

    def _rowless(self, case: _Case) -> list[str]:
        """Nodes with a record that has no row and is not a write under way."""
        record = case.now.record
        if record is not None and record.state in (FileState.UPLOADING, FileState.DELETING):
            return []
        return [
            name
            for number, held in case.facts.held.items()
            if held.created < self._horizon and (name := self._roster.name(number)) not in case.now.rows
        ]

    def _verify(self, node_id: str, cases: Sequence[_Case]) -> None:
        allowance = self._allowance(node_id)
        for start in range(0, len(cases), MAX_VERIFY):
            part = cases[start : start + MAX_VERIFY]
            sizes = (case.now.rows.get(node_id, ("", 0))[1] for case in part)
            if not allowance.take(sum(sizes)):
                raise InterruptedError("stopping")
            try:
                found = ask_patiently(partial(self._verdicts, node_id, part), self._roster, self._wait)
            except Lost as error:
                self._roster.lost(node_id, str(error))
                return
            for case, said in zip(part, found, strict=True):
                case.verdicts[node_id] = said

    def _verdicts(self, node_id: str, cases: Sequence[_Case]) -> list[Verified | errors.DfsError]:
        keys = [case.key for case in cases]
        return self._calls.verify_many(self._roster.asked[node_id], keys, deadline=Deadline(VERIFY_SECONDS))

    # --- judgement ---

    def _assess(self, case: _Case) -> Assessment:
        held = self._held(case)
        bad = {self._roster.name(number): why for number, why in case.facts.bad.items()}
        details = dict(bad)
        copies = {}
        for node_id, row in case.now.rows.items():
            if held.get(node_id) == row and node_id not in case.verdicts:
                copies[node_id] = Copy.GOOD
            else:
                copies[node_id] = self._copy(node_id, row, case.verdicts.get(node_id), node_id in bad)
                said = case.verdicts.get(node_id)
                if isinstance(said, errors.CorruptChunk):
                    details.setdefault(node_id, said.message)
        rowless = [name for name in self._rowless(case) if isinstance(case.verdicts.get(name), Verified)]
        return assess(
            case.now.record,
            case.key[1],
            case.now.rows,
            copies,
            extra=rowless,
            details=details,
            zones={name: self._roster.zone(name) for name in case.now.rows},
            spread=self._spread,
            factor=self._factor,
            may_hide=bool(self._roster.away),
        )

    def _copy(self, node_id: str, row: tuple[str, int], said: Verified | errors.DfsError | None, bad: bool) -> Copy:
        if node_id not in self._roster.asked:
            return Copy.GONE
        if isinstance(said, Verified):
            return Copy.GOOD if (said.checksum, said.length) == row else Copy.WRONG
        if isinstance(said, errors.CorruptChunk):
            return Copy.CORRUPT
        if isinstance(said, (errors.NotFound, errors.Gone)):
            return Copy.CORRUPT if bad else Copy.MISSING
        return Copy.AWAY  # it does not answer, or says nothing about this one


def _same(one: _Now, other: _Now) -> bool:
    """Whether nothing that counts has changed between two readings."""
    states = tuple(None if now.record is None else now.record.state for now in (one, other))
    return states[0] == states[1] and one.rows == other.rows


