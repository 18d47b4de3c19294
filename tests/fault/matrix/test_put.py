"""A file is stored at a new path, and something fails at each step."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fault.matrix.storing import WAYS, examine


@pytest.mark.parametrize("cell", WAYS)
def test_put(tmp_path: Path, cell: str) -> None:
    examine(tmp_path, cell, over=False)
