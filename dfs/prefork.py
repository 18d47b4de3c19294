"""Several worker processes that do the same work, kept by one that does none.

    def work(number: int, lifetime: process.Lifetime) -> None:     # in the worker
        …
        lifetime.ready(port=…)
        lifetime.wait()
        …

    Crew(lifetime, Forks(lifetime, work), count, …).run()

The keeper has no thread and opens nothing but what the workers are to share, so a fork of it is as
good as a fresh process, and costs no imports. A worker that dies is replaced; it stops when it gets
SIGTERM, and when its keeper is gone, of which it learns by the end of a pipe.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from typing import Any, NoReturn, Protocol

from dfs import logs, process
from dfs.errors import SettingsError, StartError
from dfs.process import STOP_SIGNALS, Interrupted, Lifetime

STEADY_SECONDS = 2.0
"""A worker that served for so long before it died was all right."""
FIRST_DELAY = 0.1
LONGEST_DELAY = 5.0
MOST_DEATHS = 10
"""Deaths in a row, no worker having been steady, after which the keeper gives up."""
GRACE_SECONDS = 4.0
"""What workers get beyond the limit of their drain, to close what they opened."""


def delay_after(deaths: int) -> float:
    """Seconds until a worker is replaced, after so many `deaths` in a row."""
    return float(min(LONGEST_DELAY, FIRST_DELAY * 2 ** min(deaths - 1, 30)))


class Worker(Protocol):
    """A worker process, as its keeper sees it."""

    pid: int

    def fileno(self) -> int:
        """Can be read when there is something to `hear`."""

    def hear(self) -> tuple[list[dict[str, Any]], bool]:
        """What it reported since (`ready` or `failed`), and whether it is gone. Does not wait."""

    def signal(self, number: int) -> None:
        """Send it a signal."""

    def reap(self) -> int:
        """Wait for its end; its exit code, or the negative number of the signal that killed it."""


class _Post:
    """A place that is to be filled with a worker, and who fills it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.worker: Worker | None = None
        self.due = 0.0
        self.ready_at: float | None = None
        self.said: dict[str, Any] = {}


