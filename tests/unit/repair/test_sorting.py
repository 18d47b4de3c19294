"""Facts sorted on disk: order, bounds of memory and disk, and clear words when the disk is full."""

from __future__ import annotations

import os
import random
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

import pytest

from dfs.errors import Unavailable
from dfs.model import new_file_id
from dfs.repair import sorting as module
from dfs.repair.sorting import Fact, FactKind, Sorting, file_id_of, file_key


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_facts_come_back_in_the_order_of_their_keys() -> None:
    seed = random.randrange(1 << 30)
    print("seed", seed)
    chance = random.Random(seed)
    facts = [
        Fact(chance.randbytes(16), chance.randrange(-1, 1 << 40), kind, chance.randrange(3), b"x", 1, 2, 3)
        for _ in range(300)
        for kind in FactKind
    ]
    with closing(Sorting()) as sorting:
        for start in range(0, len(facts), 7):
            sorting.add(facts[start : start + 7])
        sorting.add([])
        assert list(sorting.sorted()) == sorted(facts, key=lambda fact: fact[:4])


def test_file_ids_come_back_as_they_were() -> None:
    file_id = new_file_id()
    assert file_id_of(file_key(file_id)) == file_id
    for wrong in ("", "xyz", file_id + "00"):
        with pytest.raises(ValueError):
            file_key(wrong)


def test_nothing_is_left_in_the_directory_even_while_it_works(directory: Path) -> None:
    with closing(Sorting()) as sorting:
        sorting.add([Fact(b"f" * 16, 0, 1, 0, b"x" * 32, 1, 0, 0)] * 1000)
        assert os.listdir(directory) == []
        assert sum(1 for _ in sorting.sorted()) == 1000
    assert os.listdir(directory) == []


def test_too_little_room_is_said_before_anything_is_done(directory: Path) -> None:
    with pytest.raises(Unavailable, match=f"{directory} has .* MiB free .* TMPDIR"):
        Sorting(expected=1 << 50)


def test_a_disk_that_fills_up_meanwhile(directory: Path) -> None:
    with closing(Sorting()) as sorting:
        sorting._database.execute("PRAGMA max_page_count = 20")
        with pytest.raises(Unavailable, match="cannot be written .*full.*make room"):
            for _ in range(100):
                sorting.add([Fact(os.urandom(16), 0, 1, 0, b"x" * 32, 1, 0, 0)] * 1000)


def test_a_directory_that_cannot_be_written(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> tuple[int, str]:
        raise PermissionError("read-only file system")

    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    with pytest.raises(Unavailable, match="read-only file system"):
        Sorting()


def test_sorting_that_is_interrupted_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_STEPS_BETWEEN_LOOKS", 10)
    stop = [False]
    with closing(Sorting(interrupted=lambda: stop[0])) as sorting:
        sorting.add([Fact(os.urandom(16), 0, 1, 0, b"x" * 32, 1, 0, 0) for _ in range(1000)])
        stop[0] = True
        with pytest.raises(InterruptedError):
            list(sorting.sorted())


def test_an_error_of_the_database_is_told_as_what_it_is() -> None:
    sorting = Sorting()
    sorting.close()
    sorting.close()
    with pytest.raises(Unavailable, match="closed") as caught:
        sorting.add([Fact(b"", 0, 1, 0, b"", 1, 0, 0)])
    assert isinstance(caught.value.__cause__, sqlite3.Error)
