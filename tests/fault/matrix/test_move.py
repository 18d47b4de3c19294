"""A file takes another path, where one is in its way, and something fails at each step."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fault.matrix.rebinding import Rebinding, examine, ways

WAYS = ways("move")


@pytest.mark.parametrize("cell", WAYS)
def test_move(tmp_path: Path, cell: str) -> None:
    for number, way in enumerate(WAYS[cell]):
        # A process to kill is dear; the other fate of a kill is looked at by the tests of delete.
        for fate in ("repeated",) if way.answer is None else ("repeated", "given up"):
            query = {"move_to": Rebinding.target, "overwrite": "1"}
            examine(tmp_path / f"{number}-{fate}", way, query, fate)
