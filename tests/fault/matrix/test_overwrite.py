"""A file takes the path of another, and something fails at each step: the path shows the one or the other."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fault.matrix.storing import WAYS, examine


@pytest.mark.parametrize("cell", WAYS)
def test_overwrite(tmp_path: Path, cell: str) -> None:
    examine(tmp_path, cell, over=True)
