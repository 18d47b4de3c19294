"""dfs.node.scrub: how fast a pass goes, what is remembered of it, and what interrupts it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dfs.errors import Unavailable
from dfs.node.scrub import MEGABYTE, Pass, Scrubber, rate, rest, too_slow
from dfs.node.standing import Standing
from dfs.store.identity import create_identity, load_identity
from dfs.store.reread import Phase, Position, Step
from dfs.store.store import ChunkStore, StoreOptions
from tests.unit.node.fakes import FILE_ID, USAGE

DAY = 86400.0
RUN = Pass(began_at=1_000_000, position=Position(upto=9), total_bytes=100 * MEGABYTE)


def test_a_pass_is_spread_over_half_the_period() -> None:
    assert rate(RUN, 1_000_000, 2000.0, 20) == pytest.approx(0.1 * MEGABYTE)
    half = Pass(1_000_000, Position(9), 100 * MEGABYTE, done_bytes=50 * MEGABYTE)
    assert rate(half, 1_500_000, 2000.0, 20) == pytest.approx(0.1 * MEGABYTE), "on schedule: as before"
    assert rate(half, 1_900_000, 2000.0, 20) == pytest.approx(0.5 * MEGABYTE), "late: faster"


def test_a_pass_is_never_faster_than_allowed_unless_ordered() -> None:
    assert rate(RUN, 1_000_000, 2.0, 20) == 20 * MEGABYTE
    assert rate(RUN, 99_000_000, 2000.0, 20) == 20 * MEGABYTE, "overdue"
    ordered = Pass(1_000_000, Position(9), 1, mbps=300)
    assert rate(ordered, 1_000_000, 14 * DAY, 20) == 300 * MEGABYTE


def test_a_pass_that_reads_more_than_was_there_does_not_stop() -> None:
    more = Pass(1_000_000, Position(9), 10, done_bytes=20)
    assert rate(more, 1_000_000, 2.0, 20) > 0
    assert more.share == 1.0
    assert Pass(1, Position(9), 0).share == 0.0


def test_a_pass_rests_between_steps_but_never_beyond_its_time() -> None:
    assert rest(RUN, MEGABYTE, 1_000_000, 2000.0, 20) == pytest.approx(10)
    assert rest(RUN, 500 * MEGABYTE, 1_900_000, 2000.0, 20) == pytest.approx(100), "it was an estimate"
    assert rest(RUN, MEGABYTE, 9_000_000, 2000.0, 20) == 0.0
    assert rest(Pass(1_000_000, Position(9), 1, mbps=1), MEGABYTE, 1_000_000, 2000.0, 20) == 0.0


def test_a_limit_that_is_too_low_is_said() -> None:
    assert too_slow(20 * MEGABYTE * 100, 100.0, 20) is None
    said = too_slow(30 * MEGABYTE * 100, 100.0, 20)
    assert said is not None and "takes 30 MB/s, more than DFS_SCRUB_MBPS=20" in said


@pytest.mark.parametrize("phase", list(Phase))
def test_what_is_kept_of_a_pass_is_read_again(phase: Phase) -> None:
    run = Pass(5, Position(9, phase, 3, "ab"), 7, 6, 5, 4, 3)
    assert Pass.from_json(run.to_json()) == run


class Upkeep:
    """The store's upkeep: steps as told, facts in a dict."""

    def __init__(self) -> None:
        self.facts: dict[str, str] = {}
        self.total = 10
        self.steps: list[Step | Exception] = []
        self.positions: list[Position] = []
        self.passes = 0
        self.failure: Exception | None = None
        self.dry = threading.Event()
        self.hold = threading.Event()

    def fact(self, name: str) -> str | None:
        if self.failure is not None:
            raise self.failure
        return self.facts.get(name)

    def keep_fact(self, name: str, value: str) -> None:
        self.facts[name] = value

    def begin_pass(self) -> Position:
        self.passes += 1
        return Position(upto=100 * self.passes)

    def total_bytes(self) -> int:
        return self.total

    def reread(self, position: Position, pace: Callable[[int], None]) -> Step:
        self.positions.append(position)
        if not self.steps:
            self.dry.set()
            self.hold.wait(30)
            pace(0)
            raise Unavailable("nothing more is planned")
        step = self.steps.pop(0)
        if isinstance(step, Exception):
            raise step
        pace(step.bytes)
        return step


