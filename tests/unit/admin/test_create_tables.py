"""`python -m dfs.admin create-tables`: output, exit codes, one-line errors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dfs.admin.__main__ import main
from dfs.metadata import open_metadata
from dfs.settings import CommonSettings, load

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    url = f"sqlite:///{tmp_path}/metadata.sqlite"
    monkeypatch.setenv("DFS_METADATA_URL", url)
    return url


def test_it_makes_the_tables_and_says_so_each_time(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["create-tables"]) == 0
    first = capsys.readouterr().out
    assert first.startswith("ready: cluster ") and url in first
    assert main(["create-tables", "--no-protect"]) == 0
    assert capsys.readouterr().out == first
    store = open_metadata(load(CommonSettings))
    assert store.cluster_info().cluster_id in first
    store.close()


def test_the_settings_come_from_a_file_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "dfs.conf"
    config.write_text(f"DFS_METADATA_URL=sqlite:///{tmp_path}/other.sqlite\n")
    assert main(["create-tables", "--config", str(config), "--show-settings"]) == 0
    assert f"DFS_METADATA_URL=sqlite:///{tmp_path}/other.sqlite" in capsys.readouterr().out
    assert not (tmp_path / "other.sqlite").exists()
    assert main(["create-tables", "--config", str(config)]) == 0
    assert (tmp_path / "other.sqlite").exists()


def test_errors_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DFS_METADATA_URL", f"sqlite:///{tmp_path}/no/such.sqlite")
    assert main(["create-tables"]) == 1
    monkeypatch.setenv("DFS_METADATA_URL", "mysql://")
    assert main(["create-tables"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all(line.startswith("dfs.admin: DFS_METADATA_URL") for line in lines)


def test_errors_of_the_tree_are_one_line_too(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from dfs.admin import create_tables
    from dfs.errors import Unavailable

    def unavailable(settings: object) -> None:
        raise Unavailable("metadata is away")

    monkeypatch.setattr(create_tables, "open_metadata", unavailable)
    assert main(["create-tables"]) == 1
    assert capsys.readouterr().err == "dfs.admin: metadata is away\n"


@pytest.mark.parametrize("arguments", [[], ["no-such-command"], ["create-tables", "--no-such-option"]])
def test_wrong_usage_exits_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2


def test_without_boto3_the_error_says_what_to_install() -> None:
    done = subprocess.run(
        [sys.executable, "-S", "-m", "dfs.admin", "create-tables"],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1 and "boto3" in done.stderr
