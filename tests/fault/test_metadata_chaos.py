"""T10: metadata under lost replies, late writes, throttling, conflicts, odd pages and stale indexes.

Clients repeat under the same id until they are told something definite; then what they were told
must agree with what is stored. `METADATA_SWEEP` is the number of commits for each backend.
"""

from __future__ import annotations

import os
import random
import sqlite3
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest

from dfs.errors import ConditionFailed, DfsError, Gone, NotFound, Unavailable
from dfs.metadata import operations
from dfs.metadata.contract import GcKind, MetadataStore
from dfs.metadata.dynamo import open_dynamo
from dfs.metadata.operations import ALWAYS, Precondition
from dfs.metadata.sqlite import SqliteStore
from dfs.metadata.sqlite_file import SqliteFile
from dfs.metadata.trashlist import trash_page
from dfs.model import FileState, Head
from dfs.repair.purge import discard
from dfs.settings import CommonSettings, load
from tests.support.fakes.chaos_dynamo import CALM, ChaosClient, Rates, Weather
from tests.support.fakes.chaos_sqlite import random_faults
from tests.support.metadata_audit import History, all_heads, audit
from tests.support.metadata_records import NOW, a_record, a_replica, replicas_of
from tests.support.moto_server import MotoServer

COMMITS = int(os.environ.get("METADATA_SWEEP") or (100_000 if os.environ.get("LONG") else 1_000))
THREADS = 8
T = TypeVar("T")

Stores = tuple[MetadataStore, Callable[[], dict[str, int]]]
"""The store under chaos, and what ends the chaos and says how often what was injected."""


@contextmanager
def chaotic_dynamo(monkeypatch: pytest.MonkeyPatch, rng: random.Random, rates: Rates) -> Iterator[Stores]:
    with MotoServer() as moto:
        for name, value in moto.environment().items():
            monkeypatch.setenv(name, value)
        settings = load(CommonSettings)
        weather = Weather(rng, CALM)
        store = open_dynamo(
            settings, wrap=lambda client: ChaosClient(client, weather), pause=lambda seconds: None
        )
        store.create(protect=False)
        weather.rates = rates

        def clear() -> dict[str, int]:
            weather.rates = replace(CALM, empty_page=0.2, short_page=0.5)
            weather.arrive(all_of_them=True)
            print("injected:", weather.counts)
            return weather.counts

        yield store, clear
        store.close()


@contextmanager
def chaotic_sqlite(tmp_path: Path, rng: random.Random) -> Iterator[Stores]:
    path = str(tmp_path / "metadata.sqlite")
    SqliteStore(path).create()
    rates = {
        ("commit", "lost"): 0.03,
        ("commit", "refused"): 0.03,
        ("write", "full"): 0.002,
        ("write", "io"): 0.002,
        ("read", "io"): 0.005,
        ("begin", "busy"): 0.05,
    }
    faults = random_faults(rng, rates)
    store = SqliteStore(path, file=SqliteFile(path, connect=faults.connect))

    def clear() -> dict[str, int]:
        rates.clear()
        print("injected:", faults.counts)
        return faults.counts

    yield store, clear
    store.close()


@pytest.fixture(params=["sqlite", "dynamodb"])
def stores(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: random.Random
) -> Iterator[Stores]:
    if request.param == "sqlite":
        with chaotic_sqlite(tmp_path, rng) as pair:
            yield pair
    else:
        with chaotic_dynamo(monkeypatch, rng, Rates()) as pair:
            yield pair


def told(attempt: Callable[[], T]) -> T:
    """Repeat until the answer is definite, as a client does under one operation id."""
    for _ in range(500):
        try:
            return attempt()
        except Unavailable:
            continue
    raise AssertionError("no definite answer")


