"""Load from separate processes over keep-alive connections, the same for every store.

A worker process is one thread that drives all its connections through one selector, on bare sockets
and prepared heads, so that the load takes as little of the shared processor as it can: about 20 µs a
request. Workers live as long as the run; each phase is sent to them whole. Every answer's status and
length are checked; the bytes are compared apart from the measurement (`fetch`).
"""

from __future__ import annotations

import contextlib
import http.client
import json
import multiprocessing
import random
import selectors
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from typing import Any

from tests.bench import payload

HOST = "127.0.0.1"
STALL_SECONDS = 120.0
_SCRATCH = 1 << 20


class LoadFailed(Exception):
    """A request was not answered as it must be: the measurement says nothing."""


@dataclass(frozen=True)
class Phase:
    """What all clients do together.

    Requests are `method target`, with `{n}` in the target replaced by a number: for a PUT the numbers
    not yet used, from `first` on, until `seconds` are over or `most` were sent; for a GET those of
    `numbers`, in an order of their own for each process, again and again until `seconds` are over.
    With `targets` each of them is requested once and time does not matter. `size` is the length of
    the body that is sent (PUT) or must come (GET).
    """

    method: str
    port: int
    target: str
    size: int
    clients: int
    seconds: float
    first: int = 0
    most: int = 1 << 40
    numbers: Sequence[int] = ()
    targets: Sequence[str] = ()


@dataclass
class Outcome:
    """What came of a phase: seconds it took, a latency in seconds for each request, the numbers used."""

    seconds: float
    latencies: list[float] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    cpu: float = 0.0
    """Processor seconds of the load itself."""

    @property
    def count(self) -> int:
        return len(self.latencies)

    @property
    def rate(self) -> float:
        return self.count / self.seconds

    def quantile(self, share: float) -> float:
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


@dataclass(frozen=True)
class _Share:
    """What one worker does of a phase."""

    phase: Phase
    clients: int
    worker: int
    workers: int

    def requests(self) -> Iterator[tuple[bytes, int]]:
        """(head, number) of each request, as many as there may be."""
        phase = self.phase
        if phase.targets:
            for number in range(self.worker, len(phase.targets), self.workers):
                yield self._head(phase.targets[number]), number
        elif phase.method == "GET":
            numbers = list(phase.numbers)
            random_order(numbers, self.worker)
            while numbers:
                for number in numbers:
                    yield self._head(phase.target.replace("{n}", str(number))), number
        else:
            for number in range(phase.first + self.worker, phase.first + phase.most, self.workers):
                yield self._head(phase.target.replace("{n}", str(number))), number

    def _head(self, target: str) -> bytes:
        length = f"Content-Length: {self.phase.size}\r\n" if self.phase.method == "PUT" else ""
        return f"{self.phase.method} {target} HTTP/1.1\r\nHost: bench\r\n{length}\r\n".encode()


def random_order(numbers: list[int], seed: int) -> None:
    """Shuffle in place, the same way for the same seed."""
    random.Random(seed).shuffle(numbers)


