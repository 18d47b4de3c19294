"""The scrubber: everything on this node's disk is read again within DFS_SCRUB_PERIOD, and verified.

Passes follow one another. Each is spread over half the period, so that a chunk that was written just after a
pass began is read within the period too, in the next one. A pass is never faster than DFS_SCRUB_MBPS, and
gives way to callers as long as there is time. Where it is, is kept in the store's index:
a restart goes on there. When the index is lost, so is when chunks were last verified: a new pass begins.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from dfs import logs
from dfs.errors import DfsError
from dfs.node.registration import now_ms
from dfs.node.standing import Standing
from dfs.store.reread import Phase, Position
from dfs.store.store import ChunkStore

MEGABYTE = 1_000_000
SPREAD = 0.5
"""The share of the period that a pass is meant to take."""

KEEP_SECONDS = 2.0
"""How much of a pass a kill may cost, at most."""

RETRY_SECONDS = 5.0
IDLE_SECONDS = 60.0
"""How often a disk on which nothing is stored is looked at."""

_GLANCE_SECONDS = 0.02
_PATIENCE = 4.0
"""While callers are served, the scrubber takes up to so many times longer than its rate says."""

_CLOCK_MS = 60_000
"""A pass that began so much later than now would be spread over all the time until then."""

_FACT = "scrub"


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass: began when (ms), how far it is, how many bytes it has read of about how many, how many bad
    records it found. `mbps`: ordered at that rate; 0: by the schedule. `scrubbed_at`: when the last
    complete pass began (ms), 0 when there was none."""

    began_at: int
    position: Position
    total_bytes: int
    done_bytes: int = 0
    bad: int = 0
    mbps: int = 0
    scrubbed_at: int = 0

    @property
    def share(self) -> float:
        """How much of it is done, 0 to 1."""
        if self.position.phase is Phase.DONE:
            return 1.0
        return min(1.0, self.done_bytes / self.total_bytes) if self.total_bytes else 0.0

    def to_json(self) -> str:
        """As it is kept."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Pass:
        """What `to_json` made. Raises ValueError and TypeError for anything else."""
        found = json.loads(text)
        position = found.pop("position")
        return cls(position=Position(**position | {"phase": Phase(position["phase"])}), **found)


def rate(run: Pass, now: int, period: float, mbps: int) -> float:
    """Bytes a second at which the rest of the pass is read: as slowly as its time allows."""
    if run.mbps:
        return run.mbps * MEGABYTE
    seconds = (run.began_at - now) / 1000 + SPREAD * period
    left = max(1, run.total_bytes - run.done_bytes)
    return mbps * MEGABYTE if seconds <= 0 else min(mbps * MEGABYTE, left / seconds)


def rest(run: Pass, size: int, now: int, period: float, mbps: int) -> float:
    """Seconds to spend on the next `size` bytes of the pass, reading included. Never longer than its time
    lasts: how much there is to read was only an estimate. An ordered pass does not rest."""
    if run.mbps:
        return 0.0
    left = (run.began_at - now) / 1000 + SPREAD * period
    return max(0.0, min(left, size / rate(run, now, period, mbps)))


def too_slow(used_bytes: int, period: float, mbps: int) -> str | None:
    """A sentence when so much cannot be read within the period, or None."""
    needed = used_bytes / (period * MEGABYTE)
    if needed <= mbps:
        return None
    return (
        f"to read {used_bytes} bytes within DFS_SCRUB_PERIOD={period:g} s takes {math.ceil(needed)} MB/s, more than "
        f"DFS_SCRUB_MBPS={mbps}: raise one of them"
    )


class _Interrupted(Exception):
    """The node stops, or another pass is to begin."""


class Scrubber:
    """The scrubber of one node. `busy` tells whether callers are being served at this moment."""

    def __init__(
        self,
        store: ChunkStore,
        standing: Standing,
        *,
        mbps: int,
        period: float,
        busy: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
        wall_ms: Callable[[], int] = now_ms,
    ) -> None:
        self._store = store
        self._standing = standing
        self._mbps = mbps
        self._period = period
        self._busy = busy
        self._clock = clock
        self._wall_ms = wall_ms
        self._lock = threading.Lock()
        self._current: Pass | None = None
        self._ordered: Pass | None = None
        self._kept_at: float | None = None
        self._free_at = 0.0
        self._woken = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def recall(self) -> None:
        """Before the node registers: so its row says from the first when the last complete pass began."""
        try:
            remembered = self._store.upkeep.fact(_FACT)
        except DfsError as error:  # the thread asks again
            logs.warning("scrub.waits", error=error)
            return
        if remembered is not None:
            self._recall(remembered)

    def start(self) -> None:
        """Scrub from now on, in a thread of its own."""
        self._thread = threading.Thread(target=self._run, name="scrub", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; returns when it has ended. The next start goes on from here."""
        self._stopping.set()
        self._woken.set()
        if self._thread is not None:
            self._thread.join()

    def begin(self, mbps: int | None) -> dict[str, Any]:
        """Begin a pass now, at `mbps` megabytes a second (None: as fast as the setting allows), in place of
        the one that runs; the report. Raises Unavailable."""
        known = self._ordered or self._current
        run = replace(
            self._new(0 if known is None else known.scrubbed_at), mbps=self._mbps if mbps is None else mbps
        )
        with self._lock:
            self._store.upkeep.keep_fact(_FACT, run.to_json())
            self._ordered = run
        self._woken.set()
        logs.event("scrub.ordered", mbps=run.mbps, bytes=run.total_bytes)
        return self.report()

    def report(self) -> dict[str, Any]:
        """The facts, JSON-ready. Times in milliseconds since the epoch, sizes in bytes."""
        run = self._ordered or self._current
        usage = self._store.usage()
        return {
            "phase": None if run is None else run.position.phase,
            "share": 0.0 if run is None else round(run.share, 4),
            "began_at": None if run is None else run.began_at,
            "scrubbed_at": 0 if run is None else run.scrubbed_at,
            "done_bytes": 0 if run is None else run.done_bytes,
            "total_bytes": 0 if run is None else run.total_bytes,
            "bytes_per_second": 0 if run is None else int(self._rate(run)),
            "found": 0 if run is None else run.bad,
            "bad": usage.bad_chunks,
            "warning": too_slow(usage.used_bytes, self._period, self._mbps),
        }

    # --- the thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        said = False
        while not self._stopping.is_set():
            try:
                self._go_on()
                said = False
            except _Interrupted:
                pass
            except DfsError as error:  # the disk or the index has trouble of its own, which is logged there
                if not said:
                    logs.warning("scrub.waits", error=error, retry_seconds=RETRY_SECONDS)
                    said = True
                self._stopping.wait(RETRY_SECONDS)
            except Exception as error:  # a bug must not end the scrubbing
                logs.error("scrub.broken", exc=error)
                self._stopping.wait(RETRY_SECONDS)

    def _go_on(self) -> None:
        """The next step, and the wait after it."""
        self._woken.clear()
        if self._stopping.is_set():
            return  # it was set before it was cleared
        run = self._take()
        before, began, now = run, self._clock(), self._wall_ms()
        step = self._store.upkeep.reread(run.position, self._pace)
        run = replace(
            run,
            position=step.position,
            done_bytes=run.done_bytes + step.bytes,
            bad=run.bad + step.bad,
        )
        if run.position.phase is Phase.DONE:
            self._complete(run)
            return
        wait = began + rest(before, step.bytes, now, self._period, self._mbps) - self._clock()
        if not self._advance(run, keep=wait > KEEP_SECONDS):
            return
        if wait > 0:
            self._wait(wait)

    def _take(self) -> Pass:
        """The pass to go on with: the one ordered, the one that runs or is remembered, or a new one."""
        remembered = self._store.upkeep.fact(_FACT)
        with self._lock:
            if self._ordered is not None:
                self._current, self._ordered = self._ordered, None
            elif self._current is not None and remembered is None and self._kept_at is not None:
                logs.warning("scrub.begun_anew", reason="the index was lost, and with it when chunks were verified")
                self._current = None
                self._standing.scrubbed_at = 0
            elif self._current is None and remembered is not None:
                self._recall(remembered)
            current, now = self._current, self._wall_ms()
            if current is not None and current.began_at <= now + _CLOCK_MS:
                return current
        if current is None:
            logs.event("scrub.nothing_known", consequence="a new pass begins")
            run = self._new(0)
        else:
            logs.warning("scrub.begun_anew", reason="the clock was set back to before it began")
            run = self._new(0 if current.scrubbed_at > now else current.scrubbed_at)
            self._standing.scrubbed_at = run.scrubbed_at
        self._advance(run, keep=True)
        return run

    def _recall(self, text: str) -> None:
        try:
            run = Pass.from_json(text)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            logs.warning("scrub.begun_anew", reason=f"what is remembered of it cannot be read: {error!r}")
            return
        logs.event("scrub.goes_on", share=round(run.share, 4), began_at=run.began_at)
        self._current, self._kept_at = run, self._clock()
        self._standing.scrubbed_at = run.scrubbed_at

    def _new(self, scrubbed_at: int) -> Pass:
        run = Pass(
            self._wall_ms(),
            self._store.upkeep.begin_pass(),
            self._store.upkeep.total_bytes(),
            scrubbed_at=scrubbed_at,
        )
        logs.event("scrub.began", bytes=run.total_bytes, last_complete=scrubbed_at or None)
        warning = too_slow(self._store.usage().used_bytes, self._period, self._mbps)
        if warning is not None:
            logs.warning("scrub.too_slow", message=warning)
        return run

    def _complete(self, run: Pass) -> None:
        logs.event("scrub.complete", began_at=run.began_at, bytes=run.done_bytes, bad=run.bad)
        self._standing.scrubbed_at = run.began_at
        if not self._advance(replace(run, scrubbed_at=run.began_at), keep=True):
            return
        while not self._store.upkeep.total_bytes():  # no reason to make passes over nothing
            self._wait(min(IDLE_SECONDS, SPREAD * self._period))
        self._advance(self._new(run.began_at), keep=True)

    def _advance(self, run: Pass, *, keep: bool) -> bool:
        """Make `run` the current pass, unless another was ordered meanwhile: then False."""
        with self._lock:
            if self._ordered is not None:
                return False
            self._current = run
            now = self._clock()
            if keep or self._kept_at is None or now - self._kept_at >= KEEP_SECONDS:
                self._store.upkeep.keep_fact(_FACT, run.to_json())
                self._kept_at = now
            return True

    def _rate(self, run: Pass) -> float:
        return rate(run, self._wall_ms(), self._period, self._mbps)

    def _pace(self, size: int) -> None:
        """After reading `size` bytes: wait until more may be read, and while callers are being served."""
        run = self._current
        most = (run.mbps if run is not None and run.mbps else self._mbps) * MEGABYTE
        now = self._clock()
        self._free_at = max(now, self._free_at) + size / most
        self._wait(self._free_at - now)
        in_a_hurry = run is not None and not run.mbps and self._rate(run) > most / 2
        until = self._clock() + _PATIENCE * size / most
        while not in_a_hurry and self._clock() < until and self._busy():
            self._wait(_GLANCE_SECONDS)

    def _wait(self, seconds: float) -> None:
        if self._woken.wait(max(0.0, seconds)):
            raise _Interrupted
