"""The threads of repair: workers, the one that holds the lease, and the gate before the nodes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dfs import errors
from dfs.cluster.upkeep import Fence, UpkeepCalls
from dfs.metadata.lease import LeaseHolder
from dfs.metadata.sqlite import SqliteStore
from dfs.model import Lease
from dfs.repair.crew import Crew, Job
from dfs.repair.gate import PULLS_PER_NODE, Gate
from dfs.repair.hold import Hold
from dfs.repair.later import MOST, SLOWEST, Later
from dfs.wire.deadline import Deadline
from tests.unit.cluster.fakes import FILE, Clock, info


@pytest.fixture
def crew() -> Iterator[Crew]:
    made = Crew(2)
    made.start()
    yield made
    made.stop(5.0)


def test_jobs_are_done_side_by_side_and_told_in_the_givers_thread(crew: Crew) -> None:
    both, told = threading.Barrier(2), []

    def call() -> str:
        both.wait(30)
        return threading.current_thread().name

    def then(name: Any) -> None:
        told.append((name, threading.current_thread()))

    for key in "ab":
        crew.put(Job(key, call, then))
        assert crew.busy(key)
    while len(told) < 2:
        crew.take(30.0)
    assert {name for name, _ in told} == {"dfs-repair-0", "dfs-repair-1"}
    assert {thread for _, thread in told} == {threading.current_thread()}
    assert crew.idle and crew.room() and not crew.busy("a")


@pytest.mark.parametrize("error", [errors.Busy("later"), ZeroDivisionError("a bug")])
def test_a_job_that_fails_ends_no_thread(crew: Crew, error: Exception) -> None:
    told: list[Any] = []

    def call() -> None:
        raise error

    for _ in range(3):
        crew.put(Job("a", call, told.append))
        assert crew.take(30.0)
    assert told == [error] * 3


def test_there_is_room_for_little_more_than_is_being_done(crew: Crew) -> None:
    go = threading.Event()
    for key in "abc":
        assert crew.room()
        crew.put(Job(key, lambda: go.wait(30), lambda _: None))
    assert not crew.room()
    assert not crew.take(0.0)
    crew.nudge()
    assert not crew.take(30.0), "a nudge ends the waiting"
    go.set()


def test_what_was_not_begun_is_not_begun_after_the_end() -> None:
    crew, began = Crew(1), []
    crew.put(Job("a", lambda: began.append(1), lambda _: None))
    crew.stop(1.0)
    crew.start()
    crew.stop(5.0)
    assert not began


class Held:
    """A lease whose every call is recorded; `held` is whether it is granted."""

    def __init__(self) -> None:
        self.held = False
        self.grants = True
        self.calls: list[str] = []
        self.failing: Exception | None = None
        self.acted = threading.Condition()

    @property
    def fence(self) -> int | None:
        return 7 if self.held else None

    def _act(self, call: str, held: bool) -> None:
        with self.acted:
            self.calls.append(call)
            self.acted.notify_all()
            if self.failing is not None:
                raise self.failing
            self.held = held

    def try_acquire(self) -> Lease | None:
        self._act("acquire", self.grants)
        return None

    def renew(self) -> bool:
        self._act("renew", self.held)
        return self.held

    def release(self) -> None:
        self._act("release", False)

    def wait(self, holds: Callable[[], bool]) -> None:
        with self.acted:
            assert self.acted.wait_for(holds, 30)


def test_the_lease_is_held_renewed_and_given_up() -> None:
    lease, changed = Held(), threading.Event()
    hold = Hold(lease, every=0.01, rest=60.0, changed=changed.set)
    hold.start()
    lease.wait(lambda: lease.calls[:3] == ["acquire", "renew", "renew"])
    assert changed.wait(30) and hold.fence == 7
    hold.stop(30)
    assert hold.fence is None and lease.calls[-1] == "release" and not lease.held


def test_who_resigns_does_not_ask_again_at_once() -> None:
    lease = Held()
    hold = Hold(lease, every=0.01, rest=60.0)
    hold.start()
    lease.wait(lambda: "renew" in lease.calls)
    hold.resign()
    assert hold.fence is None
    lease.wait(lambda: "release" in lease.calls)
    hold.stop(30)
    assert lease.calls.count("acquire") == 1


@pytest.mark.parametrize("error", [errors.Unavailable("away"), ZeroDivisionError("a bug")])
def test_trouble_with_the_lease_ends_nothing(error: Exception) -> None:
    lease = Held()
    lease.failing = error
    hold = Hold(lease, every=0.01, rest=0.01)
    hold.start()
    lease.wait(lambda: lease.calls.count("acquire") >= 3)
    assert hold.fence is None
    if isinstance(error, errors.DfsError):
        hold.stop(30)
        assert lease.calls[-1] == "release"
    lease.failing = None
    hold.stop(30)


def test_a_lease_that_is_given_up_is_had_by_another_at_once(tmp_path: Path) -> None:
    store = SqliteStore(str(tmp_path / "meta.db"))
    store.create()
    first, second = (LeaseHolder(store, "repair", name, 60.0) for name in "ab")
    holds, had = [Hold(lease, every=0.01, rest=1.0) for lease in (first, second)], threading.Event()
    holds[0]._changed = had.set
    holds[0].start()
    assert had.wait(30)
    taken = threading.Event()
    holds[1]._changed = taken.set
    holds[1].start()
    holds[0].stop(30)
    assert taken.wait(30) and holds[1].fence == 2
    holds[1].stop(30)
    store.close()


class Network:
    """Answers pulls when told, and counts how many are under way at each node."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.entered = threading.Semaphore(0)
        self.now: dict[str, int] = {}
        self.most: dict[str, int] = {}
        self.lock = threading.Lock()

    def ask(self, node: Any, method: str, target: str, *, json_body: dict[str, Any], **_: Any) -> dict[str, Any]:
        names = [f"to {node.node_id}", f"from {json_body['node_id']}"]
        with self.lock:
            for name in names:
                self.now[name] = self.now.get(name, 0) + 1
                self.most[name] = max(self.most.get(name, 0), self.now[name])
        self.entered.release()
        assert self.go.wait(30)
        with self.lock:
            for name in names:
                self.now[name] -= 1
        return {"node_id": node.node_id, "checksum": json_body["checksum"], "length": json_body["length"]}


