"""The status screen: what it shows, and how it folds."""

from __future__ import annotations

import re

import pytest

from dfs.admin.layout import PLAIN, RICH, Column, bar, joined, paint, plain, table, wrapped
from dfs.admin.screen import render, repair_text, text, tour_text
from tests.unit.admin.samples import DAY, GIB, NOW, a_node, a_repair, a_status, a_tour, a_warning, an_audit

WELL = """\
dfs cluster 9f3a41c2 · release 0.4.0 · 2 copies, sync                        2026-03-01 12:00:05 UTC

● HEALTHY  repair found every chunk with its 2 copies 4 s ago

  NODE   STATE   ZONE        FULL                 USED     FREE     CHUNKS  BAD  SCRUBBED  RELEASE
● node1  active  us-east-1b  ███░░░░░░░░░ 21%  207 GiB  783 GiB  1,234,568    0       3 d  0.4.0
● node2  active  us-east-1c  ███░░░░░░░░░ 22%  214 GiB  776 GiB  1,234,569    0       3 d  0.4.0
● node3  active  us-east-1a  ███░░░░░░░░░ 22%  221 GiB  769 GiB  1,234,570    0       3 d  0.4.0
  3 nodes, 3 answering, 3 taking chunks · 642 GiB used, 2.3 TiB free

  repair   nothing to do
  audit    whole 2 d ago · 12,345 files, 1,851,855 chunks, 321 GiB · every copy re-read"""

ILL = """\
dfs cluster 9f3a41c2 · release 0.4.0 · 2 copies, sync                        2026-03-01 12:00:05 UTC

● DEGRADED  node3 does not answer; 120 chunks short of a copy

  NODE   STATE               ZONE        FULL                 USED     FREE     CHUNKS  BAD
● node1  full                us-east-1b  ███████████░ 99%  207 GiB  783 GiB  1,234,568    0
● node2  draining            us-east-1c  ███░░░░░░░░░ 22%  214 GiB  776 GiB  1,234,569    3
● node3  absent 3 min        us-east-1a  ███░░░░░░░░░ 22%  221 GiB  769 GiB  1,234,570    0
● node4  maintenance 12 min  us-east-1b  ███░░░░░░░░░ 23%  228 GiB  762 GiB  1,234,571    0
  4 nodes, 3 answering, 3 taking chunks · 870 GiB used, 2.3 TiB free

  repair   chunks: 120+ short, 3 bad · about 7 min left · 45.8 MiB/s
           drain node2  █████░░░░░░░ 40%  12,000 of 30,000 chunks, 7 min left
           replace node3  ████████████ 100%  30,000 of 30,000 chunks, pass 2, 7 min left
  audit    running: reading inventories 43%
           degraded 2 d ago · 12,345 files, 1,851,855 chunks, 321 GiB

  ! node3 does not answer for 3 min; repair copies its chunks elsewhere in 7 min
    > start it again, or: python -m dfs.admin repair --now node3
  ! node1 is almost full  > add a node, then: python -m dfs.admin rebalance"""


def ill() -> dict[str, object]:
    tours = [a_tour("drain", "node2"), a_tour("lost", "node3", passes=1, chunks_done=31_000)]
    return a_status(
        a_node(1, status="full", fill=0.994),
        a_node(2, admin_state="draining", bad_chunks=3),
        a_node(3, alive=False, absent_seconds=200.0, writable=False),
        a_node(4, admin_state="maintenance", admin_until=NOW + 12 * 60_000),
        health={"state": "degraded", "sentence": "node3 does not answer; 120 chunks short of a copy"},
        repair=a_repair(short=120, short_more=True, bad=3, bytes_per_second=48e6, seconds_left=430, tours=tours),
        audit=an_audit(verdict="degraded", verify=False),
        audit_running=an_audit(phase="reading inventories", done=3, total=7),
        warnings=[
            a_warning(
                "node3 does not answer for 3 min; repair copies its chunks elsewhere in 7 min",
                "start it again, or: python -m dfs.admin repair --now node3",
            ),
            a_warning("node1 is almost full", "add a node, then: python -m dfs.admin rebalance"),
        ],
    )


