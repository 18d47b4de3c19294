"""Faults at each step of taking a file off its path, to the trash, for good, or to another path.

As in `storing`: what the client is told, what is visible, what is stored, what comes next. A request that
took effect is repeated when its path already shows another file, which must not be touched.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from pathlib import Path

from dfs.model import FileState
from tests.fault.matrix.strikes import (
    AWAY,
    FULL,
    READ_ONLY,
    SLOW,
    UNKNOWN,
    Attempt,
    Strike,
    client_leaves_before_the_answer,
    client_reads_late,
    dawdle,
    killed,
    killed_before_notes,
    metadata,
    metadata_away_after_the_deed,
    nodes_die_at_the_deed,
    notes_meet,
    slow_metadata,
    told,
)
from tests.support.caller import Answer
from tests.support.cluster import eventually
from tests.support.faults import lose_answers, refuse
from tests.support.site import Site

DONE = (0, "", None)
"""Stands for the success of the operation: 204 of a delete, 200 of a move."""

DATA = b"the file itself " * 10_000
TRASH, PURGE = {}, {"purge": "1"}


class Rebinding(Attempt):
    """A DELETE (`query` may say to purge) or a POST with `move_to`, under an operation id of the client's."""

    path = "a/file"
    target = "b/target"

    def __init__(self, site: Site, query: dict[str, str]) -> None:
        super().__init__(site)
        self.query = query
        self.moves = "move_to" in query
        self.deed = "move" if self.moves else "delete"
        self.success = 200 if self.moves else 204
        self.noted_as = "move" if self.moves else "purge" if "purge" in query else "trash"
        self.op = str(uuid.uuid4())
        self.before = {"other": b"another file", self.path: DATA}
        site.put("other", self.before["other"])
        self.file_id = site.put(self.path, DATA)
        self.replaced = None
        if self.moves:
            self.before[self.target] = b"what the target shows"
            self.replaced = site.put(self.target, self.before[self.target])
        self.after = {"other": b"another file"} | ({self.target: DATA} if self.moves else {})

    @property
    def state(self) -> FileState:
        """Of the file, once it has happened."""
        if self.moves:
            return FileState.COMMITTED
        return FileState.DELETING if "purge" in self.query else FileState.TRASHED

    def send(self, port: int | None = None) -> Answer | None:
        method = "POST" if self.moves else "DELETE"
        return self.site.call(method, self.path, query=self.query, port=port, X_Dfs_Op=self.op)

    def lines(self) -> list[str]:
        query = "&".join(f"{name}={value}" for name, value in self.query.items())
        method = "POST" if self.moves else "DELETE"
        return [f"{method} /files/{self.path}?{query} HTTP/1.1", f"X-Dfs-Op: {self.op}"]


@dataclass(frozen=True)
class Way:
    """`answer` as in `storing`, or DONE; `happened`: the path no longer shows the file. `noted`: its
    nodes get the note in the end."""

    strike: Strike
    answer: tuple[int, str, str | None] | None
    happened: bool
    settings: dict[str, float] = field(default_factory=dict)
    noted: bool | None = None