class Client:
    """A client that does random things to a few paths and notes what it is told."""

    def __init__(self, store: MetadataStore, history: History, rng: random.Random, paths: list[str]) -> None:
        self.store = store
        self.history = history
        self.rng = rng
        self.paths = paths
        self.now = NOW
        self.again: list[Callable[[], None]] = []

    def run(self, commits: int) -> None:
        for _ in range(commits):
            self.now += self.rng.randrange(3)
            self.commit()
            chance = self.rng.random()
            if chance < 0.15:
                self.delete()
            elif chance < 0.3:
                self.move()
            elif chance < 0.45:
                self.restore()
            elif chance < 0.5:
                self.purge()
            elif chance < 0.65:
                # The client was told, but its connection broke: it asks once more.
                self.rng.choice(self.again)()

    def commit(self) -> None:
        path = self.rng.choice(self.paths)
        condition, many = self.condition(path), self.rng.random() < 0.25
        record = a_record(path)
        self.history.attempted.append(record)

        def attempt() -> operations.Committed:
            if not many:
                return operations.commit_file(
                    self.store, record, condition, self.now, replicas=replicas_of(record)
                )
            begun = operations.begin_upload(self.store, record)
            if not begun.version:
                self.store.add_replicas(record.file_id, replicas_of(record))
                operations.touch_upload(self.store, begun, self.now)
            return operations.commit_file(self.store, record, condition, self.now)

        def repeat() -> None:
            if record.file_id in accepted:
                assert told(attempt).repeated
            else:
                with pytest.raises((ConditionFailed, Gone)):
                    told(attempt)

        accepted: set[str] = set()
        try:
            self.history.committed.append(told(attempt))
            accepted.add(record.file_id)
        except (ConditionFailed, Gone) as error:
            if many:
                assert told(lambda: operations.discard_upload(self.store, record, self.now))
            self.history.refused.append((record.file_id, error))
        self.again.append(repeat)

    def condition(self, path: str) -> Precondition:
        kind = self.rng.randrange(3)
        if kind == 0:
            return ALWAYS
        head = told(lambda: self.store.get_head("default", path))
        return Precondition(if_none_match=("*",)) if head is None else Precondition(if_match=(head.file_id,))

    def delete(self) -> None:
        path, op_id = self.rng.choice(self.paths), uuid.uuid4().hex
        purge, now = self.rng.random() < 0.3, self.now

        def attempt() -> Head:
            return operations.delete_path(self.store, "default", path, ALWAYS, now, purge=purge, op_id=op_id)

        head = self.tell(attempt)
        if head is not None:
            self.history.deleted.append((op_id, head))

    def move(self) -> None:
        source, target = self.rng.choice(self.paths), self.rng.choice(self.paths)
        op_id, overwrite, now = uuid.uuid4().hex, self.rng.random() < 0.5, self.now

        def attempt() -> operations.Committed:
            done = operations.move_path(
                self.store, "default", source, target, ALWAYS, now, overwrite=overwrite, op_id=op_id
            )
            return replace(done, repeated=False)

        done = self.tell(attempt, repeatable=source != target)
        if done is not None:
            self.history.moved.append((op_id, done))

    def restore(self) -> None:
        """A file that somebody deleted, or the latest of a path; to another path now and then."""
        path, op_id, now = self.rng.choice(self.paths), uuid.uuid4().hex, self.now
        to = self.rng.choice(self.paths) if self.rng.random() < 0.3 else None
        which = operations.LATEST
        if self.history.deleted and self.rng.random() < 0.6:
            head = self.rng.choice(self.history.deleted[-20:])[1]
            path, which = head.path, head.file_id

        def attempt() -> Head:
            return operations.restore_path(
                self.store, "default", path, which, now, to=to, op_id=op_id, pause=lambda _: None
            )

        head = self.tell(attempt)
        if head is not None:
            self.history.restored.append((op_id, head))

    def purge(self) -> None:
        """A file that somebody deleted goes for good."""
        if not self.history.deleted:
            return
        gone, op_id, now = self.rng.choice(self.history.deleted[-20:])[1], uuid.uuid4().hex, self.now

        def attempt() -> Head:
            return operations.purge_trashed(self.store, "default", gone.path, gone.file_id, now, op_id=op_id)

        head = self.tell(attempt)
        if head is not None:
            self.history.purged.append((op_id, head))

    def tell(self, attempt: Callable[[], T], *, repeatable: bool = True) -> T | None:
        """The result, None when it was refused; a repeat is answered likewise, whatever came since."""

        def outcome() -> tuple[T | None, str]:
            try:
                return told(attempt), ""
            except (NotFound, ConditionFailed) as error:
                return None, error.message

        def repeat() -> None:
            assert outcome() == first

        first = outcome()
        if repeatable:
            self.again.append(repeat)
        return first[0]


def run_threads(work: list[Callable[[], object]]) -> None:
    with ThreadPoolExecutor(len(work)) as pool:
        for future in [pool.submit(one) for one in work]:
            future.result()


