"""Load from separate processes over keep-alive connections.

A worker process opens its connections, says so, waits for the start signal and works until its
operations are used up. Requests and answers are handled on bare sockets, so that the load costs as
little of the shared processor as it can.
"""

from __future__ import annotations

import http.client
import json
import multiprocessing
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe

BLOCK = 1 << 20


class Connection:
    """One keep-alive connection that sends prepared requests and drops the answers' bodies."""

    def __init__(self, host: str, port: int) -> None:
        self._socket = socket.create_connection((host, port), timeout=120)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._scratch = bytearray(BLOCK)

    def close(self) -> None:
        self._socket.close()

    def call(self, head: bytes, body: bytes | memoryview = b"") -> int:
        """Send one request and drop the answer's body; returns the status."""
        if len(body) <= 64 * 1024:
            self._socket.sendall(b"".join((head, body)))
        else:
            self._socket.sendall(head)
            self._socket.sendall(body)
        received = b""
        while (end := received.find(b"\r\n\r\n")) < 0:
            more = self._socket.recv(65536)
            if not more:
                raise ConnectionError("the server closed the connection")
            received += more
        status = int(received[9:12])
        lower = received[:end].lower()
        mark = lower.find(b"\r\ncontent-length:")
        if mark < 0:
            raise ConnectionError("an answer without Content-Length")
        stop = lower.find(b"\r\n", mark + 2)
        length = int(lower[mark + 17 : stop if stop > 0 else end])
        missing = length - (len(received) - end - 4)
        while missing > 0:
            count = self._socket.recv_into(self._scratch, min(BLOCK, missing))
            if not count:
                raise ConnectionError("an answer shorter than its Content-Length")
            missing -= count
        return status


def request_head(method: str, target: str, length: int = 0, extra: str = "") -> bytes:
    """The head of a request."""
    return f"{method} {target} HTTP/1.1\r\nHost: bench\r\nContent-Length: {length}\r\n{extra}\r\n".encode()


@dataclass
class Job:
    """What one client does: `count` requests, the n-th made by `make(client, n)` from its arguments."""

    kind: str
    count: int
    size: int
    prefix: str
    targets: list[str] = field(default_factory=list)


def _requests(job: Job, client: int) -> Callable[[int], tuple[bytes, bytes | memoryview]]:
    body = memoryview(bytes(range(256)) * (-(-job.size // 256)))[: job.size]
    if job.kind == "put":
        return lambda n: (request_head("PUT", f"/files/{job.prefix}/{client}/{n}", job.size), body)
    if job.kind == "get":
        return lambda n: (request_head("GET", f"/files/{job.prefix}/{client}/{n}"), b"")
    if job.kind == "send-chunks":
        return lambda n: (request_head("PUT", job.targets[n], job.size), body)
    if job.kind == "fetch-chunks":
        return lambda n: (request_head("GET", job.targets[n]), b"")
    raise ValueError(job.kind)


def _client(job: Job, client: int, host: str, port: int, gate: threading.Barrier, out: list[object]) -> None:
    times: list[float] = []
    try:
        connection = Connection(host, port)
        make = _requests(job, client)
        gate.wait()
        for number in range(job.count):
            head, body = make(number)
            began = time.perf_counter()
            status = connection.call(head, body)
            if status >= 300:
                raise ConnectionError(f"{job.kind} answered {status}")
            times.append(time.perf_counter() - began)
        connection.close()
        out.append(times)
    except Exception as error:
        gate.abort()
        out.append(error)


def _process(pipe: Pipe, jobs: Sequence[tuple[int, Job]], host: str, port: int) -> None:
    out: list[object] = []
    gate = threading.Barrier(len(jobs) + 1)
    threads = [
        threading.Thread(target=_client, args=(job, client, host, port, gate, out)) for client, job in jobs
    ]
    for thread in threads:
        thread.start()
    pipe.send("ready")
    pipe.recv()
    try:
        gate.wait(60)
    except threading.BrokenBarrierError:
        pass  # a client failed before the start: its error is in `out`
    for thread in threads:
        thread.join()
    pipe.send([repr(item) if isinstance(item, Exception) else item for item in out])


@dataclass(frozen=True)
class Measured:
    """Figures of one run: operations, seconds, latencies in seconds."""

    operations: int
    seconds: float
    median: float
    p99: float

    @property
    def rate(self) -> float:
        return self.operations / self.seconds


def run(jobs: Sequence[Job], host: str, port: int, processes: int = 4) -> Measured:
    """Run one job per client, spread over at most `processes` processes; raises on any failed request."""
    context = multiprocessing.get_context("spawn")
    shares: list[list[tuple[int, Job]]] = [[] for _ in range(min(processes, len(jobs)))]
    for client, job in enumerate(jobs):
        shares[client % len(shares)].append((client, job))
    workers = []
    for share in shares:
        ours, theirs = context.Pipe()
        worker = context.Process(target=_process, args=(theirs, share, host, port), daemon=True)
        worker.start()
        workers.append((worker, ours))
    for _, pipe in workers:
        pipe.recv()
    began = time.perf_counter()
    for _, pipe in workers:
        pipe.send("go")
    times: list[float] = []
    for _, pipe in workers:
        for item in pipe.recv():
            if isinstance(item, str):
                raise RuntimeError(f"the load failed: {item}")
            times.extend(item)
    seconds = time.perf_counter() - began
    for worker, _ in workers:
        worker.join()
    times.sort()
    return Measured(len(times), seconds, times[len(times) // 2], times[int(len(times) * 0.99)])


def call_json(host: str, port: int, method: str, target: str, value: object | None = None) -> object:
    """One request with a JSON body and a JSON answer."""
    connection = http.client.HTTPConnection(host, port, timeout=120)
    try:
        connection.request(method, target, body=None if value is None else json.dumps(value))
        answer = connection.getresponse()
        text = answer.read()
    finally:
        connection.close()
    if answer.status >= 300:
        raise RuntimeError(f"{method} {target} answered {answer.status}: {text[:500]!r}")
    return json.loads(text)
