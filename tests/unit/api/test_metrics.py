"""The figures for Prometheus: every answer through a strict parser of the text format."""

from __future__ import annotations

import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dfs.api import metrics
from dfs.api.exposition import Families, Family, number, render
from dfs.api.service import Service
from dfs.cluster.view import MemberState, View
from dfs.errors import Unavailable
from dfs.model import AdminState, Document
from dfs.repair import auditresult, progress
from dfs.repair.auditresult import AuditResult, Kind, Verdict
from dfs.repair.health import Facts
from dfs.repair.progress import RepairStatus, Tour, TourKind
from dfs.wire.message import Request
from tests.unit.cluster.fakes import info

NOW = 1_700_000_000_000

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]

_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_SAMPLE = re.compile(rf"({_NAME})(?:\{{(.*)\}})? (\S+)")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\\\|\\"|\\n)*)"(,|$)')


def parse(text: str) -> Samples:
    """The samples of an exposition, asserting the rules of the format: one HELP and one TYPE a metric, before
    its samples, which stand together; no sample twice; labels escaped; a last line feed."""
    assert text.endswith("\n") and not text.endswith("\n\n")
    samples: Samples = {}
    helped: set[str] = set()
    kinds: dict[str, str] = {}
    current = ""
    for line in text[:-1].split("\n"):
        assert line, "an empty line"
        if line.startswith("# HELP "):
            _, _, name, meaning = line.split(" ", 3)
            assert name not in helped and re.fullmatch(_NAME, name) and meaning
            assert re.fullmatch(r"(?:[^\\]|\\\\|\\n)*", meaning)
            helped.add(name)
            current = name
            continue
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name == current and name not in kinds and kind in ("gauge", "counter")
            kinds[name] = kind
            continue
        match = _SAMPLE.fullmatch(line)
        assert match, line
        name, labels, value = match.groups()
        assert name == current and name in kinds, f"{name} stands apart"
        assert (kinds[name] == "counter") == name.endswith("_total")
        key = name, labels_of(labels or "")
        assert key not in samples, key
        samples[key] = float(value)
    assert {name for name, _ in samples} == set(kinds)
    return samples


def labels_of(text: str) -> tuple[tuple[str, str], ...]:
    found, at = [], 0
    while at < len(text):
        match = _LABEL.match(text, at)
        assert match, text
        found.append((match[1], re.sub(r"\\(.)", lambda escaped: {"n": "\n"}.get(escaped[1], escaped[1]), match[2])))
        at = match.end()
    assert len({name for name, _ in found}) == len(found) and text[-1:] != ","
    return tuple(found)


class Store:
    """Documents only. `fails`: metadata is away."""

    def __init__(self, **documents: dict[str, Any]) -> None:
        self.documents = documents
        self.fails = False

    def read_document(self, name: str) -> Document | None:
        if self.fails:
            raise Unavailable("away")
        value = self.documents.get(name.replace("-", "_"))
        return None if value is None else Document(name, 1, value)


def service(store: Store, *members: MemberState) -> Service:
    settings = SimpleNamespace(replication_factor=2, repair_delay=600.0, repair_mbps=50)
    membership = SimpleNamespace(view=lambda: View(1, members), read_age=lambda: 1.0)
    made = SimpleNamespace(
        settings=settings,
        membership=membership,
        store=store,
        now=lambda: NOW,
        buffers=SimpleNamespace(waiting=3, free_bytes=100),
        notes=SimpleNamespace(dropped=7),
    )
    return cast(Service, made)


def request(**stats: int) -> Request:
    return cast(Request, SimpleNamespace(server=SimpleNamespace(stats=lambda: stats)))


def answered(made: Service, asked: Request | None = None) -> Samples:
    found = metrics.metrics(made, asked or request())
    assert found.status == 200 and isinstance(found.body, bytes)
    return parse(found.body.decode())


def audit() -> AuditResult:
    return AuditResult(
        id="a", state=auditresult.State.DONE, began_at=NOW - 9000, at=NOW - 4000, ended_at=NOW - 4000, by="api",
        verify=True, verdict=Verdict.DEGRADED, counts={Kind.MISSING: 3}, files=2, chunks=5, bytes=10,
    )  # fmt: skip


