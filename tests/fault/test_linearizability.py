"""T9: concurrent puts, conditional puts, reads, deletes, moves and restores on the same paths are linearizable.

Eight clients against two API servers work on pairs of paths, so that a move stays within one
history. Every history is searched for an order of atomic operations that explains it. A time-out
or 503 `unknown` is "maybe", never "failed". Afterwards everything is purged and no node may hold a
chunk any more.
"""

from __future__ import annotations

import math
import os
import random
import threading
import time
import uuid
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from dfs.metadata import open_metadata
from dfs.model import FileState
from dfs.settings import CommonSettings, load
from tests.support.caller import Answer, Caller, NoAnswer
from tests.support.cluster import Cluster, Server, eventually
from tests.support.linearize import Event, explains
from tests.support.moto_server import MotoServer

PAIRS = int(os.environ.get("LINEAR_PAIRS", "5000" if os.environ.get("LONG") == "1" else "50"))
SLOWER = {"sqlite": 1, "dynamodb": 5}
"""On the stand-in for DynamoDB this many times fewer pairs."""

CLIENTS = 8
OPERATIONS = 6
SEED = int(os.environ.get("LINEAR_SEED", "20261122"))

Trash = frozenset[tuple[int, str]]
State = tuple[str | None, str | None, Trash]
"""The file ids that the two paths of a pair show, and which left which path for the trash."""


def step(state: State, event: Event) -> Iterable[State]:
    """The atomic meaning of each operation, and whether `event.result` is possible in `state`."""
    verb, *rest = event.action
    result = event.result
    if verb == "get":
        side = int(str(rest[0]))
        return [state] if result == state[side] else []
    if verb == "move":
        overwrite = bool(rest[0])
        if state[0] is None:
            return [state] if result in (404, None) else []
        if state[1] is not None and not overwrite:
            return [state] if result in (412, None) else []
        return [(None, state[0], thrown(state, 1))] if result in (200, None) else []
    if verb in ("restore", "purge"):
        return out_of_trash(state, verb, (int(str(rest[0])), str(rest[1])), result)
    side, condition = int(str(rest[0])), rest[1]
    here = state[side]
    if verb == "put":
        new = str(rest[2])
        allowed = condition is None or (here is None if condition == "*" else here == condition)
        after = shows(state, side, new, thrown(state, side))
        good = 201
    else:
        if here is None and result == 404:
            return [state]
        allowed = here is not None and condition in (None, here)
        purged = bool(rest[2])
        after = shows(state, side, None, state[2] if purged else thrown(state, side))
        good = 204
    if result is None:
        return [after] if allowed else [state]
    if allowed:
        return [after] if result == good else []
    return [state] if result == 412 else []


def thrown(state: State, side: int) -> Trash:
    """The trash when the path of `side` shows its file no more."""
    here = state[side]
    return state[2] if not isinstance(here, str) else state[2] | {(side, here)}


def shows(state: State, side: int, file_id: str | None, trash: Trash) -> State:
    """The state in which the path of `side` shows the file."""
    return (file_id, state[1], trash) if side == 0 else (state[0], file_id, trash)


def out_of_trash(state: State, verb: str, which: tuple[int, str], result: object) -> list[State]:
    """Restore and purge. Who finds the path taken and the file gone may be told either."""
    side, file_id = which
    missing, taken = which not in state[2], verb == "restore" and state[side] is not None
    if missing or taken:
        return [state] if result is None or (missing and result == 404) or (taken and result == 412) else []
    rest = state[2] - {which}
    after = shows(state, side, file_id, rest) if verb == "restore" else (state[0], state[1], rest)
    return [after] if result in (200 if verb == "restore" else 204, None) else []


