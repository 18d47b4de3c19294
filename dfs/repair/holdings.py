"""What the nodes really hold: their inventories, page by page, each record re-read on demand."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Protocol, TypeVar

from dfs import errors
from dfs.cluster.nodeanswers import InventoryEntry, InventoryPage, Verified
from dfs.cluster.upkeep import MAX_VERIFY, BadPage
from dfs.model import NodeInfo
from dfs.repair.roster import Roster
from dfs.repair.sorting import Fact, FactKind, file_key
from dfs.wire.deadline import Deadline

PAGE = 5000
AT_ONCE = 8
"""Nodes that are asked at once."""

CALL_SECONDS = 30.0
VERIFY_SECONDS = 120.0
_MOST_AT_ONCE = 64 << 20
_TRIES = 3
_PATIENT_TRIES = 10
_PATIENCE = 30.0
_PAUSE = 0.5
_LONGEST_PAUSE = 4.0

T = TypeVar("T")


class Lost(Exception):
    """The node gives no usable answer."""


def ask_patiently(
    call: Callable[[], T], roster: Roster, wait: Callable[[float], bool], *, patient: bool = True
) -> T:
    """What `call` returns. One that fails is repeated: a few times, or `patient` for half a minute, in which a
    node can be restarted; the roster learns where it is then. Raises Lost when it fails again and again, and
    InterruptedError when `wait` says to stop."""
    reason = ""
    began = time.monotonic()
    for attempt in range(_PATIENT_TRIES if patient else _TRIES):
        if attempt >= _TRIES and time.monotonic() - began > _PATIENCE:
            break
        if attempt:
            if wait(min(_PAUSE * 2 ** (attempt - 1), _LONGEST_PAUSE)):
                raise InterruptedError("stopping")
            roster.look_again()
        try:
            return call()
        except errors.DfsError as error:
            reason = error.message
    raise Lost(reason)


class Asked(Protocol):
    """What is used of `cluster.upkeep.UpkeepCalls`."""

    def inventory(self, node: NodeInfo, after: int, limit: int, *, deadline: Deadline) -> InventoryPage:
        """See UpkeepCalls.inventory."""

    def bad_chunks(
        self, node: NodeInfo, *, after: tuple[str, int] | None, limit: int, deadline: Deadline
    ) -> BadPage:
        """See UpkeepCalls.bad_chunks."""

    def verify_many(
        self, node: NodeInfo, keys: Sequence[tuple[str, int]], *, deadline: Deadline
    ) -> list[Verified | errors.DfsError]:
        """See UpkeepCalls.verify_many."""


class Allowance(Protocol):
    """What is used of `pace.Pace`."""

    def take(self, count: int) -> bool:
        """Wait until so many bytes may be read; False when the audit is to stop."""


class Holdings:
    """Writes down what the nodes of `roster` hold, by `keep`. A node that does not answer is `lost`, and what it
    has told until then does not count.

    `verify`: every record is re-read from the disk now, at the pace of the node's `allowance`, some `at_once`
    (bytes: a second's worth, so that a slow pace is an even one). `told` is
    called with the number of records of each page, from several threads. Raises InterruptedError when
    `stopping` is set, and whatever `keep` raises.
    """

    def __init__(
        self,
        calls: Asked,
        roster: Roster,
        keep: Callable[[Sequence[Fact]], None],
        *,
        verify: bool,
        allowance: Callable[[str], Allowance],
        at_once: int,
        stopping: threading.Event,
        now_ms: Callable[[], int],
        told: Callable[[int], None],
    ) -> None:
        self._calls = calls
        self._roster = roster
        self._keep = keep
        self._verify = verify
        self._allowance = allowance
        self._at_once = min(at_once, _MOST_AT_ONCE)
        self._stopping = stopping
        self._now_ms = now_ms
        self._told = told

    def read_all(self) -> None:
        """Ask every node."""
        nodes = list(self._roster.asked.values())
        failed = threading.Event()
        with ThreadPoolExecutor(min(AT_ONCE, max(1, len(nodes))), thread_name_prefix="dfs-audit") as pool:
            work = [pool.submit(self._read, node, failed) for node in nodes]
            for each in work:
                each.result()

    def _read(self, node: NodeInfo, failed: threading.Event) -> None:
        try:
            self._read_node(node, failed)
            self._roster.heard_out(node.node_id)
        except Lost as error:
            self._roster.lost(node.node_id, str(error))
        except ValueError as error:
            self._roster.lost(node.node_id, f"what it says of its chunks cannot be read: {error}")
        except BaseException:
            failed.set()  # the others need not go on
            raise

    def _read_node(self, node: NodeInfo, failed: threading.Event) -> None:
        allowance = self._allowance(node.node_id)
        number = self._roster.number(node.node_id)
        after: int | None = 0
        while after is not None:
            if failed.is_set():
                raise InterruptedError("another node's part failed")
            page = self._ask(partial(self._page, node.node_id, after), patient=after > 0)
            if self._verify:
                for part in _parts(page.chunks, self._at_once):
                    self._keep(self._verified(node, number, part, allowance))
                    self._told(len(part))
            else:
                self._keep([_held(number, entry, entry.verified or 0) for entry in page.chunks])
                self._told(len(page.chunks))
            after = page.next
        self._read_bad(node.node_id, number)

    def _read_bad(self, node_id: str, number: int) -> None:
        after: tuple[str, int] | None = None
        while True:
            page = self._ask(partial(self._bad_page, node_id, after))
            self._keep([_bad(number, bad.file_id, bad.chunk_index, bad.why) for bad in page.chunks])
            after = page.next
            if after is None:
                return

    def _verified(
        self, node: NodeInfo, number: int, entries: Sequence[InventoryEntry], allowance: Allowance
    ) -> list[Fact]:
        """What the node finds when it reads these records again. Those that are gone by now leave no fact."""
        if not allowance.take(sum(entry.length for entry in entries)):
            raise InterruptedError("stopping")
        facts = []
        left = list(entries)
        for _ in range(_TRIES):
            keys = [(entry.file_id, entry.chunk_index) for entry in left]
            found = self._ask(partial(self._verdicts, node.node_id, keys))
            busy = []
            for entry, said in zip(left, found, strict=True):
                if isinstance(said, Verified):
                    facts.append(_held(number, entry, self._now_ms(), said))
                elif isinstance(said, errors.CorruptChunk):
                    facts.append(_bad(number, entry.file_id, entry.chunk_index, said.message))
                elif not isinstance(said, (errors.NotFound, errors.Gone)):
                    busy.append(entry)
                    reason = said.message
            if not busy:
                return facts
            left = busy
            if self._stopping.wait(_PAUSE):
                raise InterruptedError("stopping")
        raise Lost(f"it does not verify its chunks: {reason}")

    def _page(self, node_id: str, after: int) -> InventoryPage:
        return self._calls.inventory(self._roster.asked[node_id], after, PAGE, deadline=Deadline(CALL_SECONDS))

    def _bad_page(self, node_id: str, after: tuple[str, int] | None) -> BadPage:
        return self._calls.bad_chunks(self._roster.asked[node_id], after=after, limit=PAGE, deadline=Deadline(CALL_SECONDS))

    def _verdicts(self, node_id: str, keys: Sequence[tuple[str, int]]) -> list[Verified | errors.DfsError]:
        return self._calls.verify_many(self._roster.asked[node_id], keys, deadline=Deadline(VERIFY_SECONDS))

    def _ask(self, call: Callable[[], T], *, patient: bool = True) -> T:
        """The node's answer; raises Lost when there is none."""
        if self._stopping.is_set():
            raise InterruptedError("stopping")
        return ask_patiently(call, self._roster, self._stopping.wait, patient=patient)


def _parts(entries: Sequence[InventoryEntry], most: int) -> Iterator[list[InventoryEntry]]:
    """`entries` in parts of at most `most` bytes, or of one record, that one call may name."""
    part: list[InventoryEntry] = []
    size = 0
    for entry in entries:
        if part and (len(part) == MAX_VERIFY or size + entry.length > most):
            yield part
            part, size = [], 0
        part.append(entry)
        size += entry.length
    if part:
        yield part


def _held(number: int, entry: InventoryEntry, verified: int, said: Verified | None = None) -> Fact:
    checksum, length = (entry.checksum, entry.length) if said is None else (said.checksum, said.length)
    return Fact(
        file_key(entry.file_id),
        entry.chunk_index,
        FactKind.HELD,
        number,
        bytes.fromhex(checksum),
        length,
        entry.created,
        verified,
    )


def _bad(number: int, file_id: str, chunk_index: int, why: str) -> Fact:
    return Fact(file_key(file_id), chunk_index, FactKind.BAD, number, why[:200].encode(), 0, 0, 0)
