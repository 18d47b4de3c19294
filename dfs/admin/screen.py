"""The answer of `GET /status` as one screen for a person. Pure.

The screen has a height: what does not fit is folded, never cut. Nodes in trouble are shown before others,
warnings that need hands before others, and what is left out is counted.
"""

from __future__ import annotations

import datetime
from typing import Any

from dfs.admin.layout import RICH, Column, Glyphs, Line, bar, joined, plain, table, wrapped
from dfs.client.failures import printable
from dfs.notation import format_size, format_span

_INDENT = 2
_LABEL = 9
_BAR = 12
_LEAST_NODES = 2
_LEAST_WARNINGS = 4
_MOST_TOURS = 4

_WELL = 2
"""Urgency from which nothing is the matter with a node."""

_TOURS = {"lost": "replace", "returned": "trim"}

_HEALTH = {
    "healthy": ("HEALTHY", "good"),
    "unproven": ("NO PROOF YET", "warn"),
    "repairing": ("REPAIRING", "warn"),
    "degraded": ("DEGRADED", "bad"),
    "data_missing": ("DATA MISSING", "bad"),
}


def render(status: dict[str, Any], *, width: int = 100, height: int = 24, glyphs: Glyphs = RICH) -> list[Line]:
    """The screen: at most `height` lines of at most `width` columns."""
    head = [*_title(status, width, glyphs), [], *_health(status, width, glyphs), []]
    work = [*_repair(status, width, glyphs), *_audit(status, width, glyphs), *_trash(status, width, glyphs)]
    warnings = [_warning(each, width) for each in status["warnings"]]
    nodes = status["nodes"]
    room = height - len(head) - len(work) - 3  # titles and totals of the nodes, a blank line
    wanted = sum(map(len, warnings)) + bool(warnings)
    shown = len(nodes)
    if shown + wanted > room:
        # Warnings come before nodes that are well, nodes in trouble before all warnings but the first.
        troubled = sum(_urgency(node)[0] < _WELL for node in nodes)
        least = min(wanted, max(_LEAST_WARNINGS, len(warnings[0])) + 2) if warnings else 0
        for_nodes = max(room - wanted, min(troubled + 1, room - least))
        shown = min(len(nodes), max(_LEAST_NODES, for_nodes))
    lines = [*head, *_nodes(status, shown, width, glyphs), [], *work]
    if warnings:
        lines += [[], *_fitting(warnings, height - len(lines) - 1)]
    return lines[:height]


def text(status: dict[str, Any], *, width: int = 100, height: int = 24, glyphs: Glyphs = RICH) -> str:
    """The screen without colours."""
    return "\n".join(plain(line)[:width] for line in render(status, width=width, height=height, glyphs=glyphs))


