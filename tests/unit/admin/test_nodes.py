"""What the commands about nodes say, and following a drain."""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
from collections import deque
from pathlib import Path
from typing import Any, cast

import pytest

from dfs.admin import drainage
from dfs.admin.__main__ import build_parser, main
from dfs.admin.drainage import follow
from dfs.admin.nodes import done, planned, rebalanced
from dfs.admin.server import Server
from dfs.admin.status import drawn, exit_code, glyphs_of, show, watch
from dfs.client.failures import LocalFailure
from dfs.errors import Unavailable
from tests.unit.admin.samples import GIB, NOW, a_change, a_node, a_repair, a_status, a_tour, a_warning

ROOT = Path(__file__).resolve().parents[3]


class Answers:
    """A Server that gives these answers, then the last one again and again."""

    def __init__(self, *answers: object) -> None:
        self.answers = deque(answers)

    def call(self, method: str, path: str) -> dict[str, Any]:
        found = self.answers.popleft() if len(self.answers) > 1 else self.answers[0]
        if isinstance(found, BaseException):
            raise found
        return cast(dict[str, Any], found)


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        raise OSError("no descriptor")


def server(*answers: object) -> Server:
    return cast(Server, Answers(*answers))


# --- words ---


def test_what_a_plan_says() -> None:
    assert planned(a_change(planned=True, changed=False)) == [
        "plan: drain node3 (nothing is changed)",
        "  state    active, would become draining",
        "  holds    12.0 GiB in 12,345 chunks",
        "  others   3 other nodes take chunks, with room for 100 GiB: enough",
        "  copying  takes about 4 min at DFS_REPAIR_MBPS",
        "  would be granted",
    ]


def test_what_a_plan_that_would_be_refused_says() -> None:
    found = a_change(
        "maintenance", to="maintenance", until=NOW, refused=["reason one", "reason two"], risks=["a risk"],
        fits=False, others=1, chunks=1, seconds=None,
    )  # fmt: skip
    assert planned(found)[2:] == [
        "  holds    12.0 GiB in 1 chunk",
        "  others   1 other node takes chunks, with room for 100 GiB: not enough for all of that",
        "  until    2026-03-01 12:00:05 UTC",
        "  would be refused: reason one",
        "  would be refused: reason two",
        "  risk taken by --force: a risk",
    ]
    unknown = planned(a_change(state=None, to=None, refused=["there is no node node3"], seconds=None))
    assert unknown == ["plan: drain node3 (nothing is changed)", "  would be refused: there is no node node3"]


@pytest.mark.parametrize(
    ("found", "lines"),
    [
        (
            a_change(),
            [
                "node3 is draining now",
                "  12.0 GiB in 12,345 chunks move to 3 other nodes, about 4 min; follow it with: "
                "python -m dfs.admin drain node3 --wait",
            ],
        ),
        (
            a_change("maintenance", to="maintenance", until=NOW),
            [
                "node3 is in maintenance until 2026-03-01 12:00:05 UTC",
                "  it ends by itself; sooner with: python -m dfs.admin activate node3",
            ],
        ),
        (a_change("activate", to="active"), ["node3 is active now"]),
        (
            a_change(to="drained", changed=False),
            ["node3 is drained already: nothing was changed", "  take it out with: python -m dfs.admin decommission node3"],
        ),
        (
            a_change("decommission", to="decommissioned"),
            [
                "node3 is decommissioned now",
                "  its process can be stopped and its disk reused; the rows that name it are removed",
            ],
        ),
        (a_change("ok-to-stop", to="active", changed=False), ["node3 can be stopped now: 3 other nodes take chunks"]),
    ],
)
def test_what_a_change_says(found: dict[str, Any], lines: list[str]) -> None:
    assert done(found) == lines


