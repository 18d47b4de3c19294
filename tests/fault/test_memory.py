"""Memory is bounded whatever the file size: eight large files go up and come down at once."""

from __future__ import annotations

import hashlib
import http.client
import os
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.support import needs
from tests.support.cluster import Cluster, Server

MIB = 1 << 20
SIZE = (1024 if os.environ.get("LONG") else 128) * MIB
FILES = 8
BOUND = 256 * MIB


def blocks(seed: int) -> Iterator[bytes]:
    """SIZE bytes in blocks, none of which stands twice in one file."""
    block = random.Random(seed).randbytes(MIB - 8)
    for number in range(SIZE // MIB):
        yield number.to_bytes(8, "big") + block


def put(port: int, name: int, seed: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("PUT", f"/files/big/{name}", body=blocks(seed), headers={"Content-Length": str(SIZE)})
    answer = connection.getresponse()
    text = answer.read()
    assert answer.status == 201, text
    connection.close()


def get(port: int, name: int, seed: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("GET", f"/files/big/{name}")
    answer = connection.getresponse()
    assert answer.status == 200
    received, expected = hashlib.sha256(), hashlib.sha256()
    for block in blocks(seed):
        received.update(answer.read(MIB))
        expected.update(block)
    assert not answer.read(1)
    assert received.digest() == expected.digest()
    connection.close()


def peak(server: Server) -> int:
    """Largest resident set so far, in bytes."""
    for line in Path(f"/proc/{server.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmHWM")


def test_memory_stays_bounded_while_large_files_go_up_and_come_down_at_once(tmp_path: Path) -> None:
    needs.linux()
    with Cluster(tmp_path) as cluster, ThreadPoolExecutor(2 * FILES) as pool:
        for done in [pool.submit(put, cluster.port, number, number) for number in range(FILES)]:
            done.result()
        both = [pool.submit(get, cluster.port, number, number) for number in range(FILES)]
        both += [pool.submit(put, cluster.port, FILES + number, FILES + number) for number in range(FILES)]
        for done in both:
            done.result()
        peaks = {server.name: peak(server) // MIB for server in [*cluster.apis, *cluster.nodes]}
        print(f"peak resident sets, MiB, {FILES} files of {SIZE // MIB} MiB up and down: {peaks}")
        assert max(peaks.values()) * MIB <= BOUND, peaks
