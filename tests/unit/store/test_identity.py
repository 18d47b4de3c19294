"""node.json and the lock of a data directory."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from dfs.errors import StartError
from dfs.store.disk import DiskFile, OsDisk
from dfs.store.identity import create_identity, load_identity, lock_directory, lock_for_reading


def test_an_identity_is_made_once_and_read_again(tmp_path: Path) -> None:
    assert load_identity(tmp_path) is None
    assert load_identity(tmp_path / "missing") is None
    made = create_identity(tmp_path, "n1", "c1")
    assert load_identity(tmp_path) == made
    assert (made.node_id, made.cluster_id, made.format) == ("n1", "c1", 1)
    assert [path.name for path in tmp_path.iterdir()] == ["node.json"]
    with pytest.raises(StartError, match="already is the disk"):
        create_identity(tmp_path, "n1", "c1")


def test_two_directories_are_two_disks(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    made = [create_identity(tmp_path / name, "n1", "c1") for name in "ab"]
    assert made[0].disk_id != made[1].disk_id


def test_volumes_without_an_identity_are_not_taken_over(tmp_path: Path) -> None:
    (tmp_path / "volumes").mkdir()
    (tmp_path / "volumes" / "0000000001.vol").write_bytes(b"x")
    with pytest.raises(StartError, match="restore node.json"):
        create_identity(tmp_path, "n1", "c1")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "\xff",
        '{"node_id": "n1"}',
        '{"node_id": "../x", "disk_id": "D", "cluster_id": "c", "format": 1}',
        '{"node_id": "n1", "disk_id": "D", "cluster_id": 1, "format": 1}',
        '{"node_id": "n1", "disk_id": "D", "cluster_id": "c", "format": "1"}',
        '{"node_id": "n1", "disk_id": "D", "cluster_id": "c", "format": 0}',
        '{"node_id": "n1", "disk_id": "D", "cluster_id": "c", "format": true}',
        '{"node_id": "n1", "disk_id": "nothing", "cluster_id": "c", "format": 1}',
        '{"node_id": "n1", "disk_id": "D", "cluster_id": "c", "format": 1, "crc": "00000000"}',
    ],
)
def test_a_damaged_identity_stops_the_start(text: str, tmp_path: Path) -> None:
    (tmp_path / "node.json").write_bytes(text.replace('"D"', f'"{"0" * 32}"').encode("latin-1"))
    with pytest.raises(StartError, match="is damaged"):
        load_identity(tmp_path)


def test_an_identity_restored_by_hand_needs_no_checksum(tmp_path: Path) -> None:
    made = create_identity(tmp_path, "n1", "c1")
    fields = json.loads((tmp_path / "node.json").read_text())
    del fields["crc"]
    (tmp_path / "node.json").write_text(json.dumps(fields))
    assert load_identity(tmp_path) == made


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    create_identity(tmp_path, "n1", "c1")
    fields = json.loads((tmp_path / "node.json").read_text()) | {"format": 2}
    del fields["crc"]
    (tmp_path / "node.json").write_text(json.dumps(fields))
    with pytest.raises(StartError, match="start a newer release"):
        load_identity(tmp_path)


def test_an_unreadable_identity_is_not_taken_for_none(tmp_path: Path) -> None:
    (tmp_path / "node.json").mkdir()
    with pytest.raises(StartError, match="cannot be read"):
        load_identity(tmp_path)


def test_a_leftover_of_an_interrupted_creation_is_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / "node.json.tmp").write_text("half")
    made = create_identity(tmp_path, "n1", "c1")
    assert load_identity(tmp_path) == made


def test_a_directory_that_cannot_be_written_is_said_to_be(tmp_path: Path) -> None:
    class Full(OsDisk):
        def create(self, path: str) -> DiskFile:
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StartError, match="No space left"):
        create_identity(tmp_path, "n1", "c1", Full())


def test_one_process_has_the_directory(tmp_path: Path) -> None:
    lock = lock_directory(tmp_path)
    with pytest.raises(StartError, match="in use by another process"):
        lock_directory(tmp_path)
    with pytest.raises(StartError, match="in use by another process"):
        lock_for_reading(tmp_path)
    lock.release()
    lock.release()
    lock_directory(tmp_path).release()


def test_reading_leaves_no_trace(tmp_path: Path) -> None:
    lock_for_reading(tmp_path).release()
    assert list(tmp_path.iterdir()) == []
    lock_directory(tmp_path).release()
    reading = lock_for_reading(tmp_path)
    with pytest.raises(StartError, match="in use"):
        lock_directory(tmp_path)
    reading.release()


def test_a_lock_that_cannot_be_opened_is_said_to_be(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    with pytest.raises(StartError, match="cannot be opened"):
        lock_directory(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(StartError, match="cannot be read"):
        lock_for_reading(tmp_path / "file")