def test_a_cluster_with_all_there_is() -> None:
    tour = Tour(TourKind.DRAIN, "n1", NOW, chunks_done=4, chunks_total=9, bytes_total=900, bytes_done=100)
    repair = RepairStatus(
        at=NOW - 2000, short=3, absent={"n2": 12.5}, tours=(tour,), copied_chunks=8, copied_bytes=4096, whole_at=NOW - 5000
    )
    trash = {"files": 3, "bytes": 500, "relief_at": 7000}
    store = Store(repair=repair.to_json(), audit=audit().to_json(), audit_last=audit().to_json(), trash=trash)
    members = [
        MemberState(info("n1", zone='a"b\\c\nd', admin_state=AdminState.DRAINING), alive=True, suspect=False),
        MemberState(info("n2"), alive=False, suspect=True),
        MemberState(info("n3", chunks=42, bad_chunks=2, scrubbed_at=5000), alive=True, suspect=False),
    ]
    found = answered(service(store, *members), request(requests=10, accepted=4, connections=2, busy=1))
    assert found["dfs_metadata_up", ()] == 1
    assert [found["dfs_nodes", (("state", state),)] for state in ("active", "absent", "draining", "full")] == [1, 1, 1, 0]
    assert found["dfs_nodes_writable", ()] == 1
    odd = (("node", "n1"), ("zone", 'a"b\\c\nd'))
    assert found["dfs_node_alive", odd] == 1
    n2, n3 = (("node", "n2"), ("zone", "")), (("node", "n3"), ("zone", ""))
    assert found["dfs_node_alive", n2] == 0 and found["dfs_node_absent_seconds", n2] == 12.5
    assert (found["dfs_node_chunks", n3], found["dfs_node_bad_chunks", n3]) == (42, 2)
    assert found["dfs_node_scrubbed_timestamp_seconds", n3] == 5.0
    assert found["dfs_repair_report_age_seconds", ()] == 2.0 and found["dfs_repair_short_chunks", ()] == 3
    assert found["dfs_repair_tours", (("kind", "drain"),)] == 1 and found["dfs_repair_tours", (("kind", "lost"),)] == 0
    assert found["dfs_repair_tour_done_chunks", (("kind", "drain"), ("node", "n1"))] == 4
    assert found["dfs_repair_copied_bytes_total", ()] == 4096 and found["dfs_repair_unrecoverable_chunks", ()] == 0
    assert found["dfs_audit_verdict", (("verdict", "degraded"),)] == 1
    assert found["dfs_audit_verdict", (("verdict", "whole"),)] == 0
    assert found["dfs_audit_findings", (("kind", "missing"),)] == 3 and found["dfs_audit_age_seconds", ()] == 4.0
    assert found["dfs_audit_running", ()] == 0
    assert found["dfs_health", (("state", "degraded"),)] == 1
    assert found["dfs_trash_files", ()] == 3 and found["dfs_trash_bytes", ()] == 500
    assert found["dfs_trash_relief_timestamp_seconds", ()] == 7.0
    worker = (("worker", str(os.getpid())),)
    assert found["dfs_http_requests_total", worker] == 10 and found["dfs_http_accepted_total", worker] == 4
    assert found["dfs_http_now", (*worker, ("kind", "busy"))] == 1
    assert found["dfs_buffer_waiting", worker] == 3 and found["dfs_notes_dropped_total", worker] == 7
    if Path("/proc/self/status").exists():
        assert found["dfs_process_resident_bytes", worker] > 1 << 20 and found["dfs_process_open_files", worker] > 0


def test_a_cluster_that_has_just_begun() -> None:
    found = answered(service(Store()))
    assert found["dfs_audit_running", ()] == 0 and found["dfs_proved_timestamp_seconds", ()] == 0
    assert not any(name.startswith("dfs_repair") for name, _ in found)


def test_without_metadata_the_process_still_tells_of_itself() -> None:
    store = Store()
    store.fails = True
    found = answered(service(store))
    assert found["dfs_metadata_up", ()] == 0
    assert not any(name.startswith("dfs_node") for name, _ in found)
    assert ("dfs_buffer_waiting", (("worker", str(os.getpid())),)) in found


def test_a_system_without_proc(tmp_path: Path) -> None:
    assert metrics._of_proc(str(tmp_path / "none")) == (0, 0, 0)


def test_documents_keep_their_names() -> None:
    assert (progress.DOCUMENT, auditresult.DOCUMENT, auditresult.LAST_DOCUMENT) == ("repair", "audit", "audit-last")


def test_a_report_that_is_old_counts_nobody_as_absent() -> None:
    families = Families()
    old = RepairStatus(at=NOW - 100_000, absent={"n1": 5.0})
    members = [MemberState(info("n1"), True, False)]
    metrics.of_nodes(families, Facts(NOW, 2, 600.0, 1e6, members, old, None))
    assert parse(families.text())["dfs_node_absent_seconds", (("node", "n1"), ("zone", ""))] == 0


@pytest.mark.parametrize(
    ("value", "text"),
    [(1, "1"), (True, "1"), (10**15, "1000000000000000"), (0.5, "0.5"), (float("inf"), "+Inf"), (float("-inf"), "-Inf")],
)
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text


def test_what_is_no_number() -> None:
    assert number(float("nan")) == "NaN"


def test_help_is_escaped() -> None:
    family = Family("a_b", "gauge", "first\nsecond \\ third")
    family.add(1.5, {"x": "y"})
    text = render([family])
    assert text == '# HELP a_b first\\nsecond \\\\ third\n# TYPE a_b gauge\na_b{x="y"} 1.5\n'
    parse(text)
