"""What clients get done while a node is drained, beside what they got done before.

`python -m tests.bench.drain [--seconds N] [--files N] [--mbps N]` runs a cluster of four nodes and two API
servers of its own and prints both rates, as medians of whole seconds, and their ratio.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
from pathlib import Path

from tests.support.cluster import Cluster
from tests.support.load import Load
from tests.support.operators import Operator

SIZES = (1_000, 10_000, 60_000, 250_000)
LONGEST_SECONDS = 1800.0


def measure(directory: Path, *, files: int, seconds: int, mbps: int) -> tuple[float, float, int]:
    """Operations a second before the drain and during it, and the seconds that it took."""
    with Cluster(directory, nodes=4, environ={"DFS_REPAIR_MBPS": str(mbps), "DFS_REPAIR_INTERVAL": "0.5"}) as cluster:
        cluster.add_api()
        operator = Operator(cluster)
        with Load(cluster, names=files, sizes=SIZES, threads=4, client="raw", patience=60) as load:
            load.fill()
            load.start()
            threading.Event().wait(seconds)
            before = load.rate(1, load.seconds())
            operator.run("drain", "node2")
            began = load.seconds()
            operator.wait_state("node2", "drained", LONGEST_SECONDS)
            ended = load.seconds()
        load.assert_clean()
        return before, load.rate(began + 1, ended), ended - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=int, default=15, help="of load before the drain")
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--mbps", type=int, default=50, help="DFS_REPAIR_MBPS")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dfs-drain-") as directory:
        before, during, took = measure(Path(directory), files=given.files, seconds=given.seconds, mbps=given.mbps)
    print(f"{before:.0f} operations a second before, {during:.0f} during a drain of {took} s: {during / before:.2f}")


if __name__ == "__main__":
    main()
