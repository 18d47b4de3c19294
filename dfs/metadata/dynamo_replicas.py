"""Adding replica rows: concurrent calls for one file share transactions.

Each transaction checks the file record, and two transactions that name one item at once conflict.
So per file one transaction runs at a time, carrying what gathered while the one before it ran.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence

from dfs.errors import Busy, Unavailable
from dfs.metadata.batch import Batcher, Job
from dfs.metadata.contract import OutcomeUnknown, StepsRefused
from dfs.metadata.steps import MAX_STEPS, CheckFile, PutReplica, PutShort, Step, item_of
from dfs.model import FileState

TAKES_REPLICAS = frozenset({FileState.UPLOADING, FileState.COMMITTED, FileState.TRASHED})
ROWS_PER_TRANSACTION = MAX_STEPS - 1
PATIENCE = 5.0
"""Seconds after which rows that could not be put are not tried again."""

_LONGEST_PAUSE = 0.25

Rows = Sequence[PutReplica | PutShort]


class _Adder:
    """The batcher of one file, kept while anyone uses it."""

    def __init__(self, batcher: Batcher[Rows]) -> None:
        self.batcher = batcher
        self.users = 0


class ReplicaAdder:
    """See the module's text. `transact` is the store's."""

    def __init__(
        self,
        transact: Callable[[Sequence[Step]], None],
        *,
        pause: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._transact = transact
        self._pause = pause
        self._clock = clock
        self._guard = threading.Lock()
        self._files: dict[str, _Adder] = {}

    def add(self, file_id: str, rows: Rows) -> None:
        """Put all rows. Raises StepsRefused, OutcomeUnknown, errors.Unavailable (then some may be put)."""
        with self._guard:
            adder = self._files.get(file_id)
            if adder is None:
                adder = self._files[file_id] = _Adder(
                    Batcher(lambda jobs: self._run(file_id, jobs), MAX_STEPS)
                )
            adder.users += 1
        try:
            for first in range(0, max(len(rows), 1), ROWS_PER_TRANSACTION):
                adder.batcher.submit(rows[first : first + ROWS_PER_TRANSACTION])
        finally:
            with self._guard:
                adder.users -= 1
                if adder.users == 0:
                    del self._files[file_id]

    def _run(self, file_id: str, jobs: list[Job[Rows]]) -> None:
        """Pack the jobs' rows into as few transactions as hold them; of one item the last row counts."""
        packed: dict[tuple[str | int, ...], Step] = {}
        inside: list[Job[Rows]] = []
        for job in jobs:
            rows = {item_of(row): row for row in job.work}
            if len(packed | rows) > ROWS_PER_TRANSACTION:
                self._send(file_id, list(packed.values()), inside)
                packed, inside = {}, []
            packed |= rows
            inside.append(job)
        self._send(file_id, list(packed.values()), inside)

    def _send(self, file_id: str, rows: list[Step], jobs: list[Job[Rows]]) -> None:
        steps = [CheckFile(file_id, TAKES_REPLICAS), *rows]
        began = self._clock()
        while True:
            try:
                self._transact(steps)
            except (OutcomeUnknown, Busy) as error:
                # Putting rows twice is harmless, so another attempt is the way to find out.
                if self._clock() - began < PATIENCE:
                    self._pause(random.uniform(0, _LONGEST_PAUSE))
                    continue
                failure: Exception = error
            except (StepsRefused, Unavailable) as error:
                failure = error
            else:
                for job in jobs:
                    job.result = True
                return
            break
        for job in jobs:
            job.error = failure