def test_what_rebalancing_says() -> None:
    found = {
        "planned": True, "changed": False, "ordered": True, "refused": [], "bytes": 3 * GIB, "seconds": 64.0,
        "nodes": [{"node_id": "n1", "used_bytes": 5 * GIB, "share_bytes": 2 * GIB}],
    }  # fmt: skip
    assert rebalanced(found, stop=False) == [
        "plan: rebalance (ordered already) (nothing is changed): about 3.0 GiB, 64 s at DFS_REPAIR_MBPS",
        "  n1  5.0 GiB, its share is 2.0 GiB",
    ]
    refused = rebalanced(found | {"ordered": False, "nodes": [], "refused": ["why"]}, stop=False)
    assert refused[0].startswith("plan: rebalance (nothing") and refused[1] == "  would be refused: why"
    asked = found | {"planned": False}
    assert rebalanced(asked, stop=False) == ["rebalancing is ordered already: nothing was changed"]
    assert rebalanced(asked | {"changed": True}, stop=False)[0].startswith("rebalancing is ordered: about 3.0 GiB")
    assert rebalanced(asked | {"changed": True}, stop=True) == ["rebalancing ends"]
    assert rebalanced(asked, stop=True) == ["no rebalancing was ordered: nothing was changed"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["maintenance", "n1"],
        ["maintenance", "n1", "--for", "soon"],
        ["drain"],
        ["ok-to-stop", "n1", "--force"],
        ["status", "--watch", "0"],
        ["status", "--watch", "often"],
    ],
)
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2 and "error: " in capsys.readouterr().err