def test_a_cluster_that_is_well() -> None:
    assert text(a_status(*(a_node(number) for number in (1, 2, 3)))) == WELL


def test_a_cluster_in_trouble() -> None:
    assert text(ill()) == ILL


def test_a_large_cluster_folds_to_what_matters() -> None:
    nodes = [a_node(number) for number in range(1, 201)]
    nodes[77].update(alive=False, absent_seconds=2000.0)
    nodes[150].update(status="full", fill=0.96)
    nodes[20].update(bad_chunks=2)
    warnings = [a_warning(f"warning {number}", "do something") for number in range(30)]
    lines = text(a_status(*nodes, warnings=warnings)).split("\n")
    assert len(lines) == 24 and all(len(line) <= 100 for line in lines)
    shown = [line.split()[1] for line in lines if line.startswith("● node")]
    assert shown[:3] == ["node78", "node151", "node21"]
    assert any("and 196 more, 20% to 25% full · 200 nodes, 199 answering" in line for line in lines)
    assert lines[-1] == "  and 21 more: status --json has all"
    without = text(a_status(*nodes)).split("\n")
    assert len(without) == 24 and sum(line.startswith("● node") for line in without) == 15


@pytest.mark.parametrize("width", [40, 47, 60, 80, 100, 140])
@pytest.mark.parametrize("height", [16, 24, 50])
def test_it_never_exceeds_the_terminal(width: int, height: int) -> None:
    big = ill() | {"nodes": [a_node(number, node_id="x" * 64, zone="z" * 64) for number in range(60)]}
    for status in (ill(), big):
        for glyphs in (RICH, PLAIN):
            lines = render(status, width=width, height=height, glyphs=glyphs)
            painted = [paint(line, width, colour=True) for line in lines]
            assert len(painted) <= height
            assert all(len(re.sub("\x1b\\[[0-9;]*m", "", line)) <= width for line in painted)
            assert all(line.count("\x1b[0m") * 2 == line.count("\x1b") for line in painted)


def test_states_in_words() -> None:
    nodes = [
        a_node(1, alive=False), a_node(2, suspect=True), a_node(3, alive=False, absent_seconds=9000.0, repaired=True),
        a_node(4, admin_state="drained", alive=False), a_node(5, admin_state="draining", alive=False, absent_seconds=60.0),
        a_node(6, bad_chunks=2, scrubbed_at=0, zone=None), a_node(7, status="read_only"),
    ]  # fmt: skip
    shown = text(a_status(*nodes)).split("\n")
    states = [line.split("us-east")[0].split(None, 2)[2].strip() for line in shown if line.startswith("● node")]
    assert states[:5] == ["absent", "suspect", "replaced 2.5 h", "drained", "absent 60 s"]
    assert states[6] == "read_only" and "never" in shown[10]


def test_a_cluster_that_has_just_begun() -> None:
    health = {"state": "unproven", "sentence": "no proof yet that every chunk has its copies: run an audit"}
    shown = text(a_status(repair=None, audit=None, health=health))
    assert "● NO PROOF YET  no proof yet" in shown and "no node is registered" in shown
    assert "no API server has led it yet" in shown and "audit    never run" in shown


def test_what_repair_and_audit_may_say() -> None:
    assert "DATA MISSING" in text(a_status(health={"state": "data_missing", "sentence": "x"}))
    assert "● ODD" in text(a_status(health={"state": "odd", "sentence": ""}))
    tours = [a_tour("drain", f"n{number}") for number in range(9)]
    shown = text(a_status(a_node(1), repair=a_repair(tours=tours, leading=False, at=NOW - 90_000, copied_chunks=5)))
    assert "nobody leads it since 2 min" in shown and "and 6 nodes more" in shown and "5 chunks (0 B) copied" in shown
    assert "data missing 2 d ago" in text(a_status(audit=an_audit(verdict="data_missing")))
    assert "1 copy, sync" in text(a_status(cluster=a_status()["cluster"] | {"factor": 1}))
    assert "1 node, 1 answering" in text(a_status(a_node(1)))


