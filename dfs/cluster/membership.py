"""Which nodes live, as this process sees it.

A node lives while its `heartbeat_seq` changes, or a call to it succeeds, within the heartbeat
timeout. Time is counted on this process's monotonic clock, and only between two readings of the
registry that both worked: a registry that cannot be read ages nobody, nor does a stopped process.
Before it counts as dead it is asked itself, for the registry may be readable and take no heartbeats.

A failed call makes a node suspect at once: it comes last for reads and nothing is placed on it,
until it answers a probe. A node seen for the first time is suspect too, so that a row left by a
node that died last week holds nothing up; the first reading waits for those probes, so that a
fresh server knows the living nodes at once and need not wait a heartbeat.

One thread reads the registry (every two seconds at most, at once after a failed call) and starts
the probes. Nobody else reads it, except `refresh`, whose concurrent callers share one reading.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor

from dfs import WIRE_VERSION, logs
from dfs.cluster.view import MemberState, View, weight_of
from dfs.metadata.contract import MetadataStore
from dfs.model import AdminState, ClusterInfo, NodeInfo

__all__ = ["MemberState", "Membership", "View"]

PROBE_EVERY = 2.0
_PROBE_SLOWEST = 30.0
_STRIKES_FORGOTTEN = 60.0
_PROBE_WAIT = 2.0
_PROBERS = 8
_LEAST_GAP = 0.05


class _Member:
    """What is remembered of one node."""

    def __init__(self, info: NodeInfo, now: float) -> None:
        self.info = info
        self.fresh_at: float | None = None  # age clock; None: no sign of life yet
        self.suspect = True
        self.refusing: str | None = None
        self.probing = False
        self.probe_at = now
        self.probe_gap = PROBE_EVERY
        self.strikes = 0
        self.struck_at = float("-inf")
        self.alive = False  # as published


class Membership:
    """The view of the nodes, kept current. Thread-safe."""

    def __init__(
        self,
        store: MetadataStore,
        cluster: ClusterInfo,
        *,
        heartbeat_timeout: float,
        probe: Callable[[NodeInfo], bool],
        refresh: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        probers: Executor | None = None,
    ) -> None:
        """`probe` says whether that very node answers; it must return within two seconds or so and
        raise nothing. `probers` runs probes (a small pool of its own by default)."""
        self.cluster = cluster
        self._store = store
        self._timeout = heartbeat_timeout
        self._every = min(refresh, max(0.05, heartbeat_timeout / 4))
        self._clock = clock
        self._now_ms = now_ms
        self._probe = probe
        self._probers: Executor = probers or ThreadPoolExecutor(_PROBERS, thread_name_prefix="dfs-probe")
        self._changed = threading.Condition()
        self._members: dict[str, _Member] = {}
        self._age = 0.0
        self._last_read: float | None = None  # None: the latest reading failed
        self._read_ever = float("-inf")
        self._view = View(0, ())
        self._placement_key: tuple[object, ...] = ()
        self._reading = threading.Lock()
        self._rounds = 0
        self._refreshes = 0
        self._refreshed_at = float("-inf")
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    # --- life ---

    def start(self) -> None:
        """Read the registry once, wait for the nodes to answer (two seconds at most), then keep the
        view current in the background. A registry that cannot be read is logged and tried again."""
        self.refresh()
        self._thread = threading.Thread(target=self._run, name="dfs-membership", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the background work; running probes are left to end by themselves."""
        self._stopping.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout=5)
        self._probers.shutdown(wait=False, cancel_futures=True)

    # --- what others ask ---

    def view(self) -> View:
        """The latest view. Costs nothing."""
        return self._view

    def read_age(self) -> float:
        """Seconds since the registry was last read; infinite when it never was."""
        return self._clock() - self._read_ever

    def refresh(self, max_age: float = 0.0) -> View:
        """Read the registry and probe every doubtful node now; the view after that.

        One of these that ended less than `max_age` (s) ago will do if no node has failed since. Waits about two seconds at most
        for the nodes to answer. When the registry cannot be read the nodes are still probed.
        """
        asked = self._refreshes
        with self._reading:
            # Another that began after we asked may just have ended; else it is our turn.
            if self._refreshes == asked and self._clock() - self._refreshed_at >= max_age:
                self._refreshes += 1
                self._round(everyone=True)
                with self._changed:
                    self._changed.wait_for(self._nobody_probing, _PROBE_WAIT)
                self._refreshed_at = self._clock()
        return self._view

    def wait_for(self, holds: Callable[[View], bool], timeout: float) -> bool:
        """Wait until a view `holds`; False after `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: holds(self._view), timeout)

    # --- what others tell ---

    def report_success(self, node_id: str) -> None:
        """A call to the node worked."""
        member = self._members.get(node_id)
        if member is None:
            return
        member.fresh_at = self._age
        if member.suspect or not member.alive:
            with self._changed:
                # A node that fails again and again has to pass a probe when its time has come.
                cleared = member.strikes <= 1 or self._clock() >= member.probe_at
                if cleared:
                    member.suspect = False
                if cleared or not member.alive:
                    self._publish()

    def report_failure(self, node_id: str, reason: str) -> None:
        """A call to the node failed, or something else answered in its place."""
        with self._changed:
            member = self._members.get(node_id)
            if member is None or member.suspect:
                return
            now = self._clock()
            recent = now - member.struck_at < _STRIKES_FORGOTTEN
            member.strikes = member.strikes + 1 if recent else 1
            member.struck_at = now
            member.suspect = True
            # Probed at once the first time; a node whose probes work and whose calls fail waits
            # longer each time, or its victims would wait for it again and again.
            wait = 0.0 if member.strikes == 1 else PROBE_EVERY * 2 ** min(member.strikes - 2, 5)
            member.probe_at = now + min(wait, _PROBE_SLOWEST)
            member.probe_gap = PROBE_EVERY
            self._refreshed_at = float("-inf")
            self._publish()
        logs.warning("node.suspect", node_id=node_id, reason=reason, strikes=member.strikes)
        self._wake.set()

    def report_refusal(self, node_id: str, code: str) -> None:
        """The node answered that it takes no stores (`node_full`, `read_only`): nothing is placed on
        it until its next heartbeat tells more."""
        with self._changed:
            member = self._members.get(node_id)
            if member is None or member.refusing == code:
                return
            member.refusing = code
            member.fresh_at = self._age
            self._publish()
        logs.warning("node.refuses", node_id=node_id, code=code)
        self._wake.set()

    # --- the rounds ---

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake.wait(self._every)
            self._wake.clear()
            if self._stopping.is_set():
                return
            try:
                with self._reading:
                    self._round(everyone=False)
            except Exception as error:  # a bug must not end the thread that all writes rely on
                logs.error("membership.round_failed", exc=error)
            self._stopping.wait(_LEAST_GAP)

    def _round(self, *, everyone: bool) -> None:
        """Read the registry, publish, start probes. The caller holds `_reading`."""
        self._rounds += 1
        try:
            nodes = self._store.list_nodes()
        except Exception as error:
            if self._last_read is not None or self._rounds == 1:
                logs.warning("registry.unreadable", error=str(error))
            self._last_read = None
            nodes = None
        now = self._clock()
        with self._changed:
            if nodes is not None:
                if self._last_read is not None:
                    self._age += min(now - self._last_read, 3 * self._every)
                self._last_read = self._read_ever = now
                self._merge(nodes, now)
            due = [member for member in self._members.values() if self._due(member, now, everyone)]
            for member in due:
                member.probing = True
            self._publish()
        for member in due:
            try:
                self._probers.submit(self._probe_one, member, member.info)
            except RuntimeError:  # stopping
                member.probing = False

    def _merge(self, nodes: list[NodeInfo], now: float) -> None:
        known, self._members = self._members, {}
        for info in nodes:
            member = known.get(info.node_id)
            if member is None:
                member = _Member(info, now)
                if not _speaks(info):
                    logs.warning("node.other_version", node_id=info.node_id, wire=info.wire_version)
            elif (info.heartbeat_seq, info.boot_id) != (member.info.heartbeat_seq, member.info.boot_id):
                member.fresh_at = self._age
                member.refusing = None
                if info.boot_id != member.info.boot_id:
                    member.probe_at = now
                    member.strikes = 0
            member.info = info
            self._members[info.node_id] = member

    def _due(self, member: _Member, now: float, everyone: bool) -> bool:
        doubtful = member.suspect or not self._lives(member)
        if not doubtful or member.probing or member.info.admin_state == AdminState.DECOMMISSIONED:
            return False
        return _speaks(member.info) and (everyone or now >= member.probe_at)

    def _probe_one(self, member: _Member, info: NodeInfo) -> None:
        answered = False
        try:
            answered = self._probe(info)
        except Exception as error:
            logs.error("node.probe_failed", exc=error, node_id=info.node_id)
        with self._changed:
            member.probing = False
            if answered:
                member.fresh_at = self._age
                member.suspect = False
                member.probe_gap = PROBE_EVERY
            else:
                member.suspect = True
                member.probe_at = self._clock() + member.probe_gap
                if not self._lives(member):
                    member.probe_gap = min(2 * member.probe_gap, _PROBE_SLOWEST)
            self._publish()

    def _nobody_probing(self) -> bool:
        return not any(member.probing for member in self._members.values())

    def _lives(self, member: _Member) -> bool:
        return member.fresh_at is not None and self._age - member.fresh_at < self._timeout

    def _publish(self) -> None:
        states = []
        now_ms = self._now_ms()
        for node_id in sorted(self._members):
            member = self._members[node_id]
            # Nobody dies of silence alone: metadata may take no heartbeats. It is asked first.
            member.alive = self._lives(member) or (member.alive and member.probing and not member.suspect)
            suspect = member.suspect or not _speaks(member.info)
            maintained = member.info.admin_state != member.info.state_at(now_ms)
            states.append(MemberState(member.info, member.alive, suspect, member.refusing, maintained))
        key = tuple(
            (state.info.node_id, state.info.zone, weight_of(state.info)) for state in states if state.writable
        )
        changed = key != self._placement_key
        self._placement_key = key
        self._view = View(self._view.epoch + changed, states)
        self._changed.notify_all()


def _speaks(info: NodeInfo) -> bool:
    """A release speaks its own wire version, and with the one before and after it."""
    return abs(info.wire_version - WIRE_VERSION) <= 1
