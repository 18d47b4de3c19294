"""`purge-trash`: asks first, goes step by step, says what went."""

from __future__ import annotations

import argparse
import io
from typing import Any
from urllib.parse import parse_qsl

import pytest

from dfs.admin import purge_trash
from dfs.admin.__main__ import build_parser, main
from dfs.admin.server import Server
from dfs.errors import BadPath
from dfs.settings import AdminSettings
from tests.unit.admin.test_server import Wire, answer


class Asked(Wire):
    """Steps of two files each, of the plan and of the work; `queries` are what was asked."""

    def __init__(self, steps: int = 2) -> None:
        one = [
            answer({"files": 2, "bytes": 1024, "cursor": str(number) if number < steps else None})
            for number in range(1, steps + 1)
        ]
        again = [
            answer({"files": 2, "bytes": 1024, "cursor": str(number) if number < steps else None})
            for number in range(1, steps + 1)
        ]
        super().__init__(*one, *again)

    @property
    def queries(self) -> list[dict[str, str]]:
        return [dict(parse_qsl(target.partition("?")[2])) for _, _, target, _ in self.asked]


def command(monkeypatch: pytest.MonkeyPatch, wire: Wire, *argv: str) -> int:
    def connect(settings: AdminSettings, arguments: argparse.Namespace) -> Server:
        return Server("http://a:1", transport=wire)

    monkeypatch.setattr(purge_trash, "connect", connect)
    arguments = build_parser().parse_args(["purge-trash", *argv])
    return int(arguments.run(AdminSettings(), arguments))


def test_a_plan_goes_through_all_steps_and_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wire = Asked()
    assert command(monkeypatch, wire, "--plan", "--bucket", "b", "--older-than", "1d") == 0
    first = {"bucket": "b", "older_than": "1d", "plan": "1"}
    assert wire.queries == [first, first | {"cursor": "1"}]
    assert capsys.readouterr().out == "in the trash of bucket b for longer than 1d: 4 files, 2.0 KiB (of one copy each)\n"


def test_with_yes_it_is_done(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    wire = Asked()
    assert command(monkeypatch, wire, "--yes") == 0
    assert wire.queries[2:] == [{}, {"cursor": "1"}]
    assert "deleted for good: 4 files" in capsys.readouterr().out


def test_without_yes_a_script_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    wire = Asked(steps=1)
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert command(monkeypatch, wire) == 2
    assert len(wire.asked) == 1 and "--yes" in capsys.readouterr().err


class Typed(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("typed", "calls"), [("y", 2), ("YES", 2), ("", 1), ("n", 1), ("yep", 1)])
def test_somebody_at_a_terminal_is_asked(monkeypatch: pytest.MonkeyPatch, typed: str, calls: int) -> None:
    wire = Asked(steps=1)
    monkeypatch.setattr("sys.stdin", Typed(typed + "\n"))
    assert command(monkeypatch, wire) == 0
    assert len(wire.asked) == calls


def test_an_empty_trash_is_not_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = Wire(answer({"files": 0, "bytes": 0, "cursor": None}))
    assert command(monkeypatch, wire, "--yes") == 0


@pytest.mark.parametrize("argv", [["--older-than", "soon"], ["--older-than", "-1"]])
def test_a_wrong_age_is_a_usage_error(argv: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["purge-trash", *argv])
    assert ended.value.code == 2


def test_a_wrong_bucket_is_said_before_anything_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    wire: Any = Wire()
    with pytest.raises(BadPath):
        command(monkeypatch, wire, "--bucket", "No")
