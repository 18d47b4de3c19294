"""The offline check finds what is wrong, says where, and writes nothing."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from dfs.errors import StartError
from dfs.store.check import check_directory
from dfs.store.disk import OsDisk
from dfs.store.volume import volume_name
from tests.unit.store.chunks import FILE, OTHER, put, real_store


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    store = real_store(tmp_path, volume_size=4096)
    for number in range(10):
        put(store, number, b"x" * 700)
    put(store, 0, b"y", OTHER)
    store.drop(FILE, 3)
    store.erase([OTHER])
    store.note([{"file_id": FILE}])
    store.compact([1])
    store.close()
    return tmp_path


def snapshot(directory: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def volumes(directory: Path) -> list[Path]:
    return sorted((directory / "volumes").iterdir())


def test_a_good_directory_is_found_good_and_left_as_it_is(directory: Path) -> None:
    before = snapshot(directory)
    report = check_directory(directory)
    assert report.ok, report.lines()
    assert snapshot(directory) == before
    assert (report.chunks, report.erased, report.notes) == (9, 1, 1)
    assert report.index == "agrees"
    assert report.volumes == len(volumes(directory))
    assert report.identity is not None
    text = "\n".join(report.lines())
    assert "result     good" in text
    assert "node n1" in text


def test_a_corrupt_chunk_is_named_with_its_place(directory: Path) -> None:
    path = volumes(directory)[0]
    data = bytearray(path.read_bytes())
    place = data.index(b"x" * 700)
    data[place + 5] ^= 1
    path.write_bytes(data)
    report = check_directory(directory)
    [problem] = report.problems
    assert problem.kind == "body"
    assert problem.file_id == FILE
    assert problem.offset is not None and problem.end is not None
    assert problem.offset < place < problem.end
    assert path.name in str(problem)
    assert FILE in str(problem)
    assert report.lines()[-1] == "result     1 problems"


def test_spoilt_headers_padding_and_ends_are_found(directory: Path) -> None:
    originals = {path: path.read_bytes() for path in volumes(directory)}
    compacted = volumes(directory)[-1]
    for path, original in originals.items():
        for spoilt in (
            bytes([original[0] ^ 1]) + original[1:],
            original[:-136],
            original[:-1],
            original + b"garbage!",
            original[:-8] + b"\1" + original[-7:],
        ):
            path.write_bytes(spoilt)
            report = check_directory(directory)
            assert not report.ok, (path.name, compacted.name)
            path.write_bytes(original)
    assert check_directory(directory).ok


def test_a_set_bit_in_padding_is_found(directory: Path) -> None:
    path = volumes(directory)[0]
    data = bytearray(path.read_bytes())
    place = data.index(b"x" * 700) + 700
    assert data[place : place + 4] == bytes(4)
    data[place + 1] = 8
    path.write_bytes(data)
    assert [problem.kind for problem in check_directory(directory).problems] == ["padding"]


def test_a_missing_index_is_no_problem_and_a_wrong_one_is(directory: Path) -> None:
    index = directory / "index.db"
    data = index.read_bytes()
    os.unlink(index)
    report = check_directory(directory)
    assert report.ok
    assert report.index.startswith("missing")
    index.write_bytes(b"nonsense" * 500)
    report = check_directory(directory)
    assert [problem.kind for problem in report.problems] == ["index"]
    index.write_bytes(data)
    assert check_directory(directory).ok


def test_an_index_that_is_behind_is_no_problem(tmp_path: Path) -> None:
    store = real_store(tmp_path)
    put(store, 0)
    store.inventory(0, 1)
    put(store, 1)
    with pytest.raises(StartError, match="in use"):
        check_directory(tmp_path)
    assert store._lock is not None
    store._lock.release()  # as if the process had been killed
    report = check_directory(tmp_path)
    assert report.ok, report.lines()
    assert report.index.startswith("behind by 1 ")
    assert report.chunks == 2


def test_an_index_that_disagrees_is_told_row_by_row(directory: Path) -> None:
    store = real_store(directory, volume_size=4096)
    index = store._parts.catalog.index
    assert index is not None
    first, second = index.chunks_after(0, 2)
    index.apply([first._replace(sequence=first.sequence + 1000, offset=second.offset)])
    store.close()
    report = check_directory(directory)
    assert report.index.startswith("disagrees in")
    assert any("it names, but it is not there" in str(problem) for problem in report.problems)
    assert any("it does not name it" in str(problem) for problem in report.problems)


def test_volumes_that_are_missing_foreign_or_of_another_life(
    directory: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("other")
    other = real_store(elsewhere)
    put(other)
    other.close()
    path = volumes(directory)[0]
    data = path.read_bytes()
    os.unlink(path)
    assert any("it is not there" in str(problem) for problem in check_directory(directory).problems)
    path.write_bytes(volumes(elsewhere)[0].read_bytes())
    problems = check_directory(directory).problems
    assert any("belongs to disk" in str(problem) for problem in problems)
    path.write_bytes(data)
    (directory / "node.json").write_text("{")
    assert [problem.kind for problem in check_directory(directory).problems][0] == "identity"
    os.unlink(directory / "node.json")
    assert [problem.kind for problem in check_directory(directory).problems][0] == "identity"


def test_a_volume_of_another_life_is_noticed(
    directory: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("other")
    (elsewhere / "node.json").write_bytes((directory / "node.json").read_bytes())
    other = real_store(elsewhere)
    put(other)
    other.close()
    path = volumes(directory)[0]
    (directory / "volumes" / path.name).write_bytes(volumes(elsewhere)[0].read_bytes())
    assert any(
        "another volume by this number" in str(problem) for problem in check_directory(directory).problems
    )


def test_a_directory_without_volumes(tmp_path: Path) -> None:
    report = check_directory(tmp_path)
    assert report.volumes == 0
    assert "identity   none" in report.lines()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(StartError, match="not a directory"):
        check_directory(tmp_path / "missing")


def test_a_disk_that_cannot_read_a_body_is_a_problem(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(file: object, record: object) -> bool:
        raise OSError(5, "I/O error")

    monkeypatch.setattr("dfs.store.check.body_is_good", unreadable)
    report = check_directory(directory, OsDisk())
    assert {problem.kind for problem in report.problems} == {"body"}


def test_a_comparison_that_cannot_be_made_is_said(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(found: object, fresh: object) -> list[str]:
        raise sqlite3.DatabaseError("malformed")

    monkeypatch.setattr("dfs.store.check.compare_indexes", broken)
    assert any("cannot be read: malformed" in str(problem) for problem in check_directory(directory).problems)


def test_names_of_volumes_sort_like_their_numbers() -> None:
    assert volume_name(7) == "0000000007.vol"
