"""dfs.node.disk: a data directory is looked at before anything is written to it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from dfs import logs
from dfs.errors import StartError
from dfs.model import ClusterInfo
from dfs.node import disk
from dfs.node.identity import Whereabouts
from dfs.settings import NodeSettings
from dfs.store.disk import OsDisk
from dfs.store.identity import create_identity, load_identity, lock_directory
from dfs.store.store import Report
from tests.unit.node.fakes import NODE

CLUSTER = ClusterInfo("c1", 1, 1)


class Opened(Exception):
    """The store was asked to open the directory."""


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data directory that is not there yet; the store ends each start with Opened."""

    def stop(directory: Path, identity: Any, options: Any, real: Any) -> None:
        lock_directory(directory).release()
        assert load_identity(directory) == identity
        assert options.volume_size == NodeSettings().volume_size
        assert isinstance(real, OsDisk)
        raise Opened

    monkeypatch.setattr(disk.ChunkStore, "open", stop)
    return tmp_path / "data" / "n1"


def open_disk(directory: Path, *registered: Any) -> None:
    where = Whereabouts("n1", "127.0.0.1", None, None, directory)
    disk.open_disk(NodeSettings(), where, CLUSTER, registered, on_fatal=lambda _: None)


def test_a_new_directory_is_made_and_given_an_identity(directory: Path) -> None:
    with pytest.raises(Opened):
        open_disk(directory)
    made = load_identity(directory)
    assert made is not None
    assert (made.node_id, made.cluster_id) == ("n1", "c1")
    assert directory.stat().st_mode & 0o077 == 0
    with pytest.raises(Opened):
        open_disk(directory)
    assert load_identity(directory) == made


def test_what_file_systems_and_cut_starts_leave_is_no_obstacle(directory: Path) -> None:
    for name in ("lost+found", "volumes"):
        (directory / name).mkdir(parents=True)
    for name in ("lock", "node.json.tmp"):
        (directory / name).touch()
    with pytest.raises(Opened):
        open_disk(directory)


def test_volumes_without_an_identity_are_not_written_to(directory: Path) -> None:
    (directory / "volumes").mkdir(parents=True)
    (directory / "volumes" / "1").touch()
    with pytest.raises(StartError, match=r"DFS_DATA_DIR=.* holds volume files but no node.json"):
        open_disk(directory)
    assert load_identity(directory) is None


def test_a_refused_directory_stays_as_it_was(directory: Path) -> None:
    with pytest.raises(StartError, match=r"no node\.json, but node n1 is registered"):
        open_disk(directory, NODE)
    assert [path.name for path in directory.iterdir()] == ["lock"]
    lock_directory(directory).release()


def test_a_directory_in_use_is_refused_before_it_is_looked_at(directory: Path) -> None:
    directory.mkdir(parents=True)
    lock = lock_directory(directory)
    with pytest.raises(StartError, match=f"^DFS_DATA_DIR={directory}: .* in use by another process"):
        open_disk(directory)
    lock.release()
    assert load_identity(directory) is None


def test_a_file_in_its_place_is_refused(directory: Path) -> None:
    directory.parent.mkdir()
    directory.touch()
    with pytest.raises(StartError, match=f"^DFS_DATA_DIR={directory}: the data directory cannot be used"):
        open_disk(directory)


def test_the_setting_is_named_once(directory: Path) -> None:
    directory.mkdir(parents=True)
    create_identity(directory, "n2", "c1")
    with pytest.raises(StartError) as refused:
        open_disk(directory)
    assert str(refused.value).count("DFS_DATA_DIR=") == 1


def test_what_the_store_finds_wrong_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    records: list[Any] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    monkeypatch.setattr(logs.LOGGER, "handlers", [Keep()])
    disk._log_report(Report("corrupt_chunk", "bit rot", 5, volume=3, offset=8, file_id="f", chunk_index=0))
    (record,) = records
    assert record.getMessage() == "disk.report"
    assert record.fields["kind"] == "corrupt_chunk"
