"""What an audit found, for people: pure."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dfs.client.failures import printable
from dfs.notation import format_size, format_span
from dfs.repair.auditresult import AuditResult, Finding, Kind, Verdict, sentence

_HEADLINES = {Verdict.WHOLE: "WHOLE", Verdict.DEGRADED: "DEGRADED", Verdict.DATA_MISSING: "DATA MISSING"}
_SHOWN = 5
_MOST_RECORDS = 100

_CHUNK_KINDS = (Kind.UNDER, Kind.OVER, Kind.SAME_ZONE, Kind.UNSEEN, Kind.NO_ROW, Kind.NO_COPY)
_ORDER = (
    Kind.NO_COPY, Kind.UNSEEN, Kind.NO_ROW, Kind.CORRUPT, Kind.WRONG, Kind.MISSING, Kind.STRAY_ROW, Kind.UNDER,
    Kind.SAME_ZONE, Kind.EXTRA, Kind.OVER,
)  # fmt: skip


def progress_text(result: AuditResult) -> str:
    """One line about a running audit."""
    if not result.total:
        return f"{result.phase}: {result.done:,}"
    share = min(1.0, result.done / result.total)
    return f"{result.phase}: {share:.0%}, {result.done:,} of {result.total:,}"


def findings_text(result: AuditResult) -> str:
    """The result of an audit that has ended."""
    return "\n".join(_lines(result))


def _lines(result: AuditResult) -> Iterator[str]:
    headline = _HEADLINES[result.verdict] if result.verdict is not None else result.state.value.upper()
    yield f"{headline}: {printable(result.reason)}"
    yield ""
    how = "every copy was re-read" if result.verify else "compared with what the nodes list; --verify re-reads it all"
    took = format_span((result.ended_at - result.began_at) / 1000)
    yield f"audit     {_time(result.began_at)}, took {took}: {how}"
    yield (
        f"checked   {result.files:,} files, {result.chunks:,} chunks, {result.replicas:,} replicas, "
        f"{format_size(result.bytes)}"
    )
    yield f"verified  {_ages(result)}"
    if result.unreachable:
        yield f"nodes     without an answer: {', '.join(map(printable, result.unreachable))}"
    if result.marked_short:
        yield f"repair    {result.marked_short:,} {'chunk is' if result.marked_short == 1 else 'chunks are'} marked for it"
    for kind in _ORDER:
        if result.count(kind):
            yield from _kind_lines(result, kind)
    if result.lost_files:
        yield ""
        yield "Files with chunks that have no copy left:"
        for lost in result.lost_files:
            trashed = ", in the trash" if lost.state == "trashed" else ""
            chunks = "1 chunk" if lost.chunks == 1 else f"{lost.chunks:,} chunks"
            yield f"  {printable(f'{lost.bucket}/{lost.path}')}  ({lost.file_id}, {chunks}{trashed})"
        if result.lost_files_more:
            yield "  and more"
    if result.count(Kind.EXTRA):
        yield ""
        yield "Records without a row are kept. `audit --set-aside` lists them and moves them aside."


def _kind_lines(result: AuditResult, kind: Kind) -> Iterator[str]:
    yield ""
    yield f"{sentence(kind, result.count(kind))}:"
    examples = result.examples.get(kind, ())
    for example in examples[:_SHOWN]:
        yield f"  {_place(example, with_node=kind not in _CHUNK_KINDS)}"
    left = result.count(kind) - min(len(examples), _SHOWN)
    if left:
        yield f"  and {left:,} more (--json lists some of them)"


def _place(example: Finding, *, with_node: bool) -> str:
    name = printable(f"{example.bucket}/{example.path}") if example.path else "no file"
    node = f" on {printable(example.node_id)}" if with_node and example.node_id else ""
    detail = f": {printable(example.detail)}" if example.detail else ""
    return f"{name} chunk {example.chunk_index}{node} ({example.file_id}){detail}"


def _ages(result: AuditResult) -> str:
    if result.verify:
        return f"{result.verified_now:,} stored records just now"
    parts = []
    if result.oldest_verified:
        parts.append(f"the oldest {format_span((result.ended_at - result.oldest_verified) / 1000)} ago")
    if result.never_verified:
        parts.append(f"{result.never_verified:,} replicas never")
    return ", ".join(parts) or "nothing to verify"


def plan_text(plan: Mapping[str, Any]) -> str:
    """How much an audit would read."""
    lines = [f"would compare the rows of metadata with {plan['chunks']:,} stored records on {len(plan['nodes'])} nodes"]
    if plan["verify"]:
        lines.append(
            f"and have the nodes re-read {format_size(plan['bytes'])} at {plan['mbps']} MB/s each, "
            f"about {format_span(plan['seconds'])}"
        )
    silent = [str(node["node_id"]) for node in plan["nodes"] if not node["healthy"]]
    if silent:
        lines.append(f"without an answer now: {', '.join(map(printable, silent))}")
    return "\n".join(lines)


def extras_text(extras: Sequence[Mapping[str, Any]]) -> str:
    """Records that could be moved aside."""
    if not extras:
        return "\nThere are no records to move aside."
    lines = ["", "Records that no row leads to (with --yes they are moved into set-aside/ of their nodes):"]
    lines += [f"  {_record(extra)}" for extra in extras[:_MOST_RECORDS]]
    if len(extras) > _MOST_RECORDS:
        lines.append(f"  and {len(extras) - _MOST_RECORDS:,} more")
    return "\n".join(lines)


def moved_text(moved: Sequence[Mapping[str, Any]]) -> str:
    """What became of them."""
    left = [each for each in moved if each["left"]]
    lines = ["", f"{len(moved) - len(left):,} of {len(moved):,} records without a row were moved aside."]
    lines += [f"  {_record(each)} stays: {printable(str(each['left']))}" for each in left[:_MOST_RECORDS]]
    return "\n".join(lines)


def _record(extra: Mapping[str, Any]) -> str:
    return printable(f"chunk {extra['chunk_index']} of {extra['file_id']} on {extra['node_id']}")


def _time(ms: int) -> str:
    return datetime.datetime.fromtimestamp(ms / 1000).astimezone().strftime("%Y-%m-%d %H:%M:%S")
