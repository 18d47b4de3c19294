"""Memory is bounded whatever the file size: large files go up and come down at once.

Eight of 128 MiB; with LONG=1 thirty-two of 1 GiB, or what 60 % of the free disk has room for.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import random
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.support import needs
from tests.support.cluster import Cluster, Server

MIB = 1 << 20
LONG = bool(os.environ.get("LONG"))
FILES = 32 if LONG else 8
SIZE = 128 * MIB
COPIES = 2 * 2
"""Of everything that is stored: two sets of files, two replicas."""
BOUND = 256 * MIB


def size_for(directory: Path) -> int:
    """The size of each file."""
    if not LONG:
        return SIZE
    room = shutil.disk_usage(directory).free * 6 // 10
    return min(1024 * MIB, max(SIZE, room // (FILES * COPIES) // MIB * MIB))


def blocks(seed: int, size: int) -> Iterator[bytes]:
    """`size` bytes in blocks, none of which stands twice in one file."""
    block = random.Random(seed).randbytes(MIB - 8)
    for number in range(size // MIB):
        yield number.to_bytes(8, "big") + block


def put(port: int, name: int, seed: int, size: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("PUT", f"/files/big/{name}", body=blocks(seed, size), headers={"Content-Length": str(size)})
    answer = connection.getresponse()
    text = answer.read()
    assert answer.status == 201, text
    connection.close()


def get(port: int, name: int, seed: int, size: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("GET", f"/files/big/{name}")
    answer = connection.getresponse()
    assert answer.status == 200
    received, expected = hashlib.sha256(), hashlib.sha256()
    for block in blocks(seed, size):
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
    size = size_for(tmp_path)
    with Cluster(tmp_path) as cluster, ThreadPoolExecutor(2 * FILES) as pool:
        for done in [pool.submit(put, cluster.port, number, number, size) for number in range(FILES)]:
            done.result()
        both = [pool.submit(get, cluster.port, number, number, size) for number in range(FILES)]
        both += [pool.submit(put, cluster.port, FILES + number, FILES + number, size) for number in range(FILES)]
        for done in both:
            done.result()
        peaks = {server.name: peak(server) // MIB for server in [*cluster.apis, *cluster.nodes]}
        print(f"peak resident sets, MiB, {FILES} files of {size // MIB} MiB up and down: {peaks}")
        assert max(peaks.values()) * MIB <= BOUND, peaks
