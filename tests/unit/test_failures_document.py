"""docs/failures.md is complete, and every test that it names exists."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.failure_matrix import FAULTS, OPERATIONS, Cell, Malformed, gaps, parse

ROOT = Path(__file__).resolve().parents[2]
MATRIX = "tests/fault/matrix"


@pytest.fixture(scope="module")
def cells() -> list[Cell]:
    return parse((ROOT / "docs" / "failures.md").read_text(encoding="utf-8"))


def collected(files: set[str]) -> set[str]:
    """The ids of all tests in `files`, with and without their parameters."""
    listed = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *sorted(files)],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
        capture_output=True,
        text=True,
    )
    ids = {line for line in listed.stdout.splitlines() if "::" in line}
    assert listed.returncode == 0, listed.stdout + listed.stderr
    return ids | {name.partition("[")[0] for name in ids}


def test_every_step_of_every_operation_meets_every_fault(cells: list[Cell]) -> None:
    assert gaps(cells) == []


def test_every_test_named_exists_and_every_test_of_the_matrix_is_named(cells: list[Cell]) -> None:
    named = {test for cell in cells for test in cell.tests}
    missing = {test for test in named if not (ROOT / test.partition("::")[0]).is_file()}
    assert not missing, f"named, and there is no such file: {sorted(missing)}"
    existing = collected({test.partition("::")[0] for test in named} | {MATRIX})
    assert not named - existing, f"named, and there is no such test: {sorted(named - existing)}"
    own = {test for test in existing if test.startswith(MATRIX) and (test.endswith("]") or f"{test}[" not in existing)}
    parametrised = {test.partition("[")[0] for test in own if test.endswith("]")}
    unnamed = {test for test in own - parametrised if test not in named and test.partition("[")[0] not in named}
    assert not unnamed, f"tests of the matrix that no cell names: {sorted(unnamed)}"


def row(*columns: str) -> str:
    return "### put: commit\n| " + " | ".join(columns) + " |"


GOOD = ("disk full", "503", "nothing", "a repeat succeeds", "`tests/a.py::test_b[c d]`, `tests/a.py::test_e`")


def test_a_row_may_name_several_faults_and_tests() -> None:
    cells = parse(row("disk full, disk error", *GOOD[1:]))
    assert [cell.fault for cell in cells] == ["disk full", "disk error"]
    assert cells[0].tests == ("tests/a.py::test_b[c d]", "tests/a.py::test_e")
    assert cells[0].step == "commit" and not cells[0].cannot_happen
    assert parse(row("disk full", "Cannot happen: no disk takes part", "", "", ""))[0].cannot_happen


@pytest.mark.parametrize("part", range(1, 5))
def test_a_cell_without_one_of_its_parts_is_refused(part: int) -> None:
    columns = list(GOOD)
    columns[part] = "" if part < 4 else "some test"
    with pytest.raises(Malformed, match="lacks"):
        parse(row(*columns))


def test_other_mistakes_are_refused() -> None:
    with pytest.raises(Malformed, match="five columns"):
        parse(row(*GOOD[1:]))
    with pytest.raises(Malformed, match="no fault"):
        parse(row("fire", *GOOD[1:]))
    for wrong in (("Cannot happen: no", "", "", ""), ("Cannot happen: no disk takes part", "x", "", "")):
        with pytest.raises(Malformed, match="a reason, and nothing else"):
            parse(row("disk full", *wrong))


def test_gaps_are_found() -> None:
    complete = [Cell(name, "step", fault, "a", "b", "c", ("d",)) for name in OPERATIONS for fault in FAULTS]
    assert gaps(complete) == []
    assert gaps(complete[1:]) == ["put: step, process killed is there 0 times"]
    assert gaps([*complete, complete[0]]) == ["put: step, process killed is there 2 times"]
    assert "drain has no step" in gaps([cell for cell in complete if cell.operation != "drain"])
    assert any("'cook'" in gap for gap in gaps([*complete, Cell("cook", "a", "disk full", "", "", "", ())]))
