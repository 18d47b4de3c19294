"""docs/failures.md as data: operation, step and fault lead to a cell.

A section `### operation: step` holds one table. Its first column names one or more faults; the others
say what the client sees, what is on disk and in the metadata, what happens next, and which tests show
it. A cell that cannot happen says `Cannot happen: ...` in its second column and nothing more.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

OPERATIONS = ("put", "overwrite", "delete", "move", "repair", "drain", "compaction")
FAULTS = (
    "process killed",
    "power lost",
    "disk full",
    "disk error",
    "peer dead",
    "peer slow",
    "reply lost",
    "metadata unavailable",
)
CANNOT = "Cannot happen: "
_SECTION = re.compile(r"### (\w+): ([\w, -]+)\Z")
_TEST = re.compile(r"`(tests/[\w/]+\.py::[^`]+)`")


class Malformed(ValueError):
    """The document breaks its own rules; the message says where."""


@dataclass(frozen=True)
class Cell:
    operation: str
    step: str
    fault: str
    client: str
    stored: str
    then: str
    tests: tuple[str, ...]

    @property
    def cannot_happen(self) -> bool:
        return self.client.startswith(CANNOT)

    def __str__(self) -> str:
        return f"{self.operation}: {self.step}, {self.fault}"


def parse(text: str) -> list[Cell]:
    """All cells, in order; raises Malformed."""
    cells: list[Cell] = []
    section: tuple[str, str] | None = None
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("#"):
            named = _SECTION.match(line)
            section = (named[1], named[2]) if named else None
        elif section is not None and line.startswith("|"):
            cells += _row(section, line, number)
    return cells


def _row(section: tuple[str, str], line: str, number: int) -> Iterator[Cell]:
    columns = [column.strip() for column in line.strip().strip("|").split("|")]
    if columns[0] == "fault" or set(columns[0]) <= set("- :"):
        return
    if len(columns) != 5:
        raise Malformed(f"line {number}: a row has five columns, this one {len(columns)}")
    faults, client, stored, then, named = columns
    tests = tuple(_TEST.findall(named))
    for fault in faults.split(", "):
        cell = Cell(*section, fault, client, stored, then, tests)
        if fault not in FAULTS:
            raise Malformed(f"line {number}: {fault!r} is no fault of the matrix")
        if cell.cannot_happen:
            if stored or then or named or len(client) < len(CANNOT) + 10:
                raise Malformed(f"line {number}: {cell} says that it cannot happen: a reason, and nothing else")
        elif not (client and stored and then and tests):
            raise Malformed(f"line {number}: {cell} lacks what the client sees, what is stored, what is next or a test")
        yield cell


def gaps(cells: list[Cell]) -> list[str]:
    """What is missing or said twice: of every step of every operation all faults once."""
    found = []
    seen = [(cell.operation, cell.step, cell.fault) for cell in cells]
    steps = {(operation, step) for operation, step, _ in seen}
    for operation in OPERATIONS:
        if not any(named == operation for named, _ in steps):
            found.append(f"{operation} has no step")
    for operation, step in sorted(steps):
        if operation not in OPERATIONS:
            found.append(f"{operation!r} is no operation of the matrix")
        for fault in FAULTS:
            count = seen.count((operation, step, fault))
            if count != 1:
                found.append(f"{operation}: {step}, {fault} is there {count} times")
    return found