def ways(deed: str) -> dict[str, list[Way]]:
    """From "step-fault" to the ways in which the fault strikes; `deed` is "delete" or "move"."""
    return {
        "look-process killed": [Way(killed("read", "killed before"), None, False)],
        "look-power lost": [Way(killed("read", "killed after", power=True), None, False)],
        "look-disk error": [Way(metadata("read", "unreadable"), AWAY, False)],
        "look-peer slow": [Way(slow_metadata("read"), DONE, True)],
        "look-reply lost": [Way(metadata("read", "lost"), AWAY, False)],
        "look-metadata unavailable": [Way(metadata("read", "away"), AWAY, False)],
        "change-process killed": [
            Way(killed(deed, "killed before"), None, False),
            Way(killed(deed, "killed after"), None, True),
        ],
        "change-power lost": [
            Way(killed(deed, "killed before", power=True), None, False),
            Way(killed(deed, "killed after", power=True), None, True),
        ],
        "change-disk full": [Way(metadata(deed, "full"), AWAY, False)],
        "change-disk error": [
            Way(metadata(deed, "broken"), AWAY, False),
            Way(metadata(deed, "broken after"), DONE, True),
        ],
        "change-peer slow": [Way(slow_metadata(deed), DONE, True)],
        "change-reply lost": [
            Way(metadata(deed, "lost"), DONE, True),
            Way(metadata(deed, "dropped"), DONE, True),
            Way(metadata(deed, "lost and away"), UNKNOWN, True),
            Way(metadata(deed, "dropped and away"), UNKNOWN, False),
        ],
        "change-metadata unavailable": [Way(metadata(deed, "away"), AWAY, False)],
        "answer-process killed": [Way(killed(deed, "killed after"), None, True)],
        "answer-power lost": [Way(killed(deed, "killed after", power=True), None, True)],
        "answer-peer dead": [Way(client_leaves_before_the_answer, None, True)],
        "answer-peer slow": [Way(client_reads_late, DONE, True)],
        "answer-reply lost": [Way(client_leaves_before_the_answer, None, True)],
        "answer-metadata unavailable": [Way(metadata_away_after_the_deed, DONE, True)],
        "notes-process killed": [Way(killed_before_notes(), DONE, True, noted=False)],
        "notes-power lost": [Way(killed_before_notes(power=True), DONE, True, noted=False)],
        "notes-disk full": [Way(notes_meet(refuse(FULL, "/notes")), DONE, True, noted=True)],
        "notes-disk error": [Way(notes_meet(refuse(READ_ONLY, "/notes")), DONE, True, noted=True)],
        "notes-peer dead": [Way(nodes_die_at_the_deed, DONE, True, noted=True)],
        "notes-peer slow": [Way(notes_meet(dawdle), DONE, True, SLOW, noted=True)],
        "notes-reply lost": [Way(notes_meet(lose_answers("/notes"), after=True), DONE, True, noted=True)],
        "notes-metadata unavailable": [Way(metadata_away_after_the_deed, DONE, True, noted=True)],
    }


def examine(directory: Path, way: Way, query: dict[str, str], fate: str) -> None:
    """One way, for a client that repeats the request ("repeated") or does not ("given up")."""
    with Site(directory, **way.settings) as site:
        attempt = Rebinding(site, query)
        answer = way.strike(attempt)
        site.lift()
        site.wait_writable()
        # What the client sees.
        assert told(answer) == ((attempt.success, "", None) if way.answer == DONE else way.answer), answer
        # Nothing half is visible: the path shows the file, or nothing does, or the other path.
        shown = attempt.after if way.happened else attempt.before
        assert site.shown() == shown
        # What lies on the nodes and in the metadata.
        assert site.audit() == set()
        assert site.state_of(attempt.file_id) is (attempt.state if way.happened else FileState.COMMITTED)
        if attempt.replaced is not None:
            replaced = site.state_of(attempt.replaced)
            assert replaced is (FileState.TRASHED if way.happened else FileState.COMMITTED)
        assert attempt.file_id in site.api.stored()
        if way.noted:
            eventually(attempt.noted, "each holder keeps the note once")
        elif way.noted is not None:
            assert not attempt.noted()
        # What happens next.
        if fate == "repeated":
            shown = dict(attempt.after)
            if way.happened:
                shown[attempt.path] = b"a newcomer"
                site.put(attempt.path, shown[attempt.path])
            again = attempt.send()
            assert again is not None and again.status == attempt.success, again
        site.erase()
        assert site.shown() == shown
        assert site.audit() == set()
        gone = "purge" in query and (way.happened or fate == "repeated")
        assert gone == (attempt.file_id not in site.api.stored()), "space came back, and nothing else went"