class Worker:
    """One client of one pair: draws operations, makes the calls, writes down what it saw."""

    def __init__(self, pair: str, ports: list[int], seed: int, history: list[Event], lock: threading.Lock) -> None:
        self._paths = (f"{pair}/a", f"{pair}/b")
        self._random = random.Random(seed)
        self._caller = Caller(self._random.choice(ports))
        self._history = history
        self._lock = lock
        self._seen: list[str] = []

    def run(self) -> None:
        for _ in range(OPERATIONS):
            self._one()
        self._caller.close()

    def _condition(self) -> str | None:
        draw = self._random.random()
        if draw < 0.5 or not self._seen:
            return None
        return self._random.choice(self._seen[-3:])

    def _one(self) -> None:
        chooser = self._random
        side = chooser.randrange(2)
        verb = chooser.choice(("put", "put", "put", "get", "get", "delete", "delete", "move", "restore", "restore", "purge"))
        if verb in ("restore", "purge") and not self._seen:
            verb = "put"
        path = self._paths[side]
        op_id = str(uuid.UUID(int=chooser.getrandbits(128), version=4))
        headers = {"X_Dfs_Op": op_id}
        start = time.monotonic()
        action: tuple[object, ...]
        try:
            if verb == "get":
                action = ("get", side)
                answer = self._caller.file("GET", path)
            elif verb == "move":
                overwrite = chooser.random() < 0.5
                action = ("move", overwrite)
                query = {"move_to": self._paths[1]} | ({"overwrite": "1"} if overwrite else {})
                answer = self._caller.file("POST", self._paths[0], query=query, **headers)
            elif verb == "restore":
                file_id = chooser.choice(self._seen[-3:])
                action = ("restore", side, file_id)
                answer = self._caller.file("POST", path, query={"restore": file_id}, **headers)
            elif verb == "purge":
                file_id = chooser.choice(self._seen[-3:])
                action = ("purge", side, file_id)
                answer = self._caller.file("DELETE", path, query={"purge": "1", "file_id": file_id}, **headers)
            elif verb == "delete":
                condition, purged = self._condition(), chooser.random() < 0.4
                action = ("delete", side, condition, purged)
                if condition:
                    headers["If_Match"] = f'"{condition}"'
                query = {"purge": "1"} if purged else {}
                answer = self._caller.file("DELETE", path, query=query, **headers)
            else:
                condition = "*" if chooser.random() < 0.3 else self._condition()
                action = ("put", side, condition, op_id)
                if condition == "*":
                    headers["If_None_Match"] = "*"
                elif condition:
                    headers["If_Match"] = f'"{condition}"'
                size = chooser.choice((0, 10, 300, 3000))
                body = op_id.encode() + bytes(size) if size else op_id.encode()
                answer = self._caller.file("PUT", path, body, X_Chunk_Size="1024", **headers)
        except NoAnswer:
            self._note(Event(start, math.inf, action))
            return
        self._judge(action, start, answer)

    def _judge(self, action: tuple[object, ...], start: float, answer: Answer) -> None:
        end = time.monotonic()
        if answer.status == 503:
            if action[0] != "get":
                self._note(Event(start, math.inf, action))
            return
        result: object = answer.status
        if action[0] == "get":
            assert answer.status in (200, 404), answer
            result = answer.etag if answer.status == 200 else None
            if isinstance(result, str):
                assert answer.body.startswith(result.encode()), "the bytes of another file"
                self._seen.append(result)
        elif answer.status == 201:
            assert answer.etag == action[3]
            self._seen.append(answer.etag)
        assert answer.status in (200, 201, 204, 404, 412), (action, answer)
        self._note(Event(start, end, action, result))

    def _note(self, event: Event) -> None:
        with self._lock:
            self._history.append(event)


def _pair(number: int, ports: list[int]) -> tuple[str, list[Event]]:
    name = f"pair{number}"
    history: list[Event] = []
    lock = threading.Lock()
    workers = [Worker(name, ports, SEED * 1000 + number * 10 + client, history, lock) for client in range(CLIENTS)]
    with ThreadPoolExecutor(CLIENTS) as pool:
        for done in [pool.submit(worker.run) for worker in workers]:
            done.result()
    caller = Caller(ports[0])
    for side in range(2):
        start = time.monotonic()
        answer = caller.file("GET", f"{name}/{'ab'[side]}")
        result = answer.etag if answer.status == 200 else None
        history.append(Event(start, time.monotonic(), ("get", side), result))
    caller.close()
    return name, history


def _unreferenced(cluster: Cluster, nodes: list[Server]) -> list[str]:
    """Chunks that a node holds and no committed, trashed or uploading file has."""
    known: dict[str, bool] = {}
    orphans = []
    metadata = open_metadata(load(CommonSettings, environ=cluster.environ))
    try:
        for node in nodes:
            caller = Caller(node.port)
            after: object = 0
            while after is not None:
                page = caller.call("GET", f"/inventory?after={after}&limit=10000").json
                assert isinstance(page["chunks"], list)
                for chunk in page["chunks"]:
                    file_id = chunk["file_id"]
                    if file_id not in known:
                        record = metadata.get_file(file_id)
                        known[file_id] = record is not None and record.state != FileState.DELETING
                    if not known[file_id]:
                        orphans.append(f"{node.name}: {file_id} {chunk['chunk_index']}")
                after = page["next"]
            caller.close()
    finally:
        metadata.close()
    return orphans


@pytest.mark.parametrize("metadata", SLOWER)
def test_concurrent_operations_on_paths_are_linearizable_and_leave_no_orphans(
    tmp_path: Path, metadata: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    print(f"replay: LINEAR_SEED={SEED} LINEAR_PAIRS={PAIRS}")
    pairs = math.ceil(PAIRS / SLOWER[metadata])
    environ = {"DFS_DELETE_GRACE": "3", "DFS_ERASE_INTERVAL": "0.5"}
    with ExitStack() as running:
        if metadata == "dynamodb":
            moto = running.enter_context(MotoServer())
            environ |= moto.environment()
            monkeypatch.setenv("AWS_ENDPOINT_URL", moto.url)  # this process looks into the tables too
        cluster = running.enter_context(Cluster(tmp_path, environ=environ))
        cluster.add_api()
        ports = [api.port for api in cluster.apis]
        wins = restored = 0
        for number in range(pairs):
            name, history = _pair(number, ports)
            assert len(history) == CLIENTS * OPERATIONS + 2
            wins += sum(event.result in (200, 201, 204) for event in history)
            restored += sum((event.action[0], event.result) == ("restore", 200) for event in history)
            initial: State = (None, None, frozenset())
            if not explains(history, initial, step):
                told = "\n".join(map(str, sorted(history, key=lambda event: event.start)))
                pytest.fail(f"{name} (seed {SEED}) is not linearizable:\n{told}")
        assert wins > pairs * CLIENTS and restored >= pairs / 5, "too few operations took effect to prove anything"
        caller = cluster.caller()
        for number in range(pairs):
            for side in "ab":
                answer = caller.file("DELETE", f"pair{number}/{side}", query={"purge": "1"})
                assert answer.status in (204, 404), answer
        eventually(lambda: not _unreferenced(cluster, cluster.nodes), "no chunk of a refused or purged file is left")