def test_the_trash_when_there_is_any() -> None:
    trash = {"at": NOW, "files": 0, "bytes": 0, "oldest_at": 0, "relief_at": 0, "relief_files": 0, "relief_bytes": 0}
    assert "trash" not in text(a_status(trash=trash))
    some = trash | {"files": 1234, "bytes": 3 * GIB, "oldest_at": NOW - 3 * DAY}
    assert text(a_status(trash=some)).endswith("  trash    1,234 files, 3.0 GiB · the oldest since 3 d")
    early = trash | {"files": 1, "relief_at": NOW - 7_200_000, "relief_files": 9}
    assert text(a_status(trash=early)).endswith("  trash    1 file, 0 B · 9 went early 2 h ago: a node was full")


def test_tours_in_words() -> None:
    waiting = a_tour("drain", "n1", waits_for="node n2 is away", seconds_left=None, chunks_total=0)
    assert tour_text(waiting, 100, PLAIN).endswith("100%  0 of 0 chunks; waits: node n2 is away")
    assert tour_text(a_tour("returned", "n1"), 30, RICH) == "trim n1 40%, 7 min left"


def test_all_of_repair() -> None:
    assert repair_text(a_status(repair=None)) == ["no API server has led repair yet"]
    found = a_repair(
        tours=[a_tour("lost", "n1")], absent={"n1": 700.0, "n2": 5.0}, repaired=["n2"],
        unrecoverable_chunks=[["f-1", 3]], problems=["something\x1b[2J"], unrecoverable=1,
    )  # fmt: skip
    assert repair_text(a_status(repair=found)) == [
        "repair   chunks: 1 lost",
        "  replace n1  █████░░░░░░░ 40%  12,000 of 30,000 chunks, 7 min left",
        "  n1 has been absent for 12 min",
        "  n2 has been absent for 5 s, all its chunks have their copies elsewhere",
        "  no good copy of chunk 3 of file f-1",
        "  something\\x1b[2J",
    ]


def test_what_a_server_sends_cannot_act_on_the_terminal() -> None:
    evil = "\x1b]0;owned\x07"
    status = a_status(
        a_node(1, node_id=evil, zone=evil, version=evil),
        health={"state": "healthy", "sentence": evil},
        warnings=[a_warning(evil, evil)],
        audit_running=an_audit(phase=evil),
    )
    assert "\x1b" not in text(status) and "\x07" not in text(status)


def test_bars_never_round_to_nothing_or_all() -> None:
    assert bar(0, 4, PLAIN) == "...." and bar(0.001, 4, PLAIN) == "#..." and bar(0.999, 4, PLAIN) == "###."
    assert bar(1, 4, PLAIN) == bar(7, 4, PLAIN) == "####" and bar(-1, 4, PLAIN) == "...."


def test_tables_give_up_what_says_least() -> None:
    same, varying, name = Column("SAME", 9), Column("VARIES", 1), Column("NAME", 0)
    for number in range(2):
        same.add("x" * 10)
        varying.add(str(number) * 10, "bad")
        name.add(f"n{number}")
    assert plain(table([name, same, varying], 40)[0]) == "NAME  SAME        VARIES"
    assert plain(table([name, same, varying], 20)[1]) == "n0    0000000000"
    assert plain(table([name, same, varying], 8)[0]) == plain(table([name, same, varying], 1)[0]) == "NAME"


def test_joining_and_wrapping() -> None:
    assert joined(["ab", "cd", "ef"], 6, ", ") == "ab, cd" and joined(["abcdef"], 3, ", ") == "abcdef"
    assert [plain(line) for line in wrapped("one two three four five six", 12, indent=2)] == ["  one two", "  three ..."]
