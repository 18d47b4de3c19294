"""One run of the bench: where it works, how hard, and what every scenario measures with."""

from __future__ import annotations

import contextlib
import fnmatch
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench import load, machine
from tests.bench.load import Load, LoadFailed, Outcome, Phase
from tests.bench.report import KIB, MIB, Report, Sample, figure_name
from tests.bench.stores.dfs import Dfs, known_settings
from tests.bench.stores.server import Line, Missing, NotStarted, Server

CHECKED = 12
"""Objects compared byte for byte after each PUT phase."""


@dataclass
class Bench:
    """What a scenario gets. `seconds` and `most_bytes` bound a phase; `only` is a pattern of figures."""

    directory: Path
    load: Load
    report: Report
    quick: bool
    runs: int
    seconds: float
    most_bytes: int
    only: str = "*"
    given: Mapping[str, str] = field(default_factory=dict)
    _serial: int = 0

    def wants(self, figure: str) -> bool:
        """Whether a figure is asked for."""
        return fnmatch.fnmatch(figure.lower(), f"*{self.only.lower()}*")

    def place(self, name: str) -> Path:
        """A directory that was not used before."""
        self._serial += 1
        return self.directory / f"{name}-{self._serial}"

    @contextlib.contextmanager
    def running(self, server: Server) -> Iterator[bool]:
        """`server`, started and warm; False, and a sentence in the report, when it cannot run here."""
        try:
            try:
                server.start()
            except (Missing, NotStarted) as error:
                if server.name == "dfs":
                    raise
                self.leave_out(f"{server.name}: {error}")
                yield False
            else:
                self.introduce(server)
                self._warm(server)
                yield True
        finally:
            server.stop()

    def _warm(self, server: Server) -> None:
        """Some unmeasured requests: connections between its parts, first volumes, lazily made threads."""
        prefix, line = f"warm{self._serial}", server.lines[0]
        self._serial += 1
        server.prepare(prefix)
        put = Phase("PUT", server.port, line.put_target(prefix), KIB, 8, 0.3)
        numbers = self.load.run(put).numbers
        self.load.run(Phase("GET", server.port, line.get_target(prefix), KIB, 8, 0.2, numbers=numbers))

    def introduce(self, server: Server) -> None:
        """Keep what the store promises and how it is configured."""
        for line in server.lines:
            about = {"title": line.title, "promise": line.promise, "reads": line.reads, "settings": server.settings}
            self.report.stores.setdefault(line.key, about)

    @contextlib.contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """Go on with the next measurement when this one fails, which the report says and the exit code."""
        try:
            yield
        except (LoadFailed, NotStarted, OSError) as error:
            self.report.failed.append(f"{what}: {error}")
            machine.say(f"FAILED: {what}: {error}")

    def leave_out(self, sentence: str) -> None:
        """Say what is not measured, and why."""
        if sentence not in self.report.left_out:
            self.report.left_out.append(sentence)
            machine.say(f"left out: {sentence}")

    def dfs(self, name: str, *, cached: bool = True, key: str = "dfs", title: str = "dfs",
            nodes: int = 3, supervise: bool = True) -> Dfs:  # fmt: skip
        """A cluster of its own; `cached` off: its API server keeps no chunks in memory, if it ever does."""
        given = dict(self.given)
        if not cached and caches():
            given["DFS_CACHE_BYTES"] = "0"
        return Dfs(self.place(name), nodes=nodes, given=given, key=key, title=title, supervise=supervise)

    def phase(self, server: Server, phase: Phase) -> tuple[Outcome, Sample]:
        """Do a phase, measuring the store's processor time too."""
        before = server.usage()
        outcome = self.load.run(phase)
        after = server.usage()
        cpu = {role: used - before.get(role, (0.0, 0))[0] for role, (used, _) in after.items()}
        return outcome, Sample.of(outcome, phase.size, {role: max(0.0, used) for role, used in cpu.items()})

    def put(self, server: Server, line: Line, prefix: str, size: int, clients: int, first: int = 0) -> tuple[list[int], Sample]:
        """Store objects, check some of them byte for byte; the numbers stored."""
        most = max(clients, self.most_bytes // size)
        phase = Phase("PUT", server.port, line.put_target(prefix), size, clients, self.seconds, first=first, most=most)
        outcome, sample = self.phase(server, phase)
        numbers = outcome.numbers
        for number in numbers[:: max(1, len(numbers) // min(CHECKED, max(1, 128 * MIB // size)))]:
            load.fetch(server.port, line.get_target(prefix), number, size)
        # What one store left unwritten must not slow the next one's syncs.
        os.sync()
        return numbers, sample

    def get(self, server: Server, line: Line, prefix: str, size: int, clients: int, numbers: list[int]) -> Sample:
        """Fetch objects again and again, in an order without pattern."""
        target = line.get_target(prefix)
        return self.phase(server, Phase("GET", server.port, target, size, clients, self.seconds, numbers=numbers))[1]

    def read_once(self, server: Server, line: Line, prefix: str, size: int, numbers: list[int]) -> None:
        """Fetch each object once, unmeasured."""
        targets = [line.get_target(prefix).replace("{n}", str(number)) for number in numbers]
        self.load.run(Phase("GET", server.port, "", size, 8, 0.0, targets=targets))

    def both(self, server: Server, line: Line, prefix: str, size: int, clients: int, suffix: str = "") -> list[int]:
        """PUT, then GET of what was put, into the report; the numbers."""
        numbers, sample = self.put(server, line, prefix, size, clients)
        self.keep(figure_name("PUT", size, clients) + suffix, line.key, sample)
        self.keep(figure_name("GET", size, clients) + suffix, line.key, self.get(server, line, prefix, size, clients, numbers))
        return numbers

    def keep(self, figure: str, line: str, sample: Sample) -> None:
        """Into the report, and a line of progress."""
        self.report.add(figure, line, sample)
        machine.say(f"{figure:45} {line:16} {sample.rate:10,.1f}/s {sample.mb:8,.1f} MB/s  "
                    f"p50 {sample.median_ms:.2f} ms  cpu {sample.cpu:,.0f} µs + load {sample.load_us:,.0f} µs")  # fmt: skip


def caches() -> bool:
    """Whether this release keeps chunks in memory."""
    return "DFS_CACHE_BYTES" in known_settings()
