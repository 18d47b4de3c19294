"""T4: writes acknowledged before `kill -9` are all there afterwards.

Writers store files while nodes, API servers and single workers of an API server are killed and
started again; at the end every process is killed at once. Then each acknowledged file must be read back byte for byte, and a file
whose write was not answered must be there whole or not at all.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.support.caller import Caller, NoAnswer
from tests.support.cluster import Cluster, Server, eventually

LONG = os.environ.get("LONG") == "1"
ACKNOWLEDGED = int(os.environ.get("KILL_WRITES", "250000" if LONG else "5000"))
KILLS = int(os.environ.get("KILLS", "1000" if LONG else "10"))
SEED = int(os.environ.get("KILL_SEED", "4"))
WRITERS = 8
CHUNK = 16 * 1024


def content_of(name: str) -> bytes:
    """Bytes that only this name has; now and then several chunks of them."""
    digest = hashlib.sha256(name.encode()).digest()
    size = 40_000 if digest[0] < 12 else 100 + digest[1] * 20
    return (name.encode() + digest) * (size // (len(name) + 32) + 1)


class Load:
    """Writers that go on through every failure and remember what was answered."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._lock = threading.Lock()
        self._count = threading.Condition(self._lock)
        self._stop = False
        self.acknowledged: set[str] = set()
        self.uncertain: set[str] = set()
        self.refusals: dict[int, int] = {}

    def write(self, writer: int) -> None:
        number = 0
        caller: Caller | None = None
        while not self._stop:
            name = f"w{writer}/{number}"
            number += 1
            api = self._cluster.apis[writer % len(self._cluster.apis)]
            if caller is None or caller.port != api.port:
                caller = Caller(api.port)
            try:
                answer = caller.file("PUT", name, content_of(name), X_Chunk_Size=str(CHUNK))
            except NoAnswer:
                with self._lock:
                    self.uncertain.add(name)
                    self._count.wait(0.05)  # the server may be down: ask it twenty times a second
                continue
            with self._lock:
                if answer.status == 201:
                    self.acknowledged.add(name)
                    self._count.notify_all()
                else:
                    assert answer.status == 503, answer
                    self.refusals[answer.status] = self.refusals.get(answer.status, 0) + 1
                    self.uncertain.add(name)

    def wait_for(self, count: int) -> None:
        with self._lock:
            assert self._count.wait_for(lambda: len(self.acknowledged) >= count, 120), "writes no longer go on"

    def stop(self) -> None:
        self._stop = True


def _verify(port: int, names: set[str], certain: bool) -> tuple[list[str], int]:
    """Names that are lost or wrong, and how many were there."""
    wrong, present = [], 0

    def check(share: list[str]) -> None:
        nonlocal present
        caller = Caller(port)
        for name in share:
            answer = caller.file("GET", name)
            if answer.status == 200 and answer.body == content_of(name):
                present += 1
            elif certain or answer.status != 404:
                wrong.append(f"{name}: {answer.status}, {len(answer.body)} bytes")
        caller.close()

    ordered = sorted(names)
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(check, ordered[number::4]) for number in range(4)]:
            done.result()
    return wrong, present


def _kill_a_worker(server: Server, chooser: random.Random) -> None:
    pid = chooser.choice(server.workers())
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: pid not in server.workers(), "it is gone")


def test_writes_acknowledged_before_kill_9_of_every_process_are_all_there(tmp_path: Path) -> None:
    print(f"replay: KILL_SEED={SEED} KILL_WRITES={ACKNOWLEDGED} KILLS={KILLS}")
    chooser = random.Random(SEED)
    with Cluster(tmp_path) as cluster:
        several = cluster.add_api(DFS_API_WORKERS="2")
        # Both keep their ports, so that the writers find them again.
        for server in [*cluster.apis, *cluster.nodes]:
            server.environ["DFS_API_PORT" if server in cluster.apis else "NODE_PORT"] = str(server.port)
        load = Load(cluster)
        with ThreadPoolExecutor(WRITERS) as pool:
            writers = [pool.submit(load.write, number) for number in range(WRITERS)]
            try:
                for kill in range(KILLS):
                    load.wait_for(ACKNOWLEDGED * (kill + 1) // (KILLS + 1))
                    victim: Server | None = chooser.choice([*cluster.apis, *cluster.nodes, None])
                    if victim is None:
                        _kill_a_worker(several, chooser)
                        load.wait_for(len(load.acknowledged) + 20)
                        eventually(lambda: len(several.workers()) == 2, "the worker is replaced")
                    else:
                        victim.kill()
                        load.wait_for(len(load.acknowledged) + 20)
                        victim.start()
                load.wait_for(ACKNOWLEDGED)
                everything = [*cluster.apis, *cluster.nodes]
                for server in everything:
                    server.kill()
            finally:
                load.stop()
            for writer in writers:
                writer.result()
        for server in cluster.nodes:
            server.start()
        for server in cluster.apis:
            server.start()
        cluster.wait_alive({node.name for node in cluster.nodes})
        lost, _ = _verify(cluster.port, load.acknowledged, certain=True)
        assert not lost, f"{len(lost)} of {len(load.acknowledged)} acknowledged writes are lost: {lost[:10]}"
        wrong, present = _verify(cluster.port, load.uncertain - load.acknowledged, certain=False)
        assert not wrong, wrong[:10]
        print(f"{len(load.acknowledged)} acknowledged, {len(load.uncertain)} unanswered ({present} of them there), "
              f"answers of 503: {load.refusals}")  # fmt: skip
