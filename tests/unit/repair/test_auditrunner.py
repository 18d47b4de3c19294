"""Who runs an audit: one at a time, seen by all, taken over from the dead, ended on demand."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dfs import errors
from dfs.metadata.contract import OutcomeUnknown
from dfs.metadata.lease import LeaseHolder
from dfs.metadata.sqlite import SqliteStore
from dfs.model import Document
from dfs.repair import auditrunner as module
from dfs.repair.audit import Order
from dfs.repair.auditresult import (
    SERVER_STOPPED,
    AuditResult,
    Kind,
    State,
    Verdict,
    load,
    load_last,
)
from dfs.repair.auditrunner import AuditRunner
from dfs.repair.extras import confirmed_extras
from dfs.repair.findings import Extra
from tests.unit.cluster.fakes import Clock


class Work:
    """An audit that ends when it is told to, or stopped."""

    def __init__(self, order: Order, stopping: threading.Event) -> None:
        self.order = order
        self.stopping = stopping
        self.go = threading.Event()
        self.error: Exception | None = None
        self.progress = 0
        self.told = threading.Event()

    def result(self) -> AuditResult:
        self.progress += 1
        if self.progress == 4:
            self.told.set()
        return AuditResult(self.order.id, State.RUNNING, 1, self.progress, self.order.by, self.order.verify)

    def extras(self) -> list[Extra]:
        return [Extra("f", 1, "a")]

    def run(self) -> AuditResult:
        while not self.go.wait(0.002):
            if self.stopping.is_set():
                raise InterruptedError("stopping")
        if self.error is not None:
            raise self.error
        ended = self.result().ended(State.DONE, 99, reason="every chunk has its replicas")
        return replace(ended, verdict=Verdict.WHOLE, counts={Kind.EXTRA: 1})


class Servers:
    """Any number of runners over one store; `works` are the audits that were begun."""

    def __init__(self, path: Path) -> None:
        self.store = SqliteStore(str(path / "meta.db"))
        self.store.create()
        self.clock = Clock()
        self.works: list[Work] = []
        self.runners: list[AuditRunner] = []

    def add(self, store: Any = None) -> AuditRunner:
        def make(order: Order, stopping: threading.Event) -> Work:
            self.works.append(Work(order, stopping))
            return self.works[-1]

        name = f"api-{len(self.runners)}"
        lease = LeaseHolder(self.store, module.LEASE, name, module.LEASE_SECONDS, clock=self.clock)
        calls: Any = None
        runner = AuditRunner(
            store or self.store, calls, lease, factor=2, settle=1.0, by=name, make=make, now_ms=lambda: 100, tick=0.005
        )
        self.runners.append(runner)
        return runner

    def ended(self) -> AuditResult:
        """The latest audit, once its runner has let go."""
        for runner in self.runners:
            run = runner._running
            if run is not None:
                run.join(30)
                assert not run.alive()
        latest = load(self.store)
        assert latest is not None
        return latest


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    made = Servers(tmp_path)
    yield made
    for runner in made.runners:
        runner.stop(30)
    made.store.close()


def test_an_audit_is_seen_while_it_runs_and_kept_when_it_ends(servers: Servers) -> None:
    audit_id, begun = servers.add().begin(verify=True, mbps=7)
    assert begun and servers.works[0].order == Order(audit_id, "api-0", 2, 1.0, True, 7)
    running = load(servers.store)
    assert running is not None and (running.id, running.state) == (audit_id, State.RUNNING)
    assert load_last(servers.store) is None
    servers.works[0].go.set()
    latest = servers.ended()
    assert (latest.state, latest.verdict, latest.at) == (State.DONE, Verdict.WHOLE, 100)
    last = load_last(servers.store)
    assert last is not None and last.id == audit_id and last.verdict is Verdict.WHOLE
    assert confirmed_extras(servers.store) == [Extra("f", 1, "a")]


def test_the_last_verdict_outlives_what_comes_after_it(servers: Servers) -> None:
    runner = servers.add()
    first, _ = runner.begin(verify=False)
    servers.works[0].go.set()
    servers.ended()
    second, begun = runner.begin(verify=False)
    assert begun and second != first
    runner.cancel()
    latest, last = servers.ended(), load_last(servers.store)
    assert (latest.id, latest.state, latest.reason) == (second, State.FAILED, "cancelled")
    assert last is not None and last.id == first


def test_a_second_request_joins_what_runs_here_or_elsewhere(servers: Servers) -> None:
    here, elsewhere = servers.add(), servers.add()
    audit_id, _ = here.begin(verify=True)
    assert here.begin(verify=False) == (audit_id, False)
    assert elsewhere.begin(verify=True) == (audit_id, False)
    assert len(servers.works) == 1


def test_one_that_is_to_read_everything_does_not_join_one_that_does_not(servers: Servers) -> None:
    here, elsewhere = servers.add(), servers.add()
    here.begin(verify=False)
    for runner in (here, elsewhere):
        with pytest.raises(errors.Refused) as caught:
            runner.begin(verify=True)
        assert caught.value.details["reasons"]


def test_an_audit_is_cancelled_from_any_server(servers: Servers) -> None:
    here, elsewhere = servers.add(), servers.add()
    audit_id, _ = here.begin(verify=False)
    assert elsewhere.cancel() == audit_id
    assert (servers.ended().reason, servers.works[0].stopping.is_set()) == ("cancelled", True)
    for runner in (here, elsewhere):
        with pytest.raises(errors.NotFound):
            runner.cancel()


def test_an_audit_whose_server_died_is_begun_anew_when_its_lease_has_run_out(servers: Servers) -> None:
    dead = LeaseHolder(servers.store, module.LEASE, "dead", module.LEASE_SECONDS, clock=servers.clock)
    assert dead.try_acquire() is not None
    silent = AuditResult("dead-1", State.RUNNING, 1, 1, "dead", False)
    servers.store.write_document("audit", silent.to_json(), None)
    runner = servers.add()
    assert runner.begin(verify=False) == ("dead-1", False), "it may be alive"
    servers.clock.now += module.LEASE_SECONDS
    audit_id, begun = runner.begin(verify=False)
    assert begun and audit_id != "dead-1"
    servers.works[0].go.set()
    assert servers.ended().id == audit_id


def test_whoever_was_taken_for_dead_stops_and_writes_nothing_more(servers: Servers) -> None:
    slow, quick = servers.add(), servers.add()
    slow.begin(verify=False)
    assert quick.begin(verify=False)[1] is False
    # The slow one's process stands still: its document and lease are not renewed.
    document = servers.store.read_document("audit")
    assert document is not None
    taken = AuditResult("other", State.RUNNING, 1, 1, "quick", False).to_json()
    while servers.store.write_document("audit", taken, document) is None:
        document = servers.store.read_document("audit")
    latest = servers.ended()
    assert (latest.id, latest.state) == ("other", State.RUNNING)
    assert servers.works[0].stopping.is_set() and load_last(servers.store) is None


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (errors.Unavailable("metadata is away"), "metadata is away"),
        (ZeroDivisionError("a bug"), "an internal error (see the server's log)"),
    ],
)
def test_an_audit_that_fails_says_why(servers: Servers, error: Exception, reason: str) -> None:
    runner = servers.add()
    runner.begin(verify=False)
    servers.works[0].error = error
    servers.works[0].go.set()
    assert (servers.ended().state, servers.ended().reason) == (State.FAILED, reason)
    assert runner.begin(verify=False)[1] is True, "the lease was given up"


def test_a_server_that_stops_ends_its_audit_and_says_so(servers: Servers) -> None:
    runner = servers.add()
    runner.begin(verify=False)
    runner.stop(30)
    assert servers.ended().reason == SERVER_STOPPED
    with pytest.raises(errors.Unavailable):
        runner.begin(verify=False)
    assert servers.add().begin(verify=False)[1] is True, "another need not wait"


class Flaky:
    """A store whose documents cannot be written at times; `troubles` are raised one by one, after the write
    where they are OutcomeUnknown."""

    def __init__(self, store: SqliteStore) -> None:
        self.store = store
        self.troubles: list[errors.DfsError] = []
        self.over = threading.Event()

    def read_document(self, name: str) -> Document | None:
        return self.store.read_document(name)

    def write_document(self, name: str, value: dict[str, Any], seen: Document | None) -> Document | None:
        if self.troubles:
            trouble = self.troubles.pop()
            if not self.troubles:
                self.over.set()
            if isinstance(trouble, OutcomeUnknown):
                self.store.write_document(name, value, seen)
            raise trouble
        return self.store.write_document(name, value, seen)


@pytest.mark.parametrize("error", [errors.Unavailable("away"), OutcomeUnknown("lost")])
def test_documents_that_cannot_be_written_for_a_while_cost_nothing(servers: Servers, error: errors.DfsError) -> None:
    flaky = Flaky(servers.store)
    runner = servers.add(flaky)
    audit_id, _ = runner.begin(verify=False)
    flaky.troubles = [error] * 3
    servers.works[0].go.set()
    assert (servers.ended().id, servers.ended().state) == (audit_id, State.DONE)
    assert flaky.troubles == [] and load_last(servers.store) is not None


def test_trouble_while_it_runs_is_logged_and_passes(servers: Servers, caplog: pytest.LogCaptureFixture) -> None:
    flaky = Flaky(servers.store)
    servers.add(flaky).begin(verify=False)
    flaky.troubles = [errors.Unavailable("away"), OutcomeUnknown("lost")]
    assert flaky.over.wait(30)
    servers.works[0].go.set()
    assert servers.ended().state is State.DONE
    assert "audit.not_told" in caplog.text


def test_a_document_that_another_writes_at_that_moment_wins(servers: Servers) -> None:
    flaky = Flaky(servers.store)
    flaky.read_document = lambda name: None  # type: ignore[method-assign]
    servers.store.write_document("audit", {}, None)
    with pytest.raises(errors.Busy):
        servers.add(flaky).begin(verify=False)


def test_a_result_that_can_never_be_written_is_logged(servers: Servers, caplog: pytest.LogCaptureFixture) -> None:
    flaky = Flaky(servers.store)
    servers.add(flaky).begin(verify=False)
    flaky.troubles = [errors.Unavailable("away")] * 1000
    servers.works[0].go.set()
    assert servers.ended().state is State.RUNNING
    assert "audit.result_lost" in caplog.text


def test_a_begin_that_cannot_be_written_gives_the_lease_back(servers: Servers) -> None:
    flaky = Flaky(servers.store)
    runner = servers.add(flaky)
    flaky.troubles = [errors.Unavailable("away")]
    with pytest.raises(errors.Unavailable):
        runner.begin(verify=False)
    assert servers.add().begin(verify=False)[1] is True


def test_between_two_audits_of_others_the_request_is_to_be_repeated(servers: Servers) -> None:
    other = LeaseHolder(servers.store, module.LEASE, "other", 10.0, clock=servers.clock)
    assert other.try_acquire() is not None
    with pytest.raises(errors.Busy):
        servers.add().begin(verify=False)


class Deaf:
    """A lease that is lost, or cannot be given up."""

    def try_acquire(self) -> Any:
        return object()

    def renew(self) -> bool:
        return False

    def release(self) -> None:
        raise errors.Unavailable("away")


def test_a_lease_that_is_lost_stops_nothing_by_itself(servers: Servers, caplog: pytest.LogCaptureFixture) -> None:
    work: list[Work] = []
    calls: Any = None

    def make(order: Order, stopping: threading.Event) -> Work:
        work.append(Work(order, stopping))
        return work[-1]

    runner = AuditRunner(
        servers.store, calls, Deaf(), factor=2, settle=1.0, by="x", make=make, now_ms=lambda: 1, tick=0.005
    )
    servers.runners.append(runner)
    runner.begin(verify=False)
    assert work[0].told.wait(30)
    work[0].go.set()
    assert servers.ended().state is State.DONE
    assert "audit.lease_lost" in caplog.text and "audit.lease_kept" in caplog.text


def test_an_audit_whose_end_is_being_written_down_is_not_joined(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_ENDING_SECONDS", 0.01)
    writing, go = threading.Event(), threading.Event()
    runner = servers.add()
    real = servers.store.write_document

    def write(name: str, value: dict[str, Any], seen: Document | None) -> Document | None:
        if name == module.LAST_DOCUMENT:
            writing.set()
            assert go.wait(30)
        return real(name, value, seen)

    monkeypatch.setattr(servers.store, "write_document", write)
    first, _ = runner.begin(verify=False)
    servers.works[0].go.set()
    assert writing.wait(30)
    with pytest.raises(errors.Busy, match="written down"):
        runner.begin(verify=True)
    monkeypatch.setattr(module, "_ENDING_SECONDS", 30.0)
    go.set()
    second, begun = runner.begin(verify=True)
    assert begun and second != first