def _title(status: dict[str, Any], width: int, glyphs: Glyphs) -> list[Line]:
    cluster = status["cluster"]
    copies = "1 copy" if cluster["factor"] == 1 else f"{cluster['factor']} copies"
    at = datetime.datetime.fromtimestamp(status["at"] / 1000, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    parts = [f"release {status['version']}", f"{copies}, {cluster['strategy']}"]
    for cluster_id in (cluster["cluster_id"], cluster["cluster_id"][:8]):
        left = glyphs.between.join([f"cluster {cluster_id}", *parts])
        if len(left) + len(at) + 6 <= width:
            break
    else:
        return [[("dfs ", "bold"), (f"cluster {cluster['cluster_id'][:8]}", "")], [("    ", ""), (at, "dim")]]
    return [[("dfs ", "bold"), (left, ""), (" " * (width - len(left) - len(at) - 4), ""), (at, "dim")]]


def _health(status: dict[str, Any], width: int, glyphs: Glyphs) -> list[Line]:
    health = status["health"]
    word, style = _HEALTH.get(health["state"], (health["state"].upper(), "bad"))
    first = f"{glyphs.dot} {word}  "
    lines = wrapped(printable(health["sentence"]), width, indent=len(first))
    if not lines:
        return [[(first, style)]]
    lines[0][0] = (first, style)
    return lines


# --- nodes ---


def _nodes(status: dict[str, Any], most: int, width: int, glyphs: Glyphs) -> list[Line]:
    nodes = status["nodes"]
    shown = nodes if len(nodes) <= most else sorted(nodes, key=_urgency)[:most]
    columns = [
        Column("", 0, gap=1),
        Column("NODE", 0),
        Column("STATE", 0),
        Column("ZONE", 4),
        Column("FULL", 8, gap=1),
        Column("", 9, right=True),
        Column("USED", 6, right=True),
        Column("FREE", 7, right=True),
        Column("CHUNKS", 5, right=True),
        Column("BAD", 3, right=True),
        Column("SCRUBBED", 2, right=True),
        Column("RELEASE", 1),
    ]
    mark, name, state, zone, gauge, share, used, free, chunks, bad, scrubbed, release = columns
    for node in shown:
        said, style = _state(node, status["at"])
        mark.add(glyphs.dot, style)
        name.add(_cut(node["node_id"], 20, glyphs))
        state.add(said, style if style != "good" else "")
        zone.add(_cut(node["zone"] or "-", 14, glyphs))
        gauge.add(bar(node["fill"], _BAR, glyphs), "warn" if node["fill"] >= 0.9 else "")
        share.add(_percent(node["fill"]))
        used.add(format_size(node["used_bytes"]))
        free.add(format_size(node["free_bytes"]))
        chunks.add(f"{node['chunks']:,}")
        bad.add(f"{node['bad_chunks']:,}", "bad" if node["bad_chunks"] else "")
        scrubbed.add(_age(status["at"], node["scrubbed_at"]))
        release.add(_cut(node["version"] or "-", 12, glyphs))
    lines = table(columns, width) if shown else [[("no node is registered", "warn")]]
    return [*lines, _rest(status, shown, width, glyphs)]


def _rest(status: dict[str, Any], shown: list[dict[str, Any]], width: int, glyphs: Glyphs) -> Line:
    """The line below the nodes: those not shown, and the totals."""
    totals = status["totals"]
    names = {node["node_id"] for node in shown}
    left = [node for node in status["nodes"] if node["node_id"] not in names]
    parts = []
    if left:
        low, high = min(node["fill"] for node in left), max(node["fill"] for node in left)
        fill = _percent(low) if _percent(low) == _percent(high) else f"{_percent(low)} to {_percent(high)}"
        parts.append(f"and {len(left):,} more, {fill} full")
    nodes = "1 node" if totals["nodes"] == 1 else f"{totals['nodes']:,} nodes"
    parts.append(f"{nodes}, {totals['answering']:,} answering, {totals['writable']:,} taking chunks")
    parts.append(f"{format_size(totals['used_bytes'])} used, {format_size(totals['free_bytes'])} free")
    return [(" " * _INDENT, ""), (joined(parts, width - _INDENT, glyphs.between), "dim")]


def _state(node: dict[str, Any], now: int) -> tuple[str, str]:
    """A node's state in words, and how it looks."""
    admin, answers = node["admin_state"], node["alive"] and not node["suspect"]
    if admin == "maintenance":
        return f"maintenance {format_span(max(0, node['admin_until'] - now) / 1000)}", "warn"
    if admin in ("drained", "decommissioned"):
        return admin, "dim"
    if not answers:
        since = "" if node["absent_seconds"] is None else f" {format_span(node['absent_seconds'])}"
        if node["repaired"]:
            return f"replaced{since}", "warn"
        return ("suspect" if node["alive"] and not since else f"absent{since}"), "bad"
    if admin == "draining":
        return "draining", "warn"
    return node["status"], "good" if node["status"] == "active" else "warn"


def _urgency(node: dict[str, Any]) -> tuple[int, float, str]:
    """Where a node stands when not all can be shown: trouble first, then the fullest."""
    style = _state(node, 0)[1]
    rank = 1 if node["bad_chunks"] and style == "good" else ("bad", "warn", "good", "dim").index(style)
    return rank, -node["fill"], node["node_id"]


# --- work ---


def _repair(status: dict[str, Any], width: int, glyphs: Glyphs) -> list[Line]:
    repair = status["repair"]
    if repair is None:
        return [_labelled("repair", "no API server has led it yet", "warn")]
    counts = [f"{repair['short']:,}{'+' if repair['short_more'] else ''} short"] if repair["short"] else []
    for count, what in ((repair["bad"], "bad"), (repair["waiting"], "waiting"), (repair["unrecoverable"], "lost")):
        if count:
            counts.append(f"{count:,} {what}")
    parts = []
    if not repair["leading"]:
        parts.append(f"nobody leads it since {format_span((status['at'] - repair['at']) / 1000)}")
    if counts:
        parts.append(f"chunks: {', '.join(counts)}")
    if repair["seconds_left"]:
        parts.append(f"about {format_span(repair['seconds_left'])} left")
    if repair["bytes_per_second"] >= 1:
        parts.append(f"{format_size(repair['bytes_per_second'])}/s")
    if not parts and not repair["tours"]:
        parts.append("nothing to do")
    if repair["copied_chunks"]:
        parts.append(f"{repair['copied_chunks']:,} chunks ({format_size(repair['copied_bytes'])}) copied so far")
    said = joined(parts, width - _LABEL - _INDENT, glyphs.between)
    lines = [_labelled("repair", said, "" if repair["leading"] else "warn")]
    tours = repair["tours"]
    shown = tours if len(tours) <= _MOST_TOURS else tours[: _MOST_TOURS - 1]
    lines += [_labelled("", tour_text(tour, width - _LABEL - _INDENT, glyphs)) for tour in shown]
    if len(shown) < len(tours):
        lines.append(_labelled("", f"and {len(tours) - len(shown)} nodes more"))
    return lines


def repair_text(status: dict[str, Any]) -> list[str]:
    """What repair does, in full: the queue, every tour, whom it counts as absent, its problems."""
    repair = status["repair"]
    if repair is None:
        return ["no API server has led repair yet"]
    lines = [plain(_repair(status | {"repair": repair | {"tours": []}}, 100, RICH)[0]).strip()]
    lines += [f"  {tour_text(tour, 98, RICH)}" for tour in repair["tours"]]
    for node_id, seconds in sorted(repair["absent"].items()):
        copied = ", all its chunks have their copies elsewhere" if node_id in repair["repaired"] else ""
        lines.append(f"  {node_id} has been absent for {format_span(seconds)}{copied}")
    lines += [f"  no good copy of chunk {index} of file {file_id}" for file_id, index in repair["unrecoverable_chunks"]]
    return lines + [f"  {printable(problem)}" for problem in repair["problems"]]


def tour_text(tour: dict[str, Any], width: int, glyphs: Glyphs) -> str:
    """`drain node3  ████░░░░  43 %  1,200 of 2,800 chunks, 7 min left`, in at most `width` characters."""
    done, total = tour["chunks_done"], tour["chunks_total"]
    share = min(1.0, done / total) if total else 1.0
    again = f", pass {tour['passes'] + 1}" if tour["passes"] else ""
    left = f", {format_span(tour['seconds_left'])} left" if tour["seconds_left"] else ""
    name = f"{_TOURS.get(tour['kind'], tour['kind'])} {_cut(tour['node_id'], 20, glyphs)}"
    long = f"{name}  {bar(share, _BAR, glyphs)} {_percent(share)}  {min(done, total):,} of {total:,} chunks{again}{left}"
    if tour["waits_for"]:
        long += f"; waits: {printable(tour['waits_for'])}"
    return long if len(long) <= width else f"{name} {_percent(share)}{left}"[:width]


def _audit(status: dict[str, Any], width: int, glyphs: Glyphs) -> list[Line]:
    lines = []
    running, audit = status["audit_running"], status["audit"]
    if running is not None:
        share = f" {_percent(running['done'] / running['total'])}" if running["total"] else ""
        lines.append(_labelled("audit", f"running: {printable(running['phase'])}{share}"))
    if audit is None:
        if running is None:
            lines.append(_labelled("audit", "never run"))
        return lines
    age = _age(status["at"], audit["ended_at"])
    word, style = {"whole": ("whole", "good"), "degraded": ("degraded", "warn")}.get(
        audit["verdict"], ("data missing", "bad")
    )
    parts = [f" {age} ago", f"{audit['files']:,} files, {audit['chunks']:,} chunks, {format_size(audit['bytes'])}"]
    parts += ["every copy re-read"] if audit["verify"] else []
    said = joined(parts, width - _LABEL - _INDENT - len(word), glyphs.between)
    line: Line = [(" " * _INDENT, ""), ("" if lines else "audit", "dim")]
    line.append((" " * (_LABEL - (0 if lines else len("audit"))), ""))
    line += [(word, style), (said, "")]
    return [*lines, line]


def _trash(status: dict[str, Any], width: int, glyphs: Glyphs) -> list[Line]:
    """Only when there is any, or some had to go early."""
    trash = status.get("trash")
    if trash is None or not (trash["files"] or trash["relief_at"]):
        return []
    files = "1 file" if trash["files"] == 1 else f"{trash['files']:,} files"
    parts = [f"{files}, {format_size(trash['bytes'])}"]
    if trash["oldest_at"]:
        parts.append(f"the oldest since {_age(status['at'], trash['oldest_at'])}")
    if trash["relief_at"]:
        gone = f"{trash['relief_files']:,} went early {_age(status['at'], trash['relief_at'])} ago: a node was full"
        parts.append(gone)
    return [_labelled("trash", joined(parts, width - _LABEL - _INDENT, glyphs.between))]


# --- warnings ---


def _warning(warning: dict[str, Any], width: int) -> list[Line]:
    style = "warn" if warning["hands"] else "dim"
    said, command = printable(warning["text"]), printable(warning["command"])
    if _INDENT + 2 + len(said) + 4 + len(command) <= width:
        return [[(" " * _INDENT, ""), ("! ", style), (said, ""), ("  > ", "dim"), (command, "bold")]]
    lines = wrapped(said, width, indent=_INDENT + 2)
    lines[0][0] = (" " * _INDENT + "! ", style)
    below = wrapped(command, width, "bold", indent=_INDENT + 4)
    below[0][0] = (" " * (_INDENT + 2) + "> ", "dim")
    return [*lines, *below]


def _fitting(warnings: list[list[Line]], room: int) -> list[Line]:
    """As many whole warnings as fit in `room` lines, and how many were left out."""
    shown: list[Line] = []
    for number, warning in enumerate(warnings):
        last = number == len(warnings) - 1
        if len(shown) + len(warning) + (not last) > room and number:
            left = len(warnings) - number
            return [*shown, [(" " * _INDENT, ""), (f"and {left} more: status --json has all", "dim")]]
        shown += warning
    return shown


def _labelled(label: str, said: str, style: str = "") -> Line:
    return [(" " * _INDENT, ""), (label.ljust(_LABEL), "dim"), (said, style)]


def _age(now: int, at: int) -> str:
    return format_span((now - at) / 1000) if at else "never"


def _percent(share: float) -> str:
    return f"{share:.0%}"


def _cut(text: str, most: int, glyphs: Glyphs) -> str:
    text = printable(text)
    return text if len(text) <= most else text[: most - len(glyphs.more)] + glyphs.more