def test_a_url_that_names_no_server_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--api", "ftp://x"]) == 2
    assert capsys.readouterr().err.startswith("dfs.admin: 'ftp://x' does not name an API server")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["repair", "--plan"], "--plan and --force go with --now NODE"),
        (["purge-trash", "--bucket", "!!", "--plan"], "a bucket name is"),
    ],
)
def test_what_makes_no_sense_is_wrong_usage_also_when_it_is_noticed_late(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith(f"dfs.admin: {said}")


def test_each_command_that_changes_something_has_a_plan() -> None:
    for command in ("drain", "activate", "maintenance", "decommission", "ok-to-stop"):
        more = ["--for", "5m"] if command == "maintenance" else []
        assert build_parser().parse_args([command, "n1", "--plan", *more]).plan


def test_an_interrupted_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(settings: object, arguments: object) -> int:
        raise KeyboardInterrupt

    parser = build_parser()
    monkeypatch.setattr("dfs.admin.__main__.build_parser", lambda: parser)
    monkeypatch.setattr(
        parser, "parse_args", lambda argv: argparse.Namespace(config=None, show_settings=False, run=interrupt)
    )
    assert main(["status"]) == 130
    assert capsys.readouterr().err == "dfs.admin: interrupted\n"


def test_a_reader_that_has_seen_enough() -> None:
    """As `| head` does: no traceback, no complaint."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "dfs.admin", "status", "--show-settings"], cwd=ROOT, stdout=write, stderr=subprocess.PIPE
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")


# --- following a drain ---


def draining(**tour: Any) -> dict[str, Any]:
    return a_status(a_node(3, admin_state="draining"), repair=a_repair(tours=[a_tour("drain", "node3", **tour)]))


def drained() -> dict[str, Any]:
    return a_status(a_node(3, admin_state="drained"))


def test_following_a_drain_into_a_log() -> None:
    waits: list[float] = []
    waiting = a_status(a_node(3, admin_state="draining"), repair=None)
    out = io.StringIO()
    answers = server(waiting, *[draining(chunks_done=number * 100) for number in range(20)], drained())
    assert follow(answers, "node3", out, pause=waits.append) == 0
    lines = out.getvalue().splitlines()
    assert lines[0] == "drain node3: waiting for repair to begin" and len(lines) == 3  # not one every two seconds
    assert "1,400 of 30,000 chunks" in lines[1] and lines[2] == "node3 is drained: it holds nothing any more"
    assert waits == [drainage.EVERY] * 21


def test_following_a_drain_on_a_terminal() -> None:
    out = Terminal()
    assert follow(server(draining(), draining(chunks_done=15_000), drained()), "node3", out, pause=lambda _: None) == 0
    shown = out.getvalue().split("\r\x1b[K")
    assert [line[:11] for line in shown] == ["", "drain node3", "drain node3", "node3 is dr"] and shown[-1].endswith("\n")


def test_servers_that_are_away_for_a_moment_end_nothing() -> None:
    answers = server(*[Unavailable("away")] * 29, draining(), *[Unavailable("away")] * 29, drained())
    assert follow(answers, "node3", io.StringIO(), pause=lambda _: None) == 0
    with pytest.raises(Unavailable):
        follow(server(Unavailable("away")), "node3", io.StringIO(), pause=lambda _: None)


@pytest.mark.parametrize(("status", "said"), [(a_status(a_node(3)), "node3 is active"), (a_status(), "not registered")])
def test_a_drain_that_somebody_ended(status: dict[str, Any], said: str) -> None:
    with pytest.raises(LocalFailure, match=f"{said}: somebody ended the drain"):
        follow(server(status), "node3", io.StringIO(), pause=lambda _: None)


def test_a_server_that_has_not_heard_of_the_drain_yet_ends_nothing() -> None:
    late = [a_status(a_node(3))] * 2
    assert follow(server(*late, draining(), *late, drained()), "node3", io.StringIO(), pause=lambda _: None) == 0


def test_ceasing_to_follow_does_not_end_the_drain() -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    out = io.StringIO()
    with pytest.raises(KeyboardInterrupt):
        follow(server(draining()), "node3", out, pause=interrupt)
    assert out.getvalue().endswith("the drain of node3 goes on; end it with: python -m dfs.admin activate node3\n")


# --- status ---


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (a_status(), 0),
        (a_status(warnings=[a_warning("x", "y", hands=False)]), 0),
        (a_status(warnings=[a_warning("x", "y")]), 8),
        (a_status(health={"state": "repairing", "sentence": ""}), 8),
        (a_status(health={"state": "unproven", "sentence": ""}), 8),
        (a_status(health={"state": "data_missing", "sentence": ""}), 9),
    ],
)
def test_exit_codes_of_status(status: dict[str, Any], code: int) -> None:
    assert exit_code(status) == code
    out = io.StringIO()
    assert show(server(status), out, as_json=True) == code and out.getvalue().startswith('{"at": ')


def test_watching() -> None:
    pauses = iter([None, None, KeyboardInterrupt()])

    def pause(seconds: float) -> None:
        error = next(pauses)
        if error is not None:
            raise error

    out = io.StringIO()
    assert watch(server(a_status(), Unavailable("away"), a_status()), out, 1.0, as_json=False, pause=pause) == 0
    screens = out.getvalue().split("\n\n")
    assert sum(screen.startswith("dfs cluster") for screen in screens) == 2 and "UTC: away" in out.getvalue()
    assert "\x1b" not in out.getvalue()


def test_watching_as_json_gives_one_object_a_line() -> None:
    def pause(seconds: float) -> None:
        if len(out.getvalue().splitlines()) == 2:
            raise KeyboardInterrupt

    out = io.StringIO()
    assert watch(server(a_status(), Unavailable("away")), out, 1.0, as_json=True, pause=pause) == 0
    first, second = out.getvalue().splitlines()
    assert first.startswith('{"at"') and second == '{"error": "away"}'


def test_a_terminal_gets_colours_and_is_cleared() -> None:
    def pause(seconds: float) -> None:
        raise KeyboardInterrupt

    out = Terminal()
    watch(server(a_status(a_node(1))), out, 1.0, as_json=False, pause=pause)
    assert out.getvalue().startswith("\x1b[H\x1b[J\x1b[1mdfs \x1b[0m") and "\x1b[32m● HEALTHY  \x1b[0m" in out.getvalue()


def test_an_answer_of_another_release_is_a_sentence() -> None:
    status = a_status()
    del status["repair"]
    with pytest.raises(LocalFailure, match="is it of another release"):
        show(server(status), io.StringIO(), as_json=False)
    assert show(server(status), io.StringIO(), as_json=True) == 0


def test_an_encoding_without_bars() -> None:
    class Ascii(io.StringIO):
        encoding = "ascii"

    assert glyphs_of(Ascii()).full == "#" and glyphs_of(Terminal()).full == "█"
    assert "* HEALTHY" in "\n".join(drawn(a_status(), Ascii()))
