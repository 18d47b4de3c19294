"""Chunks that nodes know to be bad on their own disks, asked for and healed.

A node finds them when it reads: for a client, or as its scrubber goes round. It says in its heartbeat how
many there are; which ones is asked for then, a page at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from dfs import logs
from dfs.cluster.membership import Membership
from dfs.cluster.upkeep import BadPage, Fence, UpkeepCalls
from dfs.cluster.view import View
from dfs.metadata.contract import MetadataStore
from dfs.model import AdminState
from dfs.repair.backlog import Key, Mends
from dfs.repair.later import Later
from dfs.repair.marks import mark_short
from dfs.repair.mend import Mended, Outcome
from dfs.wire.deadline import Deadline

PAGE = 500
CALL_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Bad:
    """A chunk that `node_id` says is bad on its disk."""

    node_id: str
    key: Key


def cure(
    store: MetadataStore,
    membership: Membership,
    calls: UpkeepCalls,
    mender: Mends,
    fence: Callable[[], Fence | None],
    bad: Bad,
    mark_at: int | None,
) -> Mended:
    """Mend the chunk, each of its copies read first; for any thread. What cannot be mended is marked, as of
    `mark_at` (ms) where given, so that it is not forgotten when the node is. A bad record that no row leads to
    is dropped once the chunk is whole (the node keeps what it found beside its volumes)."""
    mended = mender.mend(*bad.key, verify=True)
    if mended.outcome in (Outcome.WAITING, Outcome.UNRECOVERABLE):
        if mark_at is not None:
            mark_short(store, *bad.key, mark_at)
        return mended
    held = fence()
    if mended.outcome is Outcome.GONE or held is None or store.replica(*bad.key, bad.node_id) is not None:
        return mended
    member = membership.view().get(bad.node_id)
    if member is not None and calls.drop(member.info, *bad.key, fence=held, deadline=Deadline(CALL_SECONDS)):
        logs.event("repair.bad_record_dropped", node_id=bad.node_id, file_id=bad.key[0], chunk_index=bad.key[1])
    return mended


class BadLists:
    """Whom to ask, and what they said; for one thread."""

    def __init__(self, later: Later) -> None:
        self._later = later
        self._chunks: deque[Bad] = deque()
        self._after: dict[str, Key | None] = {}
        self.count = 0
        """How many bad chunks the nodes that answer say they have."""

    def look(self, view: View) -> None:
        """Note who has something to say."""
        ours = [m for m in view.members if m.healthy and m.admin_state is not AdminState.DECOMMISSIONED]
        self.count = sum(member.info.bad_chunks for member in ours)
        for member in ours:
            if member.info.bad_chunks:
                self._after.setdefault(member.info.node_id, None)

    def ask(self) -> tuple[str, Key | None] | None:
        """A node whose next page is to be read, and after which chunk; None while there is enough to do."""
        if self._chunks or not self._after:
            return None
        node_id = next(iter(self._after))
        return node_id, self._after.pop(node_id)

    def answered(self, node_id: str, page: BadPage) -> None:
        """What the node said."""
        self._chunks.extend(Bad(node_id, (bad.file_id, bad.chunk_index)) for bad in page.chunks)
        if page.next is not None:
            self._after[node_id] = page.next

    def next(self, busy: Callable[[Key], bool]) -> Bad | None:
        """The next chunk to cure, but for those that somebody is `busy` with and those it is too early for."""
        while self._chunks:
            bad = self._chunks.popleft()
            if self._later.due(bad) and not busy(bad.key):
                return bad
        return None

    def known(self, bad: Bad) -> bool:
        """Whether it was tried before, in vain or not."""
        return bad in self._later

    def done(self, bad: Bad, mended: Mended | Exception) -> None:
        """What became of it. A node goes on naming it for a moment: it is not tried again at once either way."""
        hopeless = isinstance(mended, Mended) and mended.outcome in (Outcome.UNRECOVERABLE, Outcome.GONE)
        self._later.put(bad, slowly=hopeless)