def pull(calls: UpkeepCalls, target: str, source: str, index: int, seconds: float = 30.0) -> None:
    calls.pull(
        info(target), info(source), FILE, index, checksum="0" * 64, length=1, chunk_size=1, file_size=None,
        fence=Fence("repair", 1, 1), deadline=Deadline(seconds),
    )  # fmt: skip


def test_a_node_gives_and_takes_few_chunks_at_once() -> None:
    network: Any = Network()
    gate = Gate()
    calls = UpkeepCalls(network, gate.turn)
    pairs = [("a", "b"), ("a", "c"), ("a", "d"), ("e", "b"), ("f", "b"), ("g", "h")] * 3
    threads = [
        threading.Thread(target=pull, args=(calls, target, source, index))
        for index, (target, source) in enumerate(pairs)
    ]
    for thread in threads:
        thread.start()
    for _ in range(4):
        assert network.entered.acquire(timeout=30)
    with pytest.raises(errors.Busy):
        while True:  # as soon as both places of g are taken
            pull(calls, "g", "h", 99, 0.0) if network.now.get("to g", 0) == PULLS_PER_NODE else None
    network.go.set()
    for thread in threads:
        thread.join(30)
    assert set(network.most.values()) <= {1, PULLS_PER_NODE} and not any(network.now.values())
    assert gate._taken == {}


def test_later_waits_twice_as_long_each_time_up_to_a_limit() -> None:
    clock = Clock(0.0)
    later = Later(5.0, clock)
    waits = []
    for _ in range(9):
        later.put("a")
        began = clock.now
        while not later.due("a"):
            clock.now += 5
        waits.append(clock.now - began)
    assert waits == [5, 10, 20, 40, 80, 160, 320, 600, 600]
    later.put("b", slowly=True)
    clock.now += SLOWEST - 1
    assert not later.due("b") and later.due("never tried")
    later.clear()
    assert later.due("b") and "b" not in later


def test_later_is_bounded_and_what_does_not_fit_is_due() -> None:
    later = Later(5.0, Clock(0.0))
    for number in range(MOST + 2):
        later.put(number)
    assert later.due(0) and later.due(1) and not later.due(2)