class Bench:
    def __init__(self) -> None:
        self.upkeep = Upkeep()
        self.standing = Standing(self)
        self.wall = 1_000_000
        self.scrubber = self.make()

    def usage(self) -> Any:
        return USAGE

    def check_takes_chunks(self) -> None:
        raise AssertionError

    def make(self, busy: Callable[[], bool] = lambda: False) -> Scrubber:
        store: Any = self
        return Scrubber(store, self.standing, mbps=20, period=1.0, busy=busy, wall_ms=lambda: self.wall)

    def run(self, *steps: Step | Exception) -> None:
        """Have these steps made, and the next one asked for."""
        self.upkeep.steps += steps
        self.scrubber.start()
        assert self.upkeep.dry.wait(30)

    def end(self) -> None:
        self.upkeep.hold.set()
        self.scrubber.stop()


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.end()


def at(sequence: int, phase: Phase = Phase.CHUNKS) -> Position:
    return Position(100, phase, sequence)


def done(bad: int = 0) -> Step:
    return Step(at(0, Phase.DONE), 1, 10, bad)


def test_a_pass_goes_from_step_to_step_and_the_next_one_follows(bench: Bench) -> None:
    bench.run(Step(at(5), 5, 4, 1), Step(at(7), 2, 4, 0), done(1))
    assert bench.upkeep.positions == [at(0), at(5), at(7), Position(200)]
    assert bench.standing.scrubbed_at == 1_000_000
    report = bench.scrubber.report()
    assert (report["scrubbed_at"], report["done_bytes"], report["found"]) == (1_000_000, 0, 0)
    kept = Pass.from_json(bench.upkeep.facts["scrub"])
    assert (kept.position, kept.scrubbed_at) == (Position(200), 1_000_000)


def test_a_restart_goes_on_where_it_was(bench: Bench) -> None:
    run = Pass(777, at(5), 10, 4, 1, 0, 555)
    bench.upkeep.facts["scrub"] = run.to_json()
    bench.scrubber.recall()
    assert bench.standing.scrubbed_at == 555
    assert bench.scrubber.report()["share"] == 0.4
    bench.run()
    assert bench.upkeep.positions == [at(5)]


def test_what_could_not_be_recalled_at_the_start_is_recalled_later(bench: Bench) -> None:
    bench.upkeep.facts["scrub"] = Pass(777, at(5), 10, 4, 1, 0, 555).to_json()
    bench.upkeep.failure = Unavailable("rebuilding")
    bench.scrubber.recall()
    bench.upkeep.failure = None
    bench.run()
    assert (bench.upkeep.positions, bench.standing.scrubbed_at) == ([at(5)], 555)


@pytest.mark.parametrize("kept", ["", "{}", "[]", '{"position": 7}', '{"position": {"phase": "x"}}'])
def test_a_memory_that_makes_no_sense_begins_anew(bench: Bench, kept: str) -> None:
    bench.upkeep.facts["scrub"] = kept
    bench.scrubber.recall()
    bench.run()
    assert bench.upkeep.positions == [at(0)]


@pytest.mark.parametrize(("complete", "known"), [(555, 555), (999_999_999, 0)])
def test_a_pass_that_began_in_the_future_begins_anew(bench: Bench, complete: int, known: int) -> None:
    bench.upkeep.facts["scrub"] = Pass(999_999_999, at(5), 10, 4, 1, 0, complete).to_json()
    bench.scrubber.recall()
    bench.run()
    assert bench.upkeep.positions == [at(0)]
    assert (bench.scrubber.report()["began_at"], bench.standing.scrubbed_at) == (1_000_000, known)


def test_a_clock_set_back_a_little_changes_nothing(bench: Bench) -> None:
    bench.upkeep.facts["scrub"] = Pass(1_000_500, at(5), 10, 4, 1, 0, 555).to_json()
    bench.scrubber.recall()
    bench.run()
    assert bench.upkeep.positions == [at(5)]


