"""dfs.logs: one line an event, whatever the values hold."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator

import pytest

from dfs import logs


@pytest.fixture(autouse=True)
def _logger() -> Iterator[None]:
    before = (list(logs.LOGGER.handlers), logs.LOGGER.level, logs.LOGGER.propagate)
    yield
    logs.LOGGER.handlers[:], logs.LOGGER.propagate = before[0], before[2]
    logs.LOGGER.setLevel(before[1])


def test_a_text_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("node", "text", "info")
    logs.event("chunk.stored", file_id="f", bytes=3, path="a b", empty="", quote='"', equals="a=b")
    line = capsys.readouterr().err
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z info node chunk\.stored "
        r'file_id=f bytes=3 path="a b" empty="" quote="\\"" equals="a=b"\n',
        line,
    )


def test_a_value_cannot_begin_a_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("node", "text", "info")
    logs.event("request", target="x\n2024-01-01 error node forged", escape="\x1b[31m", separator="\u2028")
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_json_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("api", "json", "debug")
    logs.warning("disk.slow", seconds=1.5, what=object, path="a\nb")
    line = json.loads(capsys.readouterr().err)
    assert line["level"] == "warning"
    assert line["role"] == "api"
    assert line["event"] == "disk.slow"
    assert line["seconds"] == 1.5
    assert line["path"] == "a\nb"


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_traceback_stays_on_the_events_line(log_format: str, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("api", log_format, "info")
    try:
        raise ValueError("inner")
    except ValueError as error:
        logs.error("request.failed", exc=error)
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "ValueError: inner" in line
    assert "Traceback" in line


def test_less_severe_events_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("api", "text", "error")
    logs.event("a")
    logs.warning("b")
    logs.event("c", level=logging.ERROR)
    assert [line.split()[-1] for line in capsys.readouterr().err.splitlines()] == ["c"]


def test_configuring_again_replaces_the_handler(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("api", "text", "info")
    logs.configure("api", "text", "info")
    logs.event("once")
    assert len(capsys.readouterr().err.splitlines()) == 1
