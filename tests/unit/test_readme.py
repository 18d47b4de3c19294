"""The README says what is true."""

from __future__ import annotations

import configparser
import importlib
import re
from pathlib import Path

from tests.support.settings_table import table

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_table_of_settings_is_that_of_settings_py() -> None:
    assert table() in README, "replace it by what `python -m tests.support.settings_table` prints"


def test_every_file_that_it_names_exists() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target


def test_every_target_of_make_that_it_names_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    assert set(re.findall(r"`make ([a-z-]+)`", README)) <= targets


def test_every_console_script_leads_to_a_function() -> None:
    setup = configparser.RawConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    scripts = setup["options.entry_points"]["console_scripts"].strip().splitlines()
    assert {script.split(" = ")[0] for script in scripts} == {"dfs", "dfs-api", "dfs-node", "dfs-client", "dfs-admin"}
    for script in scripts:
        module, _, function = script.split(" = ")[1].partition(":")
        assert callable(getattr(importlib.import_module(module), function)), script
