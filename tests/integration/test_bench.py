"""The bench as it is called: a short run leaves figures, an interrupted one leaves nothing running."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench import machine
from tests.bench.report import Report
from tests.support import needs

ROOT = Path(__file__).resolve().parents[2]


def _start(tmp_path: Path, *arguments: str) -> subprocess.Popen[str]:
    data = tmp_path / "data"
    data.mkdir()
    command = [sys.executable, "-m", "tests.bench", "--quick", "--no-touch", "--data", str(data), *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_short_run_leaves_figures_a_table_and_a_plot(tmp_path: Path) -> None:
    process = _start(tmp_path, "--seconds", "0.05", "--only", "T 1 KiB, 1 client",
                     "--json", str(tmp_path / "b.json"), "--svg", str(tmp_path / "b.svg"))  # fmt: skip
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    report = Report.read(tmp_path / "b.json")
    for figure in ("PUT 1 KiB, 1 client", "GET 1 KiB, 1 client"):
        sample = report.sample(figure, "dfs")
        assert sample is not None and sample.rate > 0
        assert figure in out
    assert json.loads((tmp_path / "b.json").read_text())["medians"]["PUT 1 KiB, 1 client"]["dfs"]["rate"] > 0
    assert (tmp_path / "b.svg").read_text().startswith("<svg")
    assert list((tmp_path / "data").iterdir()) == []
    shown = subprocess.run(
        [sys.executable, "-m", "tests.bench", "--from", str(tmp_path / "b.json"), "--markdown", str(tmp_path / "b.md")],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert shown.stdout == out
    assert "| PUT 1 KiB, 1 client |" in (tmp_path / "b.md").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    needs.linux()
    process = _start(tmp_path, "--seconds", "60", "--only", "PUT 1 KiB, 1 client")
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("--- run"):
            break
    started = [found.pid for found in machine.family([process.pid])]
    assert len(started) > 5  # the cluster and the workers are among them
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    left = machine.processes()
    assert [left[pid].command for pid in started if pid in left and left[pid].command] == []
    assert list((tmp_path / "data").iterdir()) == []
