"""Faults at each step of storing a file, whether its path is new or shows another one.

`WAYS` leads from "step-fault" to ways in which the fault can strike, each with what the client is told,
whether the path shows the file then, and what lies about. `examine` makes it happen and looks: at the
answer, at what is visible, at nodes and metadata; and at what comes next, for a client that repeats the
request and for one that does not.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from pathlib import Path

from dfs.model import FileState, NodeStatus
from tests.fault.matrix.strikes import (
    AWAY,
    FULL,
    READ_ONLY,
    SLOW,
    STORED,
    UNKNOWN,
    Attempt,
    Strike,
    all_nodes,
    client_leaves_before_the_answer,
    client_leaves_in_the_body,
    client_reads_late,
    dawdle,
    dead_nodes,
    first_node,
    killed,
    killed_at_nodes,
    killed_before_notes,
    metadata,
    metadata_away_after_the_deed,
    nodes_die_at_the_deed,
    nodes_say,
    notes_meet,
    power_fails_in_a_sync,
    slow_metadata,
    told,
)
from tests.support.caller import Answer
from tests.support.cluster import eventually
from tests.support.faults import lose_answers, refuse
from tests.support.site import Site

SIZES = {"one chunk": 1000, "several chunks": 150_000}
SEVERAL = ("several chunks",)


class Put(Attempt):
    """A PUT under an operation id of the client's, on the condition that its path is as it was seen."""

    deed = "commit"
    noted_as = "put"

    def __init__(self, site: Site, size: str, *, over: bool) -> None:
        super().__init__(site)
        self.path = "a/file"
        self.size = size
        self.data = bytes(range(250)) * (SIZES[size] // 250)
        self.file_id = str(uuid.uuid4())
        self.before = {"other": b"another file"}
        site.put("other", self.before["other"])
        self.condition = {"If-None-Match": "*"}
        if over:
            self.before[self.path] = b"the old file" * 10_000
            self.condition = {"If-Match": f'"{site.put(self.path, self.before[self.path])}"'}
        self.after = self.before | {self.path: self.data}

    def send(self, port: int | None = None) -> Answer | None:
        headers = {name.replace("-", "_"): value for name, value in self.condition.items()}
        return self.site.call("PUT", self.path, self.data, port=port, X_Dfs_Op=self.file_id, **headers)

    def lines(self) -> list[str]:
        conditions = [f"{name}: {value}" for name, value in self.condition.items()]
        return [f"PUT /files/{self.path} HTTP/1.1", f"X-Dfs-Op: {self.file_id}", *conditions]

    def body(self) -> bytes:
        return self.data


@dataclass(frozen=True)
class Way:
    """`answer`: status, error code and Retry-After; None when none arrives. `shows`: the path shows the
    file. `left`: the state of its record otherwise; `unrecorded`: nodes hold bytes of which the
    metadata knows nothing; `surplus`: a node may hold a copy more. `noted`: its nodes get the note in the end."""

    strike: Strike
    answer: tuple[int, str, str | None] | None
    shows: bool
    left: FileState | None = None
    unrecorded: tuple[str, ...] = ()
    surplus: bool = False
    sizes: tuple[str, ...] = tuple(SIZES)
    fates: tuple[str, ...] = ("repeated", "given up")
    settings: dict[str, float] = field(default_factory=dict)
    noted: bool | None = None


UPLOADING = FileState.UPLOADING


# --- the matrix --------------------------------------------------------------------------------------

ONCE = ("given up",)
AGAIN = ("repeated",)

WAYS: dict[str, list[Way]] = {
    "admission-process killed": [Way(killed("read", "killed before"), None, False)],
    "admission-power lost": [Way(killed("read", "killed after", power=True), None, False)],
    "admission-disk full": [Way(nodes_say(NodeStatus.FULL), (507, "cluster_full", "60"), False)],
    "admission-disk error": [Way(nodes_say(NodeStatus.READ_ONLY), (503, "not_enough_nodes", "2"), False)],
    "admission-peer dead": [Way(dead_nodes(2, known=True), (503, "not_enough_nodes", "2"), False)],
    "admission-peer slow": [Way(slow_metadata("read"), STORED, True)],
    "admission-reply lost": [Way(metadata("read", "lost"), AWAY, False)],
    "admission-metadata unavailable": [Way(metadata("read", "away"), AWAY, False)],
    "record-process killed": [
        Way(killed("begin", "killed before"), None, False, sizes=SEVERAL),
        Way(killed("begin", "killed after"), None, False, UPLOADING, sizes=SEVERAL),
    ],
    "record-power lost": [Way(killed("begin", "killed after", power=True), None, False, UPLOADING, sizes=SEVERAL)],
    "record-disk full": [Way(metadata("begin", "full"), AWAY, False, sizes=SEVERAL)],
    "record-disk error": [
        Way(metadata("begin", "broken"), AWAY, False, sizes=SEVERAL),
        Way(metadata("begin", "broken after"), STORED, True, sizes=SEVERAL),
    ],
    "record-peer slow": [Way(slow_metadata("begin"), STORED, True, sizes=SEVERAL)],
    "record-reply lost": [
        Way(metadata("begin", "lost"), STORED, True, sizes=SEVERAL),
        Way(metadata("begin", "dropped"), STORED, True, sizes=SEVERAL),
        Way(metadata("begin", "lost and away"), UNKNOWN, False, UPLOADING, sizes=SEVERAL),
        Way(metadata("begin", "dropped and away"), UNKNOWN, False, sizes=SEVERAL),
    ],
    "record-metadata unavailable": [Way(metadata("begin", "away"), AWAY, False, sizes=SEVERAL)],
    "chunks-process killed": [
        Way(killed_at_nodes("/store-chunk", stored=False), None, False, UPLOADING, unrecorded=("one chunk",)),
        Way(killed_at_nodes("/store-chunk", stored=True), None, False, UPLOADING, unrecorded=("one chunk",)),
    ],
    "chunks-power lost": [Way(power_fails_in_a_sync, None, False, UPLOADING, unrecorded=("one chunk",))],
    "chunks-disk full": [
        Way(first_node(refuse(FULL)), STORED, True),
        Way(all_nodes(refuse(FULL)), (507, "cluster_full", "60"), False, UPLOADING),
    ],
    "chunks-disk error": [
        Way(first_node(refuse(READ_ONLY)), STORED, True),
        Way(all_nodes(refuse(READ_ONLY)), (503, "not_enough_nodes", "2"), False, UPLOADING),
    ],
    "chunks-peer dead": [
        Way(dead_nodes(1), STORED, True),
        Way(dead_nodes(2), (503, "not_enough_nodes", "2"), False, UPLOADING),
        Way(client_leaves_in_the_body, None, False, UPLOADING),
    ],
    "chunks-peer slow": [Way(first_node(dawdle), STORED, True, surplus=True, settings=SLOW)],
    "chunks-reply lost": [Way(first_node(lose_answers(), after=True), STORED, True, surplus=True)],
    "rows-process killed": [
        Way(killed("rows", "killed before"), None, False, UPLOADING, sizes=SEVERAL),
        Way(killed("rows", "killed after"), None, False, UPLOADING, sizes=SEVERAL),
    ],
    "rows-power lost": [
        Way(killed("rows", "killed before", power=True), None, False, UPLOADING, sizes=SEVERAL)
    ],
    "rows-disk full": [Way(metadata("rows", "full"), AWAY, False, UPLOADING, sizes=SEVERAL)],
    "rows-disk error": [
        Way(metadata("rows", "broken"), AWAY, False, UPLOADING, sizes=SEVERAL),
        Way(metadata("rows", "broken after"), STORED, True, sizes=SEVERAL),
    ],
    "rows-peer slow": [Way(slow_metadata("rows"), STORED, True, sizes=SEVERAL)],
    "rows-reply lost": [
        Way(metadata("rows", "lost"), STORED, True, sizes=SEVERAL),
        Way(metadata("rows", "dropped"), STORED, True, sizes=SEVERAL),
        Way(metadata("rows", "lost and away"), AWAY, False, UPLOADING, sizes=SEVERAL),
    ],
    "rows-metadata unavailable": [
        Way(metadata("rows", "away"), AWAY, False, UPLOADING, sizes=SEVERAL)
    ],
    "commit-process killed": [
        Way(killed("commit", "killed before"), None, False, UPLOADING, unrecorded=("one chunk",)),
        Way(killed("commit", "killed after"), None, True),
    ],
    "commit-power lost": [
        Way(killed("commit", "killed before", power=True), None, False, UPLOADING, unrecorded=("one chunk",)),
        Way(killed("commit", "killed after", power=True), None, True),
    ],
    "commit-disk full": [
        Way(metadata("commit", "full"), AWAY, False, UPLOADING, unrecorded=("one chunk",)),
    ],
    "commit-disk error": [
        Way(metadata("commit", "broken"), AWAY, False, UPLOADING, unrecorded=("one chunk",)),
        Way(metadata("commit", "broken after"), STORED, True),
    ],
    "commit-peer slow": [Way(slow_metadata("commit"), STORED, True)],
    "commit-reply lost": [
        Way(metadata("commit", "lost"), STORED, True),
        Way(metadata("commit", "dropped"), STORED, True),
        Way(metadata("commit", "lost and away"), UNKNOWN, True),
        Way(metadata("commit", "dropped and away"), UNKNOWN, False, UPLOADING, unrecorded=("one chunk",)),
    ],
    "commit-metadata unavailable": [
        Way(metadata("commit", "away"), AWAY, False, UPLOADING, unrecorded=("one chunk",))
    ],
    "answer-process killed": [Way(killed("commit", "killed after"), None, True, fates=AGAIN)],
    "answer-power lost": [Way(killed("commit", "killed after", power=True), None, True, fates=AGAIN)],
    "answer-peer dead": [Way(client_leaves_before_the_answer, None, True, fates=ONCE)],
    "answer-peer slow": [Way(client_reads_late, STORED, True, fates=ONCE)],
    "answer-reply lost": [Way(client_leaves_before_the_answer, None, True, fates=AGAIN)],
    "answer-metadata unavailable": [Way(metadata_away_after_the_deed, STORED, True)],
    "notes-process killed": [Way(killed_before_notes(), STORED, True, noted=False, fates=ONCE)],
    "notes-power lost": [Way(killed_before_notes(power=True), STORED, True, noted=False, fates=ONCE)],
    "notes-disk full": [Way(notes_meet(refuse(FULL, "/notes")), STORED, True, noted=True, fates=ONCE)],
    "notes-disk error": [Way(notes_meet(refuse(READ_ONLY, "/notes")), STORED, True, noted=True, fates=ONCE)],
    "notes-peer dead": [Way(nodes_die_at_the_deed, STORED, True, noted=True, fates=ONCE)],
    "notes-peer slow": [Way(notes_meet(dawdle), STORED, True, noted=True, fates=ONCE, settings=SLOW)],
    "notes-reply lost": [Way(notes_meet(lose_answers("/notes"), after=True), STORED, True, noted=True, fates=ONCE)],
}


def examine(directory: Path, cell: str, *, over: bool) -> None:
    """Every way of a cell, with every size, for clients that repeat and for those that do not."""
    for number, way in enumerate(WAYS[cell]):
        for size in way.sizes:
            for fate in _fates(way, size, over):
                where = f"{cell}, way {number}, {size}, {fate}"
                print(where)
                with Site(directory / f"{number}-{size}-{fate}", **way.settings) as site:
                    _examine_one(Put(site, size, over=over), way, fate)


def _fates(way: Way, size: str, over: bool) -> tuple[str, ...]:
    """Which clients to look at. A process to kill is dear, and of an overwrite the rest is as of a put: there
    each fate is seen with one of the sizes, and of kills with the other size by the other operation."""
    if len(way.fates) == 1 or (way.answer is not None and not over):
        return way.fates
    return (way.fates[(size == "one chunk") ^ over],)


def _examine_one(put: Put, way: Way, fate: str) -> None:
    site = put.site
    answer = way.strike(put)
    site.lift()
    site.wait_writable()
    # What the client sees.
    assert told(answer) == way.answer, answer
    # Nothing half is visible.
    shown = put.after if way.shows else put.before
    assert site.shown() == shown
    # What lies on the nodes and in the metadata.
    unrecorded = site.audit()
    if way.shows:
        assert site.state_of(put.file_id) is FileState.COMMITTED and not unrecorded
        assert put.file_id not in site.surplus() or way.surplus
    else:
        alone = put.size in way.unrecorded
        assert unrecorded <= ({put.file_id} if alone else set())
        nothing = alone or (put.size == "one chunk" and put.file_id not in site.api.stored())
        assert site.state_of(put.file_id) is (None if nothing else way.left)
    if way.noted:
        eventually(put.noted, "each holder keeps the note once")
    elif way.noted is not None:
        assert not put.noted()
    # What happens next.
    if fate == "repeated":
        again = put.send()
        assert again is not None and (again.status, again.json["file_id"]) == (201, put.file_id), again
        shown, unrecorded = put.after, set()
    site.erase()
    assert site.audit() <= unrecorded
    site.sweep()
    assert site.shown() == shown
    assert site.audit() == set() and site.surplus() == set()
    there = shown == put.after
    assert site.state_of(put.file_id) is (FileState.COMMITTED if there else None)
    assert (put.file_id in site.api.stored()) == there, "space came back"
