"""When the memory for uploads is used up: nobody is starved, and nobody who is slow on purpose keeps it."""

from __future__ import annotations

import http.client
import os
import select
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.cluster import Cluster

MIB = 1 << 20
SETTINGS = {"DFS_BUFFER_BYTES": "4MiB", "DFS_MAX_CHUNK_SIZE": "2MiB", "DFS_CHUNK_SIZE": "1MiB"}
ROOM = 3
"""Chunks of 1 MiB that such a pool holds at once: its common part and what is reserved for large ones."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("full"), environ=SETTINGS) as running:
        yield running


def put(cluster: Cluster, path: str, body: bytes) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", cluster.port, timeout=120)
    try:
        connection.request("PUT", f"/files/{path}", body=body)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


class Dripper:
    """An upload that is given memory, and sends a byte five times a second."""

    def __init__(self, cluster: Cluster, number: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", cluster.port), timeout=60)
        head = f"PUT /files/drip{number} HTTP/1.1\r\nHost: h\r\nContent-Length: {MIB}\r\nExpect: 100-continue\r\n\r\n"
        self.sock.sendall(head.encode())

    def wait_for_memory(self) -> None:
        """The body is asked for once the memory for it is reserved."""
        assert self.sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"

    def end(self) -> bytes:
        """How the server ended it."""
        try:
            return self.sock.recv(100)[9:12]
        except ConnectionResetError:
            return b"cut"


def test_a_good_put_is_served_though_dripping_uploads_hold_all_the_memory(cluster: Cluster) -> None:
    drippers = [Dripper(cluster, number) for number in range(ROOM)]
    for each in drippers:
        each.wait_for_memory()
    stop = threading.Event()

    def drip() -> None:
        alive = list(drippers)
        while not stop.wait(0.2):
            for each in list(alive):
                try:
                    each.sock.send(b"x")
                except OSError:
                    alive.remove(each)

    dripping = threading.Thread(target=drip)
    dripping.start()
    try:
        with ThreadPoolExecutor(1) as pool:
            good = pool.submit(put, cluster, "good", os.urandom(MIB))
            for number in range(50):
                assert put(cluster, f"small{number}", b"x" * 1024) == 201
            small_first = not good.done()
            assert good.result() == 201
            print(f"50 small PUTs were done before memory for a large one came free: {small_first}")
            ended, _, _ = select.select([each.sock for each in drippers], [], [], 60)
            assert ended, "somebody had to go"
            ends = {each.end() for each in drippers if each.sock in ended}
            assert ends <= {b"408", b"cut"}, ends
    finally:
        stop.set()
        dripping.join()
        for each in drippers:
            each.sock.close()


def test_many_large_uploads_share_memory_for_a_few_by_turns(cluster: Cluster, tmp_path: Path) -> None:
    body = os.urandom(12 * MIB)
    with ThreadPoolExecutor(5 * ROOM) as pool:
        large = [pool.submit(put, cluster, f"large{number}", body) for number in range(4 * ROOM)]
        small = [pool.submit(put, cluster, f"beside{number}", b"y" * 1000) for number in range(100)]
        assert [done.result() for done in small] == [201] * 100
        assert [done.result() for done in large] == [201] * len(large)
