"""What an audit says: the verdict, and a document that always fits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dfs.metadata.contract import document_text
from dfs.metadata.sqlite import SqliteStore
from dfs.repair import auditresult
from dfs.repair.auditresult import (
    DEGRADING,
    AuditResult,
    Finding,
    Kind,
    LostFile,
    State,
    Verdict,
    judge,
    load,
    load_last,
    sentence,
)

BARE = AuditResult("id-1", State.RUNNING, 1000, 2000, "api-1", False)


@pytest.mark.parametrize("kind", DEGRADING)
def test_anything_short_degrades(kind: Kind) -> None:
    verdict, reason = judge({kind: 2, Kind.EXTRA: 5}, 100)
    assert verdict is Verdict.DEGRADED and reason == sentence(kind, 2)


@pytest.mark.parametrize("kind", [Kind.EXTRA, Kind.OVER, Kind.UNREACHABLE_NODES])
def test_what_endangers_nothing_is_only_remarked_on(kind: Kind) -> None:
    assert judge({kind: 1}, 100) == (Verdict.WHOLE, f"every chunk has its replicas; {sentence(kind, 1)}")


def test_the_worst_comes_first() -> None:
    verdict, reason = judge({Kind.UNDER: 3, Kind.NO_COPY: 1, Kind.UNREACHABLE_NODES: 2, Kind.MISSING: 1}, 100)
    assert verdict is Verdict.DATA_MISSING
    assert reason == (
        "1 chunk has no copy left; 1 replica is missing from a node that should hold it; "
        "3 chunks have fewer good copies than the replication factor; 2 nodes did not answer"
    )
    assert judge({}, 0) == (Verdict.WHOLE, "every chunk has its replicas")


def test_every_kind_has_its_words_and_its_weight() -> None:
    remarks = {Kind.EXTRA, Kind.OVER, Kind.UNREACHABLE_NODES}
    assert {*DEGRADING, *remarks, Kind.NO_COPY} == set(Kind)
    assert all(sentence(kind, 1) != sentence(kind, 2) for kind in Kind)


def full() -> AuditResult:
    return AuditResult(
        "id-1", State.DONE, 1000, 2000, "api-1", True, ended_at=2000, files=3, chunks=4, replicas=8, bytes=9,
        counts={Kind.CORRUPT: 1, Kind.NO_COPY: 2},
        examples={Kind.CORRUPT: (Finding("f", 1, "n", "b", "p/q", "why"),)},
        lost_files=(LostFile("f", "b", "p", "committed", 2),),
        unreachable=("n1",), oldest_verified=5, never_verified=6, verified_now=7, notes_sent=8, marked_short=9,
        verdict=Verdict.DATA_MISSING, reason="2 chunks have no copy left",
    )  # fmt: skip


def test_a_result_comes_back_from_its_document() -> None:
    read = AuditResult.from_json(json.loads(json.dumps(full().to_json())))
    assert read.to_json() == full().to_json()
    assert (read.count(Kind.CORRUPT), read.count(Kind.OVER), read.verdict) == (1, 0, Verdict.DATA_MISSING)
    assert read.examples[Kind.CORRUPT][0] == Finding("f", 1, "n", "b", "p/q", "why")


def test_what_another_release_adds_is_left_out() -> None:
    value = full().to_json()
    value["counts"]["haunted"] = 3
    value["examples"] |= {"haunted": [{"file_id": "f"}], "corrupt": [{"file_id": "f", "chunk_index": 1, "mood": "sad"}]}
    value["new"] = 1
    read = AuditResult.from_json(value)
    assert read.examples == {Kind.CORRUPT: (Finding("f", 1),)}


def test_the_longest_names_fit_a_document() -> None:
    path = "\U0001f9ff" * 256
    many = tuple(Finding("f" * 36, 1 << 40, "n" * 64, "b" * 63, path, "w" * 500) for _ in range(50))
    lost = tuple(LostFile("f" * 36, "b" * 63, path, "committed") for _ in range(200))
    result = AuditResult(
        "i" * 36, State.DONE, 1, 2, "by", True, examples=dict.fromkeys(Kind, many), lost_files=lost,
        unreachable=tuple("n" * 64 for _ in range(3000)), reason="r" * 2000,
    )  # fmt: skip
    value = result.to_json()
    assert len(document_text(value)) < 256 * 1024
    assert 10 < len(value["lost_files"]) < 100 and value["lost_files_more"] is True
    assert all(value["examples"][kind.value] for kind in Kind)


def test_a_silent_audit_does_not_run() -> None:
    assert BARE.runs(2000) and BARE.runs(2000 + auditresult.SILENCE_MS - 1)
    assert not BARE.runs(2000 + auditresult.SILENCE_MS)
    assert not BARE.ended(State.FAILED, 2000, reason="cancelled").runs(2000)


def test_documents_are_found_by_all(tmp_path: Path) -> None:
    store = SqliteStore(str(tmp_path / "meta.db"))
    store.create()
    assert load(store) is None and load_last(store) is None
    store.write_document("audit", BARE.to_json(), None)
    store.write_document("audit-last", full().to_json(), None)
    running = load(store)
    assert running is not None and running.to_json() == BARE.to_json()
    last = load_last(store)
    assert last is not None and last.verdict is Verdict.DATA_MISSING
    store.close()


def test_many_records_without_a_row_are_no_remark() -> None:
    assert judge({Kind.EXTRA: 10}, 0)[0] is Verdict.WHOLE, "a few are left by whoever was broken off"
    assert judge({Kind.EXTRA: 100}, 9_900)[0] is Verdict.WHOLE
    verdict, reason = judge({Kind.EXTRA: 5_000}, 0)
    assert verdict is Verdict.DEGRADED and "metadata may have lost rows" in reason
    assert judge({Kind.EXTRA: 102}, 9_900)[0] is Verdict.DEGRADED
