"""dfs.prefork: the keeper's decisions, with workers that do as they are told; and forks of a small program."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from dfs import prefork, process
from dfs.errors import SettingsError, StartError
from dfs.prefork import LONGEST_DELAY, MOST_DEATHS, STEADY_SECONDS, Crew, delay_after
from dfs.process import Interrupted, Lifetime

REPOSITORY = Path(process.__file__).parents[1]


class Fake:
    """A worker. It ends when told to (`obeys`), by `die`, or not at all."""

    def __init__(self, pid: int, *said: dict[str, Any], code: int | None = None, obeys: bool = True) -> None:
        self.pid = pid
        self.signals: list[int] = []
        self.reaped = False
        self._said = list(said)
        self._code = code
        self._obeys = obeys
        self._read, self._write = os.pipe()
        os.write(self._write, b".")

    def fileno(self) -> int:
        return self._read

    def hear(self) -> tuple[list[dict[str, Any]], bool]:
        said, self._said = self._said, []
        return said, self._code is not None

    def signal(self, number: int) -> None:
        self.signals.append(number)
        if self._obeys:
            self.die(self._code or 0)

    def die(self, code: int) -> None:
        self._code = code

    def reap(self) -> int:
        self.reaped = True
        os.close(self._read)
        os.close(self._write)
        return -9 if self._code is None else self._code


class Life:
    """A lifetime in which time passes only while something waits. `script` is run, a step a wait."""

    def __init__(self, script: Sequence[Callable[[], object]]) -> None:
        self.now = 0.0
        self.stops: list[tuple[str, int]] = []
        self.reason = "SIGTERM"
        self._script = list(script)

    @property
    def stopping(self) -> bool:
        return bool(self.stops)

    def hold_signals(self) -> None:
        pass

    def stop(self, reason: str, exit_code: int = 0) -> None:
        self.stops.append((reason, exit_code))

    def wait(self, seconds: float | None, fds: Sequence[int]) -> bool:
        if self._script:
            self._script.pop(0)()
        self.now += seconds or 0.0
        return self.stopping

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Stage:
    """A crew of fakes and what became of it."""

    def __init__(self, *workers: Fake | OSError) -> None:
        self.left = list(workers)
        self.hired: list[Fake] = []
        self.events: list[object] = []
        self.life = Life([])

    def hire(self, number: int) -> Fake:
        worker = self.left.pop(0)
        if isinstance(worker, OSError):
            raise worker
        self.hired.append(worker)
        return worker

    def run(self, *script: Callable[[], object], count: int = 2, patience: float = 5.0) -> Stage:
        self.life._script = list(script)
        Crew(
            cast(Lifetime, self.life),
            self.hire,
            count,
            patience=patience,
            on_ready=self.events.append,
            on_gone=self.events.append,
            on_stop=lambda: self.events.append("stop"),
            clock=lambda: self.life.now,
        ).run()
        return self


def ready(pid: int, **more: Any) -> Fake:
    return Fake(pid, {"port": pid}, **more)


def nothing() -> None:
    pass


def test_all_serve_then_all_stop() -> None:
    stage = Stage(ready(1), ready(2))
    stage.run(nothing, lambda: stage.life.stop("SIGTERM"))
    assert stage.events == [{"port": 1}, "stop", 0, 1]
    assert all(worker.reaped and worker.signals == [signal.SIGTERM] for worker in stage.hired)
    assert stage.life.stops == [("SIGTERM", 0)]


@pytest.mark.parametrize(
    ("fake", "error", "sentence"),
    [
        (Fake(2, {"failed": "no tables", "code": 1}, code=1), StartError, "no tables"),
        (Fake(2, {"failed": "X=1 is bad", "code": 2}, code=2), SettingsError, "X=1 is bad"),
        (Fake(2, code=-9), StartError, "worker 1 was killed by SIGKILL while it started"),
        (Fake(2, code=-99), StartError, "worker 1 was killed by signal 99 while it started"),
        (Fake(2, code=0), StartError, "worker 1 ended with exit code 0 while it started"),
    ],
)
def test_a_worker_that_cannot_start_stops_all(fake: Fake, error: type[Exception], sentence: str) -> None:
    stage = Stage(ready(1), fake)
    with pytest.raises(error, match=sentence):
        stage.run(nothing)
    assert stage.events == [1, "stop", 0]
    assert all(worker.reaped for worker in stage.hired)


def test_no_process_to_be_had_stops_the_start() -> None:
    stage = Stage(ready(1), OSError(11, "no more processes"))
    with pytest.raises(StartError, match="worker 1 cannot be started: no more processes"):
        stage.run()
    assert stage.hired[0].reaped


def test_a_stop_during_the_start() -> None:
    stage = Stage(Fake(1), Fake(2))
    with pytest.raises(Interrupted):
        stage.run(nothing, lambda: stage.life.stop("SIGTERM"))
    assert all(worker.reaped for worker in stage.hired)


def test_a_worker_that_dies_is_replaced() -> None:
    first, second = ready(1), ready(2)
    stage = Stage(first, second, OSError(11, "no more processes"), ready(3))
    stage.run(
        nothing,
        lambda: stage.life.sleep(STEADY_SECONDS),
        lambda: second.die(-9),
        nothing,  # the delay: then no process can be had
        nothing,  # a longer delay: then one can
        lambda: stage.life.stop("SIGTERM"),
    )
    assert [worker.pid for worker in stage.hired] == [1, 2, 3]
    assert stage.life.now == pytest.approx(STEADY_SECONDS + delay_after(1) + LONGEST_DELAY)
    assert stage.life.stops == [("SIGTERM", 0)]


def deaths(stage: Stage, life: float = 0.0) -> list[Callable[[], object]]:
    """The last hired dies after a while, again and again. Each time one wait until it
    does, one for the delay, one for the next to be ready."""

    def die() -> None:
        stage.life.sleep(life)
        stage.hired[-1].die(1)

    return [nothing, *[die, nothing, nothing] * (2 * MOST_DEATHS), lambda: stage.life.stop("SIGTERM")]


def test_workers_that_all_die_at_once_end_the_keeper() -> None:
    stage = Stage(*[ready(number) for number in range(3 * MOST_DEATHS)])
    stage.run(*deaths(stage), count=1)
    assert len(stage.hired) == MOST_DEATHS
    assert stage.life.stops == [(f"workers died {MOST_DEATHS} times in a row (see the log)", 1)]


def test_workers_that_served_for_a_while_are_replaced_for_ever() -> None:
    stage = Stage(*[ready(number) for number in range(3 * MOST_DEATHS)])
    stage.run(*deaths(stage, STEADY_SECONDS), count=1)
    assert len(stage.hired) == 2 * MOST_DEATHS + 1


def test_the_keeper_goes_on_while_one_worker_serves() -> None:
    stage = Stage(*[ready(number) for number in range(3 * MOST_DEATHS)])
    stage.run(*deaths(stage), count=2)
    assert len(stage.hired) > MOST_DEATHS + 1
    assert stage.life.stops == [("SIGTERM", 0)]


def test_delays_grow_and_stay_bounded() -> None:
    assert [delay_after(deaths) for deaths in (1, 2, 3)] == [0.1, 0.2, 0.4]
    assert delay_after(1000) == LONGEST_DELAY


def test_a_worker_that_does_not_stop_is_killed() -> None:
    stage = Stage(ready(1), ready(2, obeys=False))
    stage.run(nothing, lambda: stage.life.stop("SIGTERM"), patience=0.0)
    assert stage.hired[1].signals == [signal.SIGTERM, signal.SIGKILL]
    assert all(worker.reaped for worker in stage.hired)
    assert stage.life.stops[1] == ("worker 0 did not stop within 0 s", 1)


def test_a_worker_that_fails_at_the_end_is_a_failure() -> None:
    class Failing(Fake):
        def signal(self, number: int) -> None:
            self.die(1)

    stage = Stage(ready(1), Failing(2, {"port": 1}))
    stage.run(nothing, lambda: stage.life.stop("SIGTERM"))
    assert stage.life.stops[1] == ("worker 1 ended with exit code 1", 1)


# -- real forks, in a process of their own: this one has threads -----------------------------------

PROGRAM = """
import os, signal, sys
from dfs import logs, prefork, process
from dfs.errors import StartError
from dfs.settings import CommonSettings
keeper = os.getpid()

