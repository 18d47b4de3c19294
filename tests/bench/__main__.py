"""`python -m tests.bench [--quick] [--runs N] [--json FILE]`: figures of an embedded cluster.

Three nodes, factor 2, strategy sync, fdatasync on. Load comes from separate processes. Each figure
is the median of the runs; ratios are to what the machine did in the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.bench import limits, load

KIB, MIB = 1 << 10, 1 << 20
ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def cluster(directory: Path) -> Iterator[int]:
    """An embedded cluster; yields the API's port."""
    command = [sys.executable, "-m", "dfs", "up", "--data", str(directory / "cluster"), "--api-port", "0"]
    with (directory / "up.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line.startswith("ready "):
                raise SystemExit(f"the cluster did not start: {(directory / 'up.log').read_text()}")
            yield int(line.rsplit(":", 1)[1])
        finally:
            process.terminate()
            process.wait(60)


def counts(quick: bool) -> dict[int, int]:
    """Operations per size and run (all clients together)."""
    scale = 1 if quick else 4
    return {KIB: 2000 * scale, 64 * KIB: 1000 * scale, MIB: 128 * scale, 64 * MIB: 8 * scale}


def name_of(size: int) -> str:
    return f"{size // MIB} MiB" if size >= MIB else f"{size // KIB} KiB"


def measure_files(port: int, run: int, quick: bool) -> Iterator[tuple[str, load.Measured, int]]:
    """PUT and GET of each size at 1 and 8 clients."""
    for size, total in counts(quick).items():
        for clients in (1, 8):
            each = max(1, total // 8 if clients == 8 else total // 4)
            prefix = f"bench/{run}/{size}/{clients}"
            for kind in ("put", "get"):
                jobs = [load.Job(kind, each, size, prefix) for _ in range(clients)]
                measured = load.run(jobs, "127.0.0.1", port)
                yield f"{kind.upper()} {name_of(size)}, {clients} client{'s' * (clients > 1)}", measured, size


def measure_seed(port: int, quick: bool) -> Iterator[tuple[str, load.Measured, int]]:
    """The seed protocol: 1,024-byte chunks over 64 connections."""
    total = 4096 if quick else 16384
    plan: Any = load.call_json(
        "127.0.0.1", port, "POST", "/init-upload", {"filename": "bench", "size": total * KIB, "chunk_size": KIB}
    )
    targets = [item["url"].split("/", 3)[3] for item in plan["upload_targets"]]
    jobs = [load.Job("send-chunks", total // 64, KIB, "", ["/" + t for t in targets[i::64]]) for i in range(64)]
    yield "seed upload, 1 KiB chunks, 64 connections", load.run(jobs, "127.0.0.1", port), KIB
    file_id = plan["file_id"]
    load.call_json("127.0.0.1", port, "POST", "/finalize-upload", {"file_id": file_id})
    chunks: Any = load.call_json("127.0.0.1", port, "GET", f"/download-plan?file_id={file_id}")
    targets = [item["url"].split("/", 3)[3] for item in chunks]
    jobs = [load.Job("fetch-chunks", total // 64, KIB, "", ["/" + t for t in targets[i::64]]) for i in range(64)]
    yield "seed download, 1 KiB chunks, 64 connections", load.run(jobs, "127.0.0.1", port), KIB


def machine(directory: Path, quick: bool) -> dict[str, float]:
    size = (64 if quick else 256) * MIB
    return {
        "raw write + fdatasync, MB/s": limits.disk_write_rate(directory, size) / 1e6,
        "4 KiB append + fdatasync, 1/s": limits.sync_rate(directory, 200),
        "sha256, MB/s": limits.hash_rate(size) / 1e6,
        "loopback copy, MB/s": limits.loopback_rate(size) / 1e6,
    }


def figure(value: float) -> str:
    """Three digits or more: `1.25`, `12.5`, `125`, `1,250`."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer operations")
    parser.add_argument("--runs", type=int, default=3, help="runs to take the median of (default 3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    parser.add_argument("--data", type=Path, metavar="DIR", help="where the cluster's disks lie (default: a temp dir)")
    arguments = parser.parse_args()
    rows: dict[str, dict[str, list[float]]] = {}
    yardsticks: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="dfs-bench-", dir=arguments.data) as name:
        directory = Path(name)
        with cluster(directory) as port:
            for run in range(arguments.runs):
                for key, value in machine(directory, arguments.quick).items():
                    yardsticks.setdefault(key, []).append(value)
                for results in (measure_files(port, run, arguments.quick), measure_seed(port, arguments.quick)):
                    for key, measured, size in results:
                        row = rows.setdefault(key, {"rate": [], "mb": [], "median_ms": [], "p99_ms": []})
                        row["rate"].append(measured.rate)
                        row["mb"].append(measured.rate * size / 1e6)
                        row["median_ms"].append(measured.median * 1e3)
                        row["p99_ms"].append(measured.p99 * 1e3)
                        print(f"run {run + 1}: {key}: {figure(measured.rate)}/s, "
                              f"{figure(row['mb'][-1])} MB/s", file=sys.stderr, flush=True)  # fmt: skip
    raw = statistics.median(yardsticks["raw write + fdatasync, MB/s"])
    copy = statistics.median(yardsticks["loopback copy, MB/s"])
    print(f"dfs, 3 nodes, factor 2, sync; {os.cpu_count()} cores, Python {platform.python_version()}; "
          f"median of {arguments.runs} runs")  # fmt: skip
    for key, values in yardsticks.items():
        print(f"  {key:42} {statistics.median(values):12,.0f}")
    print(f"  {'':42} {'1/s':>10} {'MB/s':>8} {'median ms':>10} {'p99 ms':>8}  ratio")
    report: dict[str, Any] = {"machine": {k: statistics.median(v) for k, v in yardsticks.items()}, "figures": {}}
    for key, row in rows.items():
        middle = {name: statistics.median(values) for name, values in row.items()}
        stores = key.startswith(("PUT", "seed upload"))
        ratio = middle["mb"] / (raw / 2 if stores else copy)
        against = "of raw write / 2" if stores else "of loopback copy"
        report["figures"][key] = middle | {"ratio": ratio, "ratio_to": against, "runs": row["rate"]}
        print(f"  {key:42} {figure(middle['rate']):>10} {figure(middle['mb']):>8} {middle['median_ms']:10.2f} "
              f"{middle['p99_ms']:8.1f}  {ratio:5.3f} {against}")  # fmt: skip
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