class _Client:
    """One connection: a request goes out, an answer comes in, then the next."""

    def __init__(self, port: int, method: str, size: int) -> None:
        self.socket = socket.create_connection((HOST, port), timeout=STALL_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.sends = size if method == "PUT" else 0
        self.expects = size if method == "GET" else -1
        self.head: bytes | memoryview = b""
        self.number = 0
        self.sent = 0
        self.answer = b""
        self.missing = -1
        self.began = 0.0

    def begin(self, head: bytes, number: int) -> bool:
        """Start a request; whether all of it could be sent at once."""
        self.head, self.number, self.sent = head, number, 0
        self.answer, self.missing = b"", -1
        self.began = time.perf_counter()
        return self.send()

    def send(self) -> bool:
        """Send what the connection takes; whether nothing is left."""
        while self.head or self.sent < self.sends:
            parts: list[bytes | memoryview] = [self.head] if self.head else []
            if self.sent < self.sends:
                parts.append(payload.piece_at(self.number, self.sent, self.sends))
            try:
                count = self.socket.sendmsg(parts)
            except BlockingIOError:
                return False
            of_head = min(count, len(self.head))
            self.head = memoryview(self.head)[of_head:]
            self.sent += count - of_head
        return True

    def receive(self, scratch: memoryview) -> bool:
        """Take in what has come; whether the answer is complete. Raises LoadFailed."""
        try:
            if self.missing < 0:
                return self._receive_head()
            count = self.socket.recv_into(scratch[: min(len(scratch), self.missing)])
        except BlockingIOError:
            return False
        if not count:
            raise LoadFailed(f"the answer ended {self.missing} bytes early")
        self.missing -= count
        return self.missing == 0

    def _receive_head(self) -> bool:
        more = self.socket.recv(65536)
        if not more:
            raise LoadFailed(f"the connection was closed instead of an answer ({self.answer[:200]!r})")
        self.answer = self.answer + more if self.answer else more
        end = self.answer.find(b"\r\n\r\n")
        if end < 0:
            return False
        status, length = parse_head(self.answer[:end])
        if not 200 <= status < 300:
            raise LoadFailed(f"status {status}: {self.answer[:600]!r}")
        if self.expects >= 0 and length != self.expects:
            raise LoadFailed(f"an answer of {length} bytes where {self.expects} are stored")
        self.missing = length - (len(self.answer) - end - 4)
        if self.missing < 0:
            raise LoadFailed("more bytes than the answer's Content-Length")
        return self.missing == 0


def parse_head(head: bytes) -> tuple[int, int]:
    """(status, length of the body) of an answer's head. Raises LoadFailed when it names no length."""
    status = int(head[9:12])
    lower = head.lower()
    mark = lower.find(b"\r\ncontent-length:")
    if mark < 0:
        if status == 204:
            return status, 0
        raise LoadFailed(f"an answer without Content-Length: {head[:600]!r}")
    stop = lower.find(b"\r\n", mark + 2)
    return status, int(lower[mark + 17 : stop if stop > 0 else len(lower)])


def _drive(share: _Share, pipe: Pipe) -> dict[str, Any]:
    """Do a share of a phase: connect, wait for the word, work."""
    phase = share.phase
    scratch = memoryview(bytearray(_SCRATCH))
    payload.piece_at(0, 0, 1)
    clients = [_Client(phase.port, phase.method, phase.size) for _ in range(share.clients)]
    requests = share.requests()
    latencies: list[float] = []
    used: list[int] = []
    readable, writable = selectors.EVENT_READ, selectors.EVENT_READ | selectors.EVENT_WRITE
    try:
        with selectors.DefaultSelector() as selector:
            pipe.send("ready")
            pipe.recv()
            cpu, began, now = time.process_time(), time.perf_counter(), time.perf_counter()
            end = began + phase.seconds if not phase.targets else float("inf")
            busy = 0
            for client in clients:
                first = next(requests, None)
                if first is not None:
                    whole = client.begin(*first)
                    selector.register(client.socket, readable if whole else writable, client)
                    busy += 1
            while busy:
                ready = selector.select(STALL_SECONDS)
                if not ready:
                    raise LoadFailed(f"no progress for {STALL_SECONDS:g} s")
                for key, events in ready:
                    client = key.data
                    if events & selectors.EVENT_WRITE and client.send():
                        selector.modify(client.socket, readable, client)
                    if not events & selectors.EVENT_READ or not client.receive(scratch):
                        continue
                    now = time.perf_counter()
                    latencies.append(now - client.began)
                    used.append(client.number)
                    following = next(requests, None) if now < end else None
                    if following is None:
                        selector.unregister(client.socket)
                        busy -= 1
                    elif not client.begin(*following):
                        selector.modify(client.socket, writable, client)
            cpu = time.process_time() - cpu
    finally:
        for client in clients:
            client.socket.close()
    return {"began": began, "ended": now, "latencies": latencies, "numbers": used, "cpu": cpu}


def _worker(pipe: Pipe) -> None:
    """A worker process: shares come in, outcomes or what went wrong go out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent closes the pipe
    while True:
        try:
            share = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(_drive(share, pipe))
        except (LoadFailed, OSError, ValueError) as error:
            pipe.send(f"{share.phase.method} {share.phase.target}: {error or type(error).__name__}")


class Load:
    """The worker processes. A context manager."""

    def __init__(self, workers: int = 2) -> None:
        context = multiprocessing.get_context("spawn")
        self._workers = []
        for _ in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_worker, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self._workers.append((process, ours))

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers."""
        for process, pipe in self._workers:
            pipe.close()
            process.terminate()
        for process, _ in self._workers:
            process.join()

    def run(self, phase: Phase) -> Outcome:
        """Do a phase with all its clients at once. Raises LoadFailed at the first bad answer."""
        count = min(len(self._workers), phase.clients)
        chosen = self._workers[:count]
        for number, (_, pipe) in enumerate(chosen):
            clients = phase.clients // count + (number < phase.clients % count)
            pipe.send(_Share(phase, clients, number, count))
        answers: list[Any] = [pipe.recv() for _, pipe in chosen]
        for (_, pipe), answer in zip(chosen, answers, strict=True):
            if answer == "ready":
                pipe.send("go")
        answers = [
            pipe.recv() if answer == "ready" else answer
            for (_, pipe), answer in zip(chosen, answers, strict=True)
        ]
        for answer in answers:
            if isinstance(answer, str):
                raise LoadFailed(answer)
        began = min(answer["began"] for answer in answers)
        outcome = Outcome(max(answer["ended"] for answer in answers) - began)
        for answer in answers:
            outcome.latencies += answer["latencies"]
            outcome.numbers += answer["numbers"]
            outcome.cpu += answer["cpu"]
        outcome.numbers.sort()
        return outcome


def fetch(port: int, target: str, number: int, size: int) -> None:
    """Read an object and compare every byte with what was stored. Raises LoadFailed."""
    connection = http.client.HTTPConnection(HOST, port, timeout=STALL_SECONDS)
    with contextlib.closing(connection):
        connection.request("GET", target.replace("{n}", str(number)))
        answer = connection.getresponse()
        if answer.status != 200:
            raise LoadFailed(f"GET {target}, {number}: status {answer.status}")
        place = 0
        for piece in payload.pieces(number, 0, size):
            if answer.read(len(piece)) != piece:
                raise LoadFailed(f"GET {target}, {number}: other bytes than were stored, from byte {place} on")
            place += len(piece)
        if answer.read(1):
            raise LoadFailed(f"GET {target}, {number}: more than the {size} bytes stored")


class Talk:
    """A keep-alive connection for calls one after the other. A context manager."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection(HOST, port, timeout=STALL_SECONDS)

    def __enter__(self) -> Talk:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def call(self, method: str, target: str, body: str | None = None) -> bytes:
        """The body of the answer. Raises LoadFailed for a status of 300 or more, and OSError."""
        try:
            self._connection.request(method, target, body=body)
            answer = self._connection.getresponse()
            text = answer.read()
        except http.client.HTTPException as error:
            raise LoadFailed(f"{method} {target}: {error!r}") from None
        if answer.status >= 300:
            raise LoadFailed(f"{method} {target} answered {answer.status}: {text[:500]!r}")
        return text


def call_json(port: int, method: str, target: str, value: object | None = None) -> Any:
    """One request with a JSON body and a JSON answer (None for an empty one). Raises LoadFailed."""
    with Talk(port) as talk:
        text = talk.call(method, target, None if value is None else json.dumps(value))
    return json.loads(text) if text else None
