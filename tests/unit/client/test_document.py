"""docs/client.md tells of every command, option and exit code."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from dfs.client.arguments import build_parser
from dfs.client.exits import Exit

TEXT = (Path(__file__).resolve().parents[3] / "docs" / "client.md").read_text(encoding="utf-8")


def commands() -> dict[str, argparse.ArgumentParser]:
    found = [each for each in build_parser("x")._actions if isinstance(each, argparse._SubParsersAction)]
    return dict(found[0].choices)


def options() -> Iterator[str]:
    for name, parser in commands().items():
        for action in parser._actions:
            if action.option_strings and action.dest != "help":
                long = [each for each in action.option_strings if each.startswith("--")]
                yield from (f"{name} {each}" for each in long[:1] or action.option_strings[:1])


def test_every_command_is_documented() -> None:
    for name in commands():
        assert f"`{name}" in TEXT


@pytest.mark.parametrize("option", sorted({each.split()[1] for each in options()} - {"--recursive", "--long"}))
def test_every_option_is_documented(option: str) -> None:
    assert f"`{option}" in TEXT or f"[{option[1:]}" in TEXT


def test_every_exit_code_is_documented() -> None:
    for code in Exit:
        assert f"| {int(code)} |" in TEXT


def test_the_examples_are_legal_command_lines() -> None:
    count = 0
    for line in TEXT.splitlines():
        _, found, rest = line.partition("dfs-client ")
        if found and "`" not in line and not line.startswith("It needs"):
            words = shlex.split(rest.partition(" | ")[0].partition(";")[0], comments=True)
            build_parser("x").parse_args(words)
            count += 1
    assert count > 12
