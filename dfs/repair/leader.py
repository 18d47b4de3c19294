"""The leader of repair: one thread in every API server process, of which one works at a time.

It works while it holds the lease `repair`. What it knows is in the document `repair` a moment later, so that
whoever takes the lease goes on where it was; a document that somebody else has written means that somebody
else is the leader. Correctness rests on none of this: every change is conditional on what it leaves.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from dfs import errors, logs
from dfs.cluster.calls import NodeCalls
from dfs.cluster.membership import Membership
from dfs.cluster.placement import Placement
from dfs.cluster.upkeep import Fence, UpkeepCalls
from dfs.metadata.contract import MetadataStore, OutcomeUnknown
from dfs.model import ClusterInfo, Document, NodeInfo
from dfs.repair import strays
from dfs.repair.backlog import Mends
from dfs.repair.crew import Crew
from dfs.repair.gate import Gate
from dfs.repair.hold import Held, Hold
from dfs.repair.mend import Mender
from dfs.repair.pace import Pace
from dfs.repair.parts import Parts, Policy
from dfs.repair.progress import DOCUMENT, RepairStatus
from dfs.repair.strays import StrayRule, Strays
from dfs.repair.term import Term

__all__ = ["Leader", "Policy", "Tools"]

LEASE = "repair"
LEASE_SECONDS = 15.0

_RENEW_EVERY = 3.0
_SAVE_EVERY = 2.0
_SHOW_EVERY = 10.0
_LOOK_AGAIN = 1.0
_LONGEST_WAIT = 1.0
_MB = 1_000_000

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Tools:
    """What the leader works with; tests put others in their place."""

    upkeep: UpkeepCalls
    mender: Mends
    crew: Crew


class Leader:
    """See the module's text. `name` is unique to the process's run; `mbps` megabytes a second are copied at
    most, by `jobs` threads."""

    def __init__(
        self,
        store: MetadataStore,
        cluster: ClusterInfo,
        membership: Membership,
        placement: Placement,
        calls: NodeCalls,
        lease: Held,
        name: str,
        policy: Policy,
        *,
        mbps: int,
        jobs: int,
        clock: Callable[[], float] = time.monotonic,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        tools: Callable[[Leader], Tools] | None = None,
    ) -> None:
        self._store = store
        self._cluster = cluster
        self._name = name
        self._policy = policy
        self._clock = clock
        self._stopping = threading.Event()
        self._woken = False
        self._term: Term | None = None
        self._number = 0
        self._seen: Document | None = None
        self._strays_seen: Document | None = None
        self._saved: RepairStatus | None = None
        self._saved_at = self._strays_at = self._looked_at = float("-inf")
        self._thread: threading.Thread | None = None
        if tools is None:
            upkeep = UpkeepCalls(calls, Gate().turn)
            mender = Mender(
                store,
                membership,
                placement,
                upkeep,
                factor=policy.factor,
                pace=Pace(mbps * _MB, clock, self._stopping.wait),
                fence=self.fence,
                away=self.away,
                now_ms=now_ms,
            )
            made = Tools(upkeep, mender, Crew(jobs))
        else:
            made = tools(self)
        self._crew = made.crew
        every = min(_RENEW_EVERY, max(0.1, policy.interval))
        self._hold = Hold(lease, every=every, rest=LEASE_SECONDS, changed=self._crew.nudge)
        self._parts = Parts(
            store=store,
            membership=membership,
            upkeep=made.upkeep,
            mender=made.mender,
            rule=StrayRule(
                store,
                membership,
                made.upkeep,
                calls,
                cluster,
                factor=policy.factor,
                fence=self.fence,
                alone=made.mender.alone,
                now_ms=now_ms,
            ),
            crew=made.crew,
            policy=policy,
            fence=self.fence,
            clock=clock,
            now_ms=now_ms,
        )

    # --- life ---

    def start(self) -> None:
        """Lead whenever nobody else does, from now on."""
        self._crew.start()
        self._hold.start()
        self._thread = threading.Thread(target=self._run, name="dfs-repair", daemon=True)
        self._thread.start()

    def stop(self, seconds: float = 4.0) -> None:
        """Write down how far it has come, give the lease up, and end; no new step is begun from now on. Waits
        at most `seconds`: a copy under way may go on for a moment and comes to nothing."""
        self._stopping.set()
        self._crew.nudge()
        if self._thread is not None:
            self._thread.join(seconds / 2)
        self._hold.stop(seconds / 4)
        self._crew.stop(seconds / 4)

    # --- what others ask and tell ---

    @property
    def leading(self) -> bool:
        """Whether this process is the one that works."""
        return self.fence() is not None

    def wake(self) -> None:
        """There may be something to repair: look soon."""
        self._woken = True
        self._crew.nudge()

    def fence(self) -> Fence | None:
        """Under which lease changes are made now; None when none may be made."""
        number = self._hold.fence
        if number is None or self._stopping.is_set():
            return None
        return Fence(LEASE, self._cluster.generation, number)

    def away(self, node: NodeInfo) -> bool:
        """Whether a node that does not answer is expected back."""
        term = self._term
        return term is None or node.node_id not in term.lost

    # --- the thread ---

    def _run(self) -> None:
        told = False
        while not self._stopping.is_set():
            try:
                self.step(_LONGEST_WAIT)
                told = False
                continue
            except errors.DfsError as error:
                if not told:  # once for as long as it lasts
                    logs.warning("repair.interrupted", reason=error.message)
                told = True
            except Exception as error:  # a bug must not end the thread
                logs.error("repair.failed", exc=error)
            self._stopping.wait(min(1.0, self._policy.interval))
        try:
            if self._term is not None and self._hold.fence == self._number:
                self._save(self._term)
        except errors.DfsError as error:  # the next leader repeats a little
            logs.warning("repair.state_not_saved", reason=error.message)
        except Exception as error:
            logs.error("repair.failed", exc=error)

    def step(self, wait: float) -> None:
        """One turn: look if it is time, hand out work, hear of what is done (for at most `wait` seconds),
        write down how far it has come. Raises errors.Unavailable."""
        number = self._hold.fence
        if number is None:
            self._term = None
            self._crew.take(wait)
            return
        if self._term is None or number != self._number:
            self._begin(number)
        term = self._term
        assert term is not None
        now = self._clock()
        if self._woken and now - self._looked_at >= min(_LOOK_AGAIN, self._policy.interval):
            self._looked_at = float("-inf")
        if now - self._looked_at >= self._policy.interval:
            self._woken = False
            self._looked_at = now
            term.look()
        while self._crew.room() and not self._stopping.is_set() and term.feed():
            pass
        self._save_when_due(term)
        left = self._looked_at + self._policy.interval - self._clock()
        self._crew.take(min(wait, max(0.0, left)))
        while self._crew.take(0.0):
            pass

    def _begin(self, number: int) -> None:
        """Take over where the last leader was."""
        self._seen = self._store.read_document(DOCUMENT)
        self._strays_seen = self._store.read_document(strays.DOCUMENT)
        rest_ms = round(1000 * self._policy.upload_ttl)
        status = _understood("repair", lambda: RepairStatus.from_json(_value(self._seen)), RepairStatus())
        walks = _understood("strays", lambda: Strays.from_json(_value(self._strays_seen), rest_ms), Strays({}, rest_ms))
        self._number = number
        self._looked_at = float("-inf")
        self._saved = None
        self._term = Term(self._parts, status, walks)
        logs.event("repair.leader", leader=self._name, fence=number, before=status.leader, tours=len(status.tours))

    # --- the documents ---

    def _save_when_due(self, term: Term) -> None:
        since = self._clock() - self._saved_at
        if not term.urgent and since < _SAVE_EVERY:
            return
        if not term.urgent and since < _SHOW_EVERY and self._saved == replace(self._status(term), at=0):
            return
        self._save(term)
        if self._clock() - self._strays_at >= _SHOW_EVERY and self._term is not None:
            self._save_strays(term)

    def _status(self, term: Term) -> RepairStatus:
        return term.status(self._name, self._cluster.generation, self._number)

    def _save(self, term: Term) -> None:
        """Write the state down. Resigns when a later leader has written it. Raises errors.Unavailable."""
        status = self._status(term)
        self._saved_at = self._clock()
        try:
            written = self._store.write_document(DOCUMENT, status.to_json(), self._seen)
        except OutcomeUnknown:
            written = None
        if written is None:
            # Ours all the same, if an answer was lost; else somebody else's.
            self._seen = self._store.read_document(DOCUMENT)
            self._yield_to(_value(self._seen))
            return
        self._seen = written
        self._saved = replace(status, at=0)
        term.written()

    def _yield_to(self, said: Mapping[str, Any]) -> None:
        """Resign if the document is that of a later leader; an earlier one, that wrote once more, will see."""
        theirs, ours = (said.get("generation", 0), said.get("fence", 0)), (self._cluster.generation, self._number)
        if theirs > ours:
            logs.warning("repair.overruled", leader=self._name, fence=self._number, by=said.get("leader"))
            self._term = None
            self._hold.resign()

    def _save_strays(self, term: Term) -> None:
        self._strays_at = self._clock()
        value = term.strays.to_json()
        if value == _value(self._strays_seen):
            return
        try:
            written = self._store.write_document(strays.DOCUMENT, value, self._strays_seen)
        except OutcomeUnknown:
            written = None
        self._strays_seen = self._store.read_document(strays.DOCUMENT) if written is None else written


def _value(document: Document | None) -> dict[str, Any]:
    return {} if document is None else document.value


def _understood(what: str, read: Callable[[], T], otherwise: T) -> T:
    """What an earlier leader wrote, as far as it can be read: it only saves work."""
    try:
        return read()
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        logs.warning("repair.state_unreadable", document=what, error=repr(error))
        return otherwise