def test_commits_moves_deletes_and_restores_under_chaos_have_one_winner_and_no_false_failure(
    stores: Stores, rng: random.Random
) -> None:
    store, clear = stores
    history = History()
    commits = COMMITS * 8 // 10  # The rest is done by the tests below.
    paths = [f"dir/{number}" for number in range(16)]
    clients = [Client(store, history, random.Random(rng.random()), paths) for _ in range(THREADS)]
    sweeper = Sweeper(store)
    with ThreadPoolExecutor(1) as pool:
        sweeping = pool.submit(sweeper.run)
        try:
            run_threads([partial(client.run, commits // THREADS) for client in clients])
        finally:
            sweeper.stop.set()
        sweeping.result()
    assert sweeper.swept
    injected = clear()
    assert {"lost", "refused"} <= injected.keys() or {"lost_after", "late", "conflict"} <= injected.keys()
    assert len(history.committed) + len(history.refused) == commits // THREADS * THREADS
    assert history.committed and history.refused and history.deleted and history.moved
    assert history.restored and history.purged
    audit(store, history)
    check_index(store, history)


class Sweeper:
    """Empties the trash while all this goes on, led by an index that lags and repeats itself."""

    def __init__(self, store: MetadataStore) -> None:
        self.store = store
        self.swept = 0
        self.stop = threading.Event()

    def run(self) -> None:
        after: str | None = None
        while not self.stop.is_set():
            try:
                page = self.store.gc_entries("trashed#default", after=after, limit=8)
                after = page[-1].key if page else None
                due = [entry for entry in page if entry.id[-1] in "0123"]  # of the others somebody else disposes
                self.swept += len(discard(self.store, due, NOW))
                for record in trash_page(self.store, "default", limit=8).records:
                    assert record.state is FileState.TRASHED
            except Unavailable:
                continue


def check_index(store: MetadataStore, history: History) -> None:
    """The index finds every file that has to go, and nothing else."""
    wanted: dict[FileState, set[str]] = {state: set() for state in FileState}
    for record in history.attempted:
        stored = store.get_file(record.file_id)
        if stored is not None:
            wanted[stored.state].add(stored.file_id)
    for kind in (GcKind.UPLOADING, GcKind.DELETING, GcKind.TRASHED):
        found: set[str] = set()
        for partition in store.gc_partitions(kind):
            after: str | None = None
            while page := store.gc_entries(partition, after=after, limit=100):
                found |= {entry.id for entry in page}
                after = page[-1].key
        assert found == wanted[FileState(kind.value)], kind


def race(store: MetadataStore, path: str) -> tuple[list[str], list[str]]:
    """Many create one path at once: the files of those told they won, and of those told they lost."""
    absent = Precondition(if_none_match=("*",))
    start = threading.Barrier(THREADS)
    winners: list[str] = []
    losers: list[str] = []

    def create() -> None:
        record = a_record(path)
        start.wait()
        try:
            told(lambda: operations.commit_file(store, record, absent, NOW, replicas=replicas_of(record)))
        except ConditionFailed:
            losers.append(record.file_id)
        else:
            winners.append(record.file_id)

    run_threads([create] * THREADS)
    return winners, losers


def test_of_many_creators_of_one_path_exactly_one_is_told_it_won(stores: Stores) -> None:
    store, clear = stores
    expected = {}
    for number in range(max(COMMITS // 100, 3)):
        path = f"contended/{number:06d}"
        winners, losers = race(store, path)
        assert len(winners) == 1 and len(losers) == THREADS - 1
        expected[path] = winners[0]
    clear()
    assert {head.path: head.file_id for head in all_heads(store)} == expected


def extend(store: MetadataStore, path: str) -> tuple[str, str] | None:
    """One compare-and-set: (file replaced, file put), None when it lost."""
    head = told(lambda: store.get_head("default", path))
    condition = Precondition(if_match=(head.file_id,)) if head else Precondition(if_none_match=("*",))
    record = a_record(path)
    try:
        told(lambda: operations.commit_file(store, record, condition, NOW, replicas=replicas_of(record)))
    except ConditionFailed:
        return None
    return head.file_id if head else "", record.file_id


def test_a_chain_of_compare_and_set_never_forks(stores: Stores) -> None:
    store, clear = stores
    with ThreadPoolExecutor(THREADS) as pool:
        outcomes = pool.map(lambda _: extend(store, "chain"), range(max(COMMITS // 10, 24)))
        links = [link for link in outcomes if link is not None]
    clear()
    follower = dict(links)
    assert len(follower) == len(links), "two files replaced the same one"
    current, length = "", 0
    while current in follower:
        current, length = follower[current], length + 1
    assert length == len(links)
    head = store.get_head("default", "chain")
    assert head is not None and head.file_id == current


def test_replica_rows_added_by_many_at_once_are_all_there(stores: Stores, rng: random.Random) -> None:
    store, clear = stores
    record = a_record("many", chunk_count=400, size=400 * 4096)
    told(lambda: operations.begin_upload(store, record))
    rows = [a_replica(record.file_id, index, node) for index in range(400) for node in ("n1", "n2")]
    rng.shuffle(rows)
    pieces = [rows[first : first + 7] for first in range(0, len(rows), 7)]
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda piece: told(lambda: store.add_replicas(record.file_id, piece)), pieces))
    assert told(lambda: list(store.replicas(record.file_id))) == sorted(
        rows, key=lambda row: (row.chunk_index, row.node_id)
    )
    clear()
    ids = [uuid.uuid4().hex for _ in range(60)]
    for op_id in ids:
        with pytest.raises(NotFound):
            operations.delete_path(store, "default", "absent", ALWAYS, NOW, op_id=op_id)
    store.forget_operations(ids)
    assert [store.operation(op_id) for op_id in ids] == [None] * len(ids)


def test_a_failing_disk_is_reported_and_leaves_no_trace(tmp_path: Path) -> None:
    path = str(tmp_path / "metadata.sqlite")
    SqliteStore(path).create()
    broken = random_faults(random.Random(1), {("write", "full"): 1.0})
    store = SqliteStore(path, file=SqliteFile(path, connect=broken.connect))
    record = a_record()
    with pytest.raises(DfsError, match="full"):
        operations.commit_file(store, record, ALWAYS, NOW, replicas=replicas_of(record))
    store.close()
    with sqlite3.connect(path) as plain:
        assert plain.execute("SELECT count(*) FROM files").fetchone() == (0,)
    plain.close()