def serve(settings, lifetime):
    def work(number, worker):
        {work}
    def on_ready(facts):
        {on_ready}
    prefork.Crew(lifetime, prefork.Forks(lifetime, work), 2, patience=20, on_ready=on_ready,
                 on_gone=lambda number: None, on_stop=lambda: None).run()

sys.exit(process.run("test", CommonSettings, serve, sys.argv[1:], description="", forks=lambda _: True))
"""


def forked(work: str, on_ready: str = "pass") -> subprocess.CompletedProcess[str]:
    program = PROGRAM.format(work=work, on_ready=on_ready)
    return subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, timeout=60,
        preexec_fn=lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN),
    )  # fmt: skip


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in list(os.environ):
        if name.startswith("DFS_"):
            monkeypatch.delenv(name)
    yield


def test_forked_workers_serve_and_stop() -> None:
    done = forked("worker.ready(pid=os.getpid()); worker.wait(); os.write(1, b'end %d\\n' % number)",
                  "print(facts['pid'] != os.getpid(), flush=True); lifetime.stop('enough')")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == ["True", "end 0", "end 1"]


def test_a_forked_worker_tells_why_it_cannot_start() -> None:
    done = forked("raise StartError('no tables')")
    assert done.returncode == 1
    assert [line for line in done.stderr.splitlines() if "no tables" in line] == ["test: no tables"]


def test_a_forked_worker_that_fails_without_a_keeper_says_so_itself() -> None:
    done = forked("""worker.hold_signals()
        if os.getppid() == keeper:  # the other may have been faster
            os.kill(keeper, signal.SIGKILL)
        while os.getppid() == keeper:
            os.sched_yield()
        raise StartError('no tables')""")
    assert done.returncode == -signal.SIGKILL
    told = [line for line in done.stderr.splitlines() if "no tables" in line]
    assert told and all("worker.failed" in line for line in told)
    assert "Traceback" not in done.stderr


def test_a_forked_worker_with_a_bug_shows_where_and_ends() -> None:
    done = forked("raise LookupError('a bug')")
    assert done.returncode == 1
    assert "LookupError: a bug" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("test: worker ")
    assert "ended with exit code 1 while it started" in done.stderr.splitlines()[-1]


def test_no_process_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_more() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    before = signal.getsignal(signal.SIGCHLD)
    fds = len(os.listdir("/dev/fd"))
    forks = prefork.Forks(Lifetime(), lambda number, lifetime: None)
    monkeypatch.setattr(os, "fork", no_more)
    with pytest.raises(BlockingIOError):
        forks(0)
    assert len(os.listdir("/dev/fd")) == fds + 4, "only the lifetime's pipe and the keeper's"
    signal.signal(signal.SIGCHLD, before)