class Crew:
    """`count` workers and their keeper.

    `hire` starts worker number n (OSError when the system cannot); `on_ready` is called once all
    serve, with what the first told; `on_gone` when a worker is gone; `on_stop` before all are told to
    stop, which they may take `patience` seconds for.
    """

    def __init__(
        self,
        lifetime: Lifetime,
        hire: Callable[[int], Worker],
        count: int,
        *,
        patience: float,
        on_ready: Callable[[dict[str, Any]], None],
        on_gone: Callable[[int], None],
        on_stop: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lifetime = lifetime
        self._hire = hire
        self._posts = [_Post(number) for number in range(count)]
        self._patience = patience
        self._on_ready = on_ready
        self._on_gone = on_gone
        self._on_stop = on_stop
        self._clock = clock
        self._deaths = 0

    def run(self) -> None:
        """Keep the workers until the lifetime ends; none is left when this returns or raises.

        Raises what the first worker raised that could not start: SettingsError or StartError; and
        Interrupted when a stop was asked for before all served.
        """
        self._lifetime.hold_signals()
        try:
            self._on_ready(self._start())
            self._keep()
        finally:
            self._stop()

    # -- start --

    def _start(self) -> dict[str, Any]:
        for post in self._posts:
            try:
                post.worker = self._hire(post.number)
            except OSError as error:
                raise StartError(f"worker {post.number} cannot be started: {error.strerror}") from None
        while any(post.ready_at is None for post in self._posts):
            if self._lifetime.wait(None, self._fds()):
                raise Interrupted(self._lifetime.reason)
            for post, code in self._hear():
                kind = SettingsError if post.said.get("code") == 2 else StartError
                raise kind(post.said.get("failed") or f"worker {post.number} {_end(code)} while it started")
        return self._posts[0].said

    # -- serving --

    def _keep(self) -> None:
        while not self._lifetime.stopping:
            dues = [post.due for post in self._posts if post.worker is None]
            left = max(0.0, min(dues) - self._clock()) if dues else None
            if self._lifetime.wait(left, self._fds()):
                return
            for post, code in self._hear():
                self._lost(post, code)
            for post in self._posts:
                if post.worker is None and self._clock() >= post.due:
                    self._replace(post)

    def _lost(self, post: _Post, code: int) -> None:
        """A worker is gone that should not be."""
        self._deaths = 1 if self._is_steady(post) else self._deaths + 1
        post.due = self._clock() + delay_after(self._deaths)
        post.ready_at = None
        logs.error("worker.lost", worker=post.number, how=_end(code), said=post.said.get("failed", ""),
                   in_a_row=self._deaths)  # fmt: skip
        if self._deaths >= MOST_DEATHS and not any(self._is_steady(other) for other in self._posts):
            self._lifetime.stop(f"workers died {self._deaths} times in a row (see the log)", exit_code=1)

    def _is_steady(self, post: _Post) -> bool:
        return post.ready_at is not None and self._clock() - post.ready_at >= STEADY_SECONDS

    def _replace(self, post: _Post) -> None:
        post.said = {}
        try:
            post.worker = self._hire(post.number)
        except OSError as error:
            post.due = self._clock() + LONGEST_DELAY
            logs.error("worker.not_started", worker=post.number, error=error)

    # -- stop --

    def _stop(self) -> None:
        self._on_stop()
        for post in self._posts:
            if post.worker is not None:
                post.worker.signal(signal.SIGTERM)
        end = self._clock() + self._patience
        while (fds := self._fds()) and (left := end - self._clock()) > 0:
            poll = select.poll()
            for fd in fds:
                poll.register(fd, select.POLLIN)
            poll.poll(left * 1000)
            for post, code in self._hear():
                if code:
                    self._lifetime.stop(post.said.get("failed") or f"worker {post.number} {_end(code)}", exit_code=1)
        for post in self._posts:
            if post.worker is not None:
                post.worker.signal(signal.SIGKILL)
                post.worker.reap()
                self._lifetime.stop(f"worker {post.number} did not stop within {self._patience:g} s", exit_code=1)

    # -- what workers say --

    def _fds(self) -> list[int]:
        return [post.worker.fileno() for post in self._posts if post.worker is not None]

    def _hear(self) -> list[tuple[_Post, int]]:
        """Take note of what was said; the posts that lost their worker, with its exit code."""
        lost = []
        for post in self._posts:
            if post.worker is None:
                continue
            reports, gone = post.worker.hear()
            for report in reports:
                post.said = report
                if "failed" not in report:
                    post.ready_at = self._clock()
                    logs.event("worker.ready", worker=post.number, pid=post.worker.pid)
            if gone:
                lost.append((post, post.worker.reap()))
                post.worker = None
                self._on_gone(post.number)
        return lost


def _end(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


class Forked:
    """A worker that is a fork of this process."""

    def __init__(self, pid: int, report: int) -> None:
        self.pid = pid
        self.reaped = False
        self._report = report
        self._heard = b""
        os.set_blocking(report, False)

    def fileno(self) -> int:
        """See Worker."""
        return self._report

    def hear(self) -> tuple[list[dict[str, Any]], bool]:
        """See Worker."""
        gone = False
        try:
            while True:
                piece = os.read(self._report, 65536)
                if not piece:
                    gone = True
                    break
                self._heard += piece
        except BlockingIOError:
            pass
        *lines, self._heard = self._heard.split(b"\n")
        return [json.loads(line) for line in lines], gone

    def signal(self, number: int) -> None:
        """See Worker. It was not reaped yet, so its number is not another's."""
        os.kill(self.pid, number)

    def reap(self) -> int:
        """See Worker."""
        self.reaped = True
        os.close(self._report)
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status)


class Forks:
    """A `hire` of Crew: forks this process, which must have no thread, to run `work(number, lifetime)`.

    The worker's lifetime ends with SIGTERM, SIGINT, and when the keeper, whose own is `keeper`, is gone.
    """

    def __init__(self, keeper: Lifetime, work: Callable[[int, Lifetime], None]) -> None:
        process.settle()  # a collection writes to the objects it looks at: their pages would no longer be shared
        self._keeper = keeper
        self._work = work
        self._alive, self._alive_end = os.pipe()  # reaches its end when the keeper has gone, however
        self._forked: list[Forked] = []
        # Whoever started the keeper may have had it ignore the ends of its children: none could be reaped.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)

    def __call__(self, number: int) -> Forked:
        """Start worker `number`; raises OSError."""
        self._forked = [worker for worker in self._forked if not worker.reaped]
        report, report_end = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        # A signal meant for the worker waits until there is a lifetime to take it.
        signals = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            pid = os.fork()
            if pid == 0:
                self._be(number, report, report_end, signals)
        except BaseException:
            os.close(report)
            raise
        finally:
            os.close(report_end)
            signal.pthread_sigmask(signal.SIG_SETMASK, signals)
        worker = Forked(pid, report)
        self._forked.append(worker)
        return worker

    def _be(self, number: int, report: int, report_end: int, signals: Iterable[int]) -> NoReturn:
        """The worker's whole life. It must never get back into what the keeper was doing."""
        code = 1
        try:
            self._keeper.forked()
            for fd in (self._alive_end, report, *(other.fileno() for other in self._forked)):
                os.close(fd)
            lifetime = Lifetime(ready_fd=os.dup(report_end), parent_fd=self._alive)

            def work() -> None:
                signal.pthread_sigmask(signal.SIG_SETMASK, signals)
                self._work(number, lifetime)

            code, sentence = process.outcome(lifetime, work)
            if code:
                try:
                    os.write(report_end, json.dumps({"failed": sentence, "code": code}).encode() + b"\n")
                except BrokenPipeError:  # no keeper is left to say it
                    logs.error("worker.failed", worker=number, said=sentence)
        except BaseException:
            traceback.print_exc()
        finally:
            try:
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(code)