def test_a_lost_index_begins_anew(bench: Bench) -> None:
    bench.upkeep.facts["scrub"] = Pass(777, at(5), 10, 4, 1, 0, 555).to_json()
    bench.scrubber.recall()
    bench.upkeep.facts.clear()
    bench.run()
    assert bench.upkeep.positions == [at(0)]
    assert bench.standing.scrubbed_at == 0


def test_an_ordered_pass_takes_the_place_of_the_one_that_runs(bench: Bench) -> None:
    bench.run(Step(at(5), 5, 4, 1))
    bench.wall += 5
    report = bench.scrubber.begin(300)
    assert (report["began_at"], report["done_bytes"], report["bytes_per_second"]) == (1_000_005, 0, 300 * MEGABYTE)
    assert Pass.from_json(bench.upkeep.facts["scrub"]).mbps == 300, "kept before it is answered"
    bench.upkeep.dry.clear()
    bench.upkeep.hold.set()
    assert bench.upkeep.dry.wait(30)
    assert bench.upkeep.positions[-1] == Position(200)
    assert bench.scrubber.begin(None)["bytes_per_second"] == 20 * MEGABYTE


def test_trouble_of_the_store_and_bugs_do_not_end_the_scrubbing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dfs.node.scrub.RETRY_SECONDS", 0.0)
    trouble = [Unavailable("the index"), Unavailable("the index"), RuntimeError("a bug")]
    bench.run(Step(at(5), 5, 4, 1), *trouble, Step(at(9), 1, 1, 0))
    assert bench.upkeep.positions == [at(0), *[at(5)] * 4, at(9)]


def test_a_disk_with_nothing_on_it_is_not_passed_over_all_the_time(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dfs.node.scrub.IDLE_SECONDS", 0.01)
    asked = threading.Event()
    looks = iter([0, 0, 0])

    def total() -> int:
        try:
            return next(looks)
        except StopIteration:
            asked.set()
            return 10

    bench.upkeep.total_bytes = total  # type: ignore[method-assign]
    bench.run(Step(at(0, Phase.DONE), 0, 0, 0))
    assert asked.is_set() and bench.upkeep.passes == 2
    assert bench.standing.scrubbed_at == 1_000_000


def test_a_pass_gives_way_to_callers_but_not_for_ever(bench: Bench) -> None:
    asked = []

    def busy() -> bool:
        asked.append(1)
        return True

    bench.scrubber = bench.make(busy)
    bench.upkeep.facts["scrub"] = Pass(1_000_000, at(5), 4).to_json()
    bench.run(Step(at(6), 1, MEGABYTE // 10, 0))
    assert asked
    bench.end()
    bench.scrubber = bench.make(busy)
    bench.upkeep.facts["scrub"] = Pass(0, at(5), 10**9).to_json()
    asked.clear()
    bench.upkeep.dry.clear()
    bench.run(Step(at(6), 1, MEGABYTE // 10, 0))
    assert not asked, "no time to lose"


def test_a_real_store_is_scrubbed(tmp_path: Path) -> None:
    identity = load_identity(tmp_path) or create_identity(tmp_path, "n1", "c1")
    store = ChunkStore.open(tmp_path, identity, StoreOptions(volume_size=1 << 20))
    for number in range(50):
        store.put(FILE_ID, number, bytes(1000), checksum=None, chunk_size=1000, file_size=None)
    standing = Standing(store)
    scrubber = Scrubber(store, standing, mbps=1000, period=1.0, busy=lambda: False)
    scrubber.recall()
    began = scrubber.begin(None)["began_at"]
    complete = threading.Event()
    keep = store.upkeep.keep_fact

    def kept(name: str, value: str) -> None:
        keep(name, value)
        if Pass.from_json(value).scrubbed_at >= began:
            complete.set()

    store.upkeep.keep_fact = kept  # type: ignore[method-assign]
    scrubber.start()
    assert complete.wait(60)
    scrubber.stop()
    assert standing.scrubbed_at >= began
    assert all(chunk.verified for chunk in store.inventory(0, 99))
    store.close()
