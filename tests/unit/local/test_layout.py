"""What an embedded cluster consists of, and the directory that it is kept in."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from pathlib import Path

import pytest

from dfs.errors import StartError
from dfs.local import up
from dfs.local.layout import ClusterDirectory, Layout, NodeSlot
from dfs.local.up import _parser, choose_layout
from dfs.settings import ApiSettings

KEPT = Layout("sqlite", 2, 8123, (NodeSlot("node1", 4001), NodeSlot("node2", 4002)))
GONE = "999999999"  # above every process id that there can be


def choose(kept: Layout | None, *arguments: str) -> Layout:
    return choose_layout(kept, _parser().parse_args(arguments), ApiSettings(replication_factor=2))


def test_the_first_start_has_three_nodes_and_the_settings_factor() -> None:
    layout = choose(None)
    assert layout == Layout("sqlite", 2, 8080, tuple(NodeSlot(f"node{n}", 0) for n in (1, 2, 3)))


def test_a_later_start_keeps_everything() -> None:
    assert choose(KEPT) == KEPT


def test_the_command_line_beats_what_was_kept() -> None:
    layout = choose(KEPT, "--nodes", "3", "--replication-factor", "3", "--api-port", "0")
    assert layout == Layout("sqlite", 3, 0, (*KEPT.nodes, NodeSlot("node3", 0)))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--nodes", "1"), "--nodes 1: the cluster has 2 nodes, and each holds data"),
        (("--replication-factor", "3"), "3 replicas need 3 nodes, and there are 2"),
        (("--metadata", "dynamodb"), "keeps its metadata in sqlite"),
    ],
)
def test_what_cannot_be_is_refused(arguments: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(StartError) as caught:
        choose(KEPT, *arguments)
    assert sentence in str(caught.value)


@pytest.mark.parametrize("made", ["metadata.sqlite", "nodes/node1/node.json"])
def test_a_start_that_failed_before_there_was_anything_to_keep_binds_nobody(tmp_path: Path, made: str) -> None:
    directory = ClusterDirectory.open(tmp_path)
    directory.write(KEPT)
    assert directory.read() is None
    (tmp_path / made).parent.mkdir(exist_ok=True)
    (tmp_path / made).touch()
    assert directory.read() == KEPT
    directory.close()


def test_a_layout_is_read_as_it_was_written(tmp_path: Path) -> None:
    directory = ClusterDirectory.open(tmp_path)
    assert directory.read() is None
    (tmp_path / "metadata.sqlite").touch()
    directory.write(KEPT.with_port("api", 9).with_port("node2", 10))
    assert directory.read() == Layout("sqlite", 2, 9, (NodeSlot("node1", 4001), NodeSlot("node2", 10)))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "cluster.json", "lock", "log", "metadata.sqlite", "nodes", "run",
    ]  # fmt: skip
    directory.close()


@pytest.mark.parametrize(
    "change",
    [{"format": 2}, {"metadata": "mysql"}, {"nodes": [{"node_id": "../x", "port": 1}]}, {"nodes": 1}, {"api_port": None}],
)
def test_a_damaged_layout_is_refused_naming_the_file(tmp_path: Path, change: dict[str, object]) -> None:
    directory = ClusterDirectory.open(tmp_path)
    (tmp_path / "cluster.json").write_text(json.dumps(json.loads(KEPT.to_json()) | change))
    with pytest.raises(StartError) as caught:
        directory.read()
    assert str(tmp_path / "cluster.json") in str(caught.value)
    directory.close()


def test_a_full_disk_does_not_keep_a_cluster_from_starting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    ClusterDirectory.open(tmp_path).close()


def test_a_disk_that_fails_at_the_start_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "cluster.json.tmp")

    monkeypatch.setattr(ClusterDirectory, "write", fail)
    assert up.main(["--data", str(tmp_path), "--api-port", "0"]) == 1
    assert capsys.readouterr().err == f"dfs up: --data {tmp_path}: cluster.json.tmp: No space left on device\n"


def test_the_directory_belongs_to_one_process(tmp_path: Path) -> None:
    first = ClusterDirectory.open(tmp_path)
    with pytest.raises(StartError) as caught:
        ClusterDirectory.open(tmp_path)
    assert f"in use by process {os.getpid()}" in str(caught.value)
    first.close()
    ClusterDirectory.open(tmp_path).close()


@pytest.mark.parametrize("holder", [GONE, "9" * 20, "nobody", ""])
def test_what_an_earlier_cluster_left_is_waited_for_but_not_for_ever(tmp_path: Path, holder: str) -> None:
    (tmp_path / "lock").write_text(holder)
    with open(tmp_path / "lock") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(StartError) as caught:
            ClusterDirectory.open(tmp_path, patience=0.1)
    assert "processes that an earlier cluster left" in str(caught.value)


def test_a_holder_that_belongs_to_someone_else_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_pid: int, _number: int) -> None:
        raise PermissionError

    first = ClusterDirectory.open(tmp_path)
    monkeypatch.setattr(os, "kill", refuse)
    with pytest.raises(StartError, match="in use by process"):
        ClusterDirectory.open(tmp_path)
    first.close()
