"""A SQLite store for the tests of what stands above a store, and no pauses between tries."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dfs.metadata import attempts
from dfs.metadata.sqlite import SqliteStore


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    opened = SqliteStore(str(tmp_path / "metadata.sqlite"))
    opened.create()
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "_LONGEST_PAUSE", 0.0)
