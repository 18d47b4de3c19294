"""Clients at work on a cluster, which remember what they were told and hold the cluster to it.

Every name has one writer, so that its states follow one another: put, overwritten, deleted. Contents
derive from name and version, so that any reader can tell whether what it got is what may be there.
An operation ends in one of four ways:

- done: acknowledged; from then on it must show,
- refused: 503 with Retry-After, or 507: nothing was done, and it must never show,
- unsure: no answer, or 503 `unknown`, until patience ended: it may show or not; the name is given up,
- an error: anything else, wrong bytes above all. None may occur in any scenario.

`with Load(cluster) as load: load.fill(); load.start(); ...` and after that `load.verify()`.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Literal

from dfs.client import Client
from dfs.model import new_file_id
from tests.support.cluster import Cluster
from tests.support.dialogue import ClientDialogue, Dialogue, RawDialogue, Refused, Surprise, Unsure
from tests.support.states import SIZES, Name, Result, State, content_of

CHUNK = 64 * 1024
MIX = {"put": 4, "get": 5, "delete": 1, "list": 1}
"""How often each operation is chosen, relative to the others."""

STALLED_SECONDS = 120.0
VERIFY_SECONDS = 30.0
"""How long a read may be refused while everything is verified."""

_AFTER_REFUSAL = 0.1


class Load:
    """Threads that put, read, overwrite, delete and list, each on names of its own (reads: of all).

    `client`: "library" is `dfs.client.Client`, which repeats what may pass; "raw" is one bare call per
    operation, repeated under the same operation id for `patience` seconds. `timeout` bounds a call.
    """

    def __init__(
        self,
        cluster: Cluster,
        *,
        threads: int = 4,
        names: int = 40,
        prefix: str = "load",
        seed: int = 1,
        sizes: Sequence[int] = SIZES,
        mix: dict[str, int] | None = None,
        client: Literal["library", "raw"] = "library",
        patience: float = 0.0,
        timeout: float = 60.0,
        chunk_size: int = CHUNK,
        pause: float = 0.0,
    ) -> None:
        """`pause`: seconds between two operations of a thread, to leave a slow machine some air. Servers
        of the library's client must keep their ports (`Cluster.keep_ports`)."""
        self._cluster = cluster
        self._threads = threads
        self._seed = seed
        self._sizes = sizes
        self._mix = mix or MIX
        self._library = client == "library"
        self._patience = patience
        self._timeout = timeout
        self._chunk_size = chunk_size
        self._pause = pause
        self._prefix = prefix
        self._owned = [
            [Name(f"{prefix}/{thread}/{number}") for number in range(-(-names // threads))] for thread in range(threads)
        ]
        self._retired: list[Name] = []
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._pool: ThreadPoolExecutor | None = None
        self._running: list[Future[None]] = []
        self._shared: Client | None = None
        self._begun = time.monotonic()
        self.errors: list[str] = []
        self.done: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()
        self.unsure: Counter[str] = Counter()
        self.setbacks: Counter[str] = Counter()
        """Attempts (of raw clients) that failed, most of them repeated with success."""
        self.slowest: dict[str, float] = {}
        """Seconds of the slowest operation, by "kind outcome", and of the slowest failed attempt, since `mark`."""
        self._per_second: Counter[int] = Counter()

    # --- life ---

    def __enter__(self) -> Load:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.stop()

    def fill(self) -> None:
        """Put every name once; an outcome other than done fails the test."""
        with ThreadPoolExecutor(self._threads) as pool:
            for ended in [pool.submit(self._fill, thread) for thread in range(self._threads)]:
                ended.result()
        self.assert_clean()

    def start(self) -> None:
        """Begin the mix, in the background."""
        self._begun = time.monotonic()
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="load")
        self._running = [self._pool.submit(self._work, thread) for thread in range(self._threads)]

    def stop(self) -> None:
        """Let every thread end its operation, and wait for that. What failed in a thread is raised here."""
        self._stopping.set()
        with self._changed:
            self._changed.notify_all()
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True)
            for ended in self._running:
                ended.result()
        shared, self._shared = self._shared, None
        if shared is not None:
            shared.close()

    # --- while it runs ---

    def wait_for(self, more: int, kind: str | None = None, seconds: float = STALLED_SECONDS) -> None:
        """Wait until `more` operations (of that kind) have been done from now on."""

        def count() -> int:
            return self.done[kind] if kind else self.done.total()

        with self._changed:
            goal = count() + more
            came = self._changed.wait_for(lambda: count() >= goal or bool(self.errors), seconds)
        self.assert_no_errors()
        assert came, f"{count() - goal + more} of {more} operations in {seconds:g} s: {self.summary()}"

    def mark(self) -> None:
        """Begin `slowest` anew."""
        with self._changed:
            self.slowest = {}

    def seconds(self) -> int:
        """Whole seconds since the start, for `rate`."""
        return int(time.monotonic() - self._begun)

    def rate(self, first: int, last: int) -> float:
        """Operations done a second: the median of the seconds `first` to before `last` of the run."""
        each = sorted(self._per_second[second] for second in range(first, last))
        return float(each[len(each) // 2]) if each else 0.0

    # --- afterwards ---

    def assert_no_errors(self) -> None:
        """No client was ever told something that cannot be true, or failed without reason."""
        assert not self.errors, f"{len(self.errors)} errors: {self.errors[:5]}"

    def assert_clean(self) -> None:
        """Every operation was done: no client noticed anything."""
        self.assert_no_errors()
        assert not self.refusals and not self.unsure, f"refused {dict(self.refusals)}, unsure {dict(self.unsure)}"

    def verify(self) -> None:
        """Every name shows what was acknowledged last, byte for byte; deleted ones 404."""
        names = [name for owned in self._owned for name in owned] + self._retired
        self._stopping.clear()
        problems: list[str] = []

        def check(share: list[Name]) -> None:
            with self._dialogue(patience=VERIFY_SECONDS) as dialogue:
                for name in share:
                    problem = self._problem(dialogue, name)
                    if problem:
                        problems.append(problem)

        with ThreadPoolExecutor(4) as pool:
            for ended in [pool.submit(check, names[share::4]) for share in range(4)]:
                ended.result()
        self._stopping.set()
        assert not problems, f"{len(problems)} of {len(names)} names: {problems[:5]}"

    def paths(self) -> dict[str, str]:
        """Every path that surely shows a file, with the file's id."""
        found = {}
        for name in [name for owned in self._owned for name in owned]:
            place = name.settled()
            if place >= 0 and name.states[place].number is not None:
                found[name.path] = name.states[place].file_id
        return found

    def summary(self) -> str:
        """What happened, for the test's output."""
        slowest = {what: round(seconds, 1) for what, seconds in sorted(self.slowest.items())}
        return (
            f"done {dict(sorted(self.done.items()))}, refused {dict(self.refusals)}, unsure {dict(self.unsure)}, "
            f"attempts that failed {dict(self.setbacks)}, slowest (s) {slowest}"
        )

    # --- one thread ---

    def _fill(self, thread: int) -> None:
        with self._dialogue(thread) as dialogue:
            for name in self._owned[thread]:
                self._change(dialogue, name, "put")

    def _work(self, thread: int) -> None:
        try:
            self._mixed(thread)
        except Exception as error:  # else nobody would notice before the end
            with self._changed:
                self.errors.append(f"thread {thread} ended: {error!r}")
                self._changed.notify_all()
            raise

    def _mixed(self, thread: int) -> None:
        chooser = random.Random(f"{self._seed}/{thread}")
        kinds, weights = list(self._mix), list(self._mix.values())
        with self._dialogue(thread) as dialogue:
            while not self._stopping.is_set():
                kind = chooser.choices(kinds, weights)[0]
                if kind == "get":
                    self._get(dialogue, chooser.choice(chooser.choice(self._owned)))
                elif kind == "list":
                    self._list(dialogue, thread)
                else:
                    place = chooser.randrange(len(self._owned[thread]))
                    name = self._owned[thread][place]
                    gone = not name.states or name.states[-1].number is None
                    self._change(dialogue, name, "put" if gone else kind)
                    if name.given_up:
                        self._retired.append(name)
                        self._owned[thread][place] = Name(f"{name.path}+")
                if self._pause:
                    self._stopping.wait(self._pause)

    def _change(self, dialogue: Dialogue, name: Name, kind: str) -> None:
        place = name.settled()
        latest = name.states[place].number if place >= 0 else None
        if kind == "delete" and latest is None:
            kind = "put"
        operation = new_file_id()
        number = None if kind == "delete" else sum(1 for state in name.states if state.number is not None)
        state = State(number, operation)
        name.states.append(state)

        def act() -> None:
            if number is None:
                if not dialogue.delete(name.path, operation):
                    raise Surprise(f"DELETE {name.path}: 404, and version {latest} was there")
            else:
                dialogue.put(name.path, content_of(name.path, number, self._sizes), operation, self._chunk_size)

        result = self._attempt(kind, act)
        state.result = result
        name.given_up = result == "unsure"
        if result == "refused":
            self._stopping.wait(_AFTER_REFUSAL)

    def _get(self, dialogue: Dialogue, name: Name) -> None:
        settled = name.settled()

        def act() -> None:
            found = dialogue.get(name.path)
            self._compare(name, settled, found)

        if self._attempt("get", act) != "done":
            self._stopping.wait(_AFTER_REFUSAL)

    def _list(self, dialogue: Dialogue, thread: int) -> None:
        """The names of this thread: nobody else changes them, so the listing is known exactly."""
        prefix = f"{self._prefix}/{thread}/"
        sure = {name.path: name for name in self._owned[thread] if not name.given_up}

        def act() -> None:
            shown = dict(dialogue.list(prefix))
            for path, name in sure.items():
                place = name.settled()
                state = name.states[place] if place >= 0 else None
                expected = state.file_id if state is not None and state.number is not None else None
                if shown.get(path) != expected:
                    raise Surprise(f"listed {path} as {shown.get(path)}, and it shows {expected}")

        if self._attempt("list", act) != "done":
            self._stopping.wait(_AFTER_REFUSAL)

    def _attempt(self, kind: str, act: Callable[[], None]) -> Result:
        began = time.monotonic()
        result: Result = "done"
        why = ""
        try:
            act()
        except Refused as refusal:
            result, why = "refused", refusal.what
        except Unsure as unsure:
            result, why = "unsure", unsure.what
        except Surprise as surprise:
            result, why = "unsure", "error"
            with self._changed:
                self.errors.append(str(surprise))
        seconds = time.monotonic() - began
        with self._changed:
            key = f"{kind} {result}"
            self.slowest[key] = max(self.slowest.get(key, 0.0), seconds)
            if result == "done":
                self.done[kind] += 1
                self._per_second[int(time.monotonic() - self._begun)] += 1
            elif result == "refused":
                self.refusals[f"{kind} {why}"] += 1
            elif why != "error":
                self.unsure[f"{kind} {why}"] += 1
            self._changed.notify_all()
        return result

    def _set_back(self, what: str, seconds: float) -> None:
        with self._changed:
            self.setbacks[what] += 1
            key = f"attempt {what}"
            self.slowest[key] = max(self.slowest.get(key, 0.0), seconds)

    # --- comparing ---

    def _compare(self, name: Name, settled: int, found: bytes | None) -> None:
        """Raise Surprise unless `found` (None: 404) may show to who began to read at `settled`."""
        possible = name.possible(settled)
        if found is None:
            if None not in possible:
                raise Surprise(f"GET {name.path}: 404, and it shows one of versions {sorted(map(str, possible))}")
        elif not any(n is not None and found == content_of(name.path, n, self._sizes) for n in possible):
            other = self._other(name, found)
            raise Surprise(f"GET {name.path}: {len(found)} bytes of {other}, not of one of {sorted(map(str, possible))}")

    def _other(self, name: Name, found: bytes) -> str:
        for state in name.states:
            if state.number is not None and content_of(name.path, state.number, self._sizes) == found:
                return f"version {state.number} ({state.result})"
        return "no version"

    def _problem(self, dialogue: Dialogue, name: Name) -> str | None:
        try:
            self._compare(name, name.settled(), dialogue.get(name.path))
        except (Surprise, Refused, Unsure) as error:
            return str(error)
        return None

    def _dialogue(self, thread: int = 0, patience: float | None = None) -> Dialogue:
        if not self._library:
            return RawDialogue(
                self._ports,
                first=thread,
                patience=self._patience if patience is None else patience,
                timeout=self._timeout,
                stopping=self._stopping,
                on_setback=self._set_back,
            )
        with self._changed:
            if self._shared is None:
                urls = ",".join(f"http://127.0.0.1:{port}" for port in self._ports())
                self._shared = Client(urls, timeout=self._timeout)
            return ClientDialogue(self._shared)

    def _ports(self) -> list[int]:
        return [api.port for api in self._cluster.apis]

