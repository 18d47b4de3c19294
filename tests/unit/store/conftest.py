"""Stores on simulated disks, and on real directories."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dfs.store.store import ChunkStore
from tests.support.disk import MemoryIndex, SimDisk
from tests.support.store_model import open_store, quiet
from tests.unit.store.chunks import real_store


@pytest.fixture(autouse=True)
def _quiet() -> None:
    quiet()


@pytest.fixture
def disk() -> SimDisk:
    return SimDisk()


@pytest.fixture
def index() -> MemoryIndex:
    return MemoryIndex()


@pytest.fixture
def store(disk: SimDisk, index: MemoryIndex) -> ChunkStore:
    return open_store(disk, index)


@pytest.fixture
def real(tmp_path: Path) -> Iterator[ChunkStore]:
    """A store on a real directory, with its threads running."""
    opened = real_store(tmp_path)
    opened.start_maintenance()
    yield opened
    opened.close()
