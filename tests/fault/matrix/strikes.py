"""How a fault strikes an attempt at an operation: the functions that the tables of the matrix are made of.

Each carries the attempt out under the fault and returns the answer, None when none arrived.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from dfs.errors import NodeFull, StoreReadOnly
from dfs.metadata.contract import MetadataStore
from dfs.model import NodeStatus
from dfs.wire.message import Request
from tests.support.caller import Answer
from tests.support.cluster import eventually
from tests.support.disk_node import DiskNode
from tests.support.metadata_audit import all_heads
from tests.support.site import Site

FULL = NodeFull("no room")
READ_ONLY = StoreReadOnly("the disk failed")
SLOW = {"node_timeout": 1.0}
STORED = (201, "", None)
AWAY = (503, "unavailable", "2")
UNKNOWN = (503, "unknown", "1")


class Attempt:
    """One operation of a client under an id of its own. `deed` is the step of the metadata that does it,
    `before` and `after` what the bucket shows without and with it, `file_id` and `noted_as` which note
    it leads to."""

    deed: str
    file_id: str
    noted_as: str
    before: dict[str, bytes]
    after: dict[str, bytes]

    def __init__(self, site: Site) -> None:
        self.site = site

    def send(self, port: int | None = None) -> Answer | None:
        """The request, to the server in this process or to another."""
        raise NotImplementedError

    def lines(self) -> list[str]:
        """The request's head."""
        raise NotImplementedError

    def body(self) -> bytes:
        """The request's body."""
        return b""

    def open(self, body: bytes | None = None) -> socket.socket:
        """A connection on which the request's head and body, or another body, were sent."""
        connection = socket.create_connection(("127.0.0.1", self.site.api.port), timeout=60)
        head = "\r\n".join([*self.lines(), "Host: a", f"Content-Length: {len(self.body())}", "", ""])
        connection.sendall(head.encode() + (self.body() if body is None else body))
        return connection

    def noted(self) -> bool:
        """Whether each node with a copy of chunk 0 keeps the note about this operation, once."""
        holders = self.site.api.holders(self.file_id)
        kept = [
            [note for note in node.kept_notes() if (note["file_id"], note["op"]) == (self.file_id, self.noted_as)]
            for node in holders
        ]
        return len(holders) >= 2 and all(len(notes) == 1 for notes in kept)


Strike = Callable[[Attempt], Answer | None]


def told(answer: Answer | None) -> tuple[int, str, str | None] | None:
    """What the client is told: status, error code and Retry-After; None when nothing arrived."""
    if answer is None:
        return None
    if answer.status < 400:
        return answer.status, "", None
    return answer.status, answer.code, answer.headers.get("retry-after")


def metadata(step: str, act: str) -> Strike:
    """The metadata does `act` at `step`."""

    def strike(attempt: Attempt) -> Answer | None:
        attempt.site.gate.arm(step, act)
        answer = attempt.send()
        assert attempt.site.gate.reached.is_set()
        return answer

    return strike


def slow_metadata(step: str) -> Strike:
    """The metadata takes its time at `step`; nothing new is visible meanwhile."""

    def strike(attempt: Attempt) -> Answer | None:
        attempt.site.gate.arm(step, "slow")
        with ThreadPoolExecutor(1) as pool:
            sent = pool.submit(attempt.send, attempt.site.api.port)
            assert attempt.site.gate.reached.wait(60)
            assert attempt.site.shown() == attempt.before
            attempt.site.gate.go.set()
            return sent.result()

    return strike


def killed(step: str, act: str, *, power: bool = False) -> Strike:
    """The API server is killed at a step of its metadata; with `power`, all nodes lose theirs then."""

    def strike(attempt: Attempt) -> Answer | None:
        with attempt.site.doomed(step, act) as doomed:
            answer = attempt.send(doomed.port)
            doomed.died()
        if power:
            cut_power(attempt.site)
        return answer

    return strike


def killed_at_nodes(path: str, *, stored: bool, power: bool = False) -> Strike:
    """The API server is killed when a node is asked for `path`: before the node does it, or after."""

    def strike(attempt: Attempt) -> Answer | None:
        with attempt.site.doomed() as doomed:

            def hook(request: Request) -> None:
                if request.path.startswith(path):
                    doomed.kill()

            for node in attempt.site.nodes:
                if stored:
                    node.after = hook
                else:
                    node.before = hook
            answer = attempt.send(doomed.port)
            doomed.died()
            quiet(attempt.site)
        if power:
            cut_power(attempt.site)
        return answer

    return strike


def power_fails_in_a_sync(attempt: Attempt) -> Answer | None:
    """The power of the API server and of all nodes goes while a node syncs the first chunk."""
    with attempt.site.doomed() as doomed:
        for node in attempt.site.nodes:
            node.power_fails = doomed.kill
        answer = attempt.send(doomed.port)
        doomed.died()
        quiet(attempt.site)
    cut_power(attempt.site)
    return answer


def quiet(site: Site) -> None:
    """Wait until no node is at work on what a dead server had asked for."""
    for node in site.nodes:
        node.kill()
        node.revive()
    site.wait_writable()


def cut_power(site: Site) -> None:
    for node in site.nodes:
        node.cut_power()


def first_node(hook: Callable[[Request], None], *, after: bool = False) -> Strike:
    """The first node that is asked to store fails by `hook`, and goes on failing."""

    def strike(attempt: Attempt) -> Answer | None:
        struck: list[DiskNode] = []
        lock = threading.Lock()

        def on(node: DiskNode) -> Callable[[Request], None]:
            def act(request: Request) -> None:
                if request.path.startswith("/store-chunk"):
                    with lock:
                        struck.extend([] if struck else [node])
                    if struck[0] is node:
                        hook(request)

            return act

        for node in attempt.site.nodes:
            setattr(node, "after" if after else "before", on(node))
        answer = attempt.send()
        assert struck
        return answer

    return strike


def all_nodes(hook: Callable[[Request], None]) -> Strike:
    """Every node fails by `hook`."""

    def strike(attempt: Attempt) -> Answer | None:
        for node in attempt.site.nodes:
            node.before = hook
        return attempt.send()

    return strike


def dead_nodes(count: int, *, known: bool = False) -> Strike:
    """So many nodes refuse connections; `known`: a request has found that out before."""

    def strike(attempt: Attempt) -> Answer | None:
        site = attempt.site
        dead = site.nodes[:count]
        for node in dead:
            node.kill()
            if known:
                site.api.service.membership.report_failure(node.node_id, "injected")
        try:
            return attempt.send()
        finally:
            for node in dead:
                node.revive()

    return strike


def dawdle(request: Request) -> None:
    """Hold a request for longer than a node may take (1 s in these tests), then let it go on."""
    time.sleep(1.6)


def nodes_say(status: NodeStatus) -> Strike:
    """Two of the three nodes have said by their heartbeats that they take nothing."""

    def strike(attempt: Attempt) -> Answer | None:
        store: MetadataStore = attempt.site.store
        membership = attempt.site.api.service.membership
        for said in (status, NodeStatus.ACTIVE):
            for info in store.list_nodes()[:2]:
                store.heartbeat(replace(info, status=said, heartbeat_seq=info.heartbeat_seq + 1))
            membership.refresh(0.0)
            if said is status:
                answer = attempt.send()
        return answer

    return strike


def client_leaves_in_the_body(attempt: Attempt) -> Answer | None:
    sent = attempt.body()[: len(attempt.body()) * 2 // 3]
    stored = threading.Event()
    for node in attempt.site.nodes:
        node.after = lambda request: stored.set()
    with attempt.open(sent):
        if len(sent) > attempt.site.api.settings.chunk_size:
            assert stored.wait(60)
    eventually(lambda: attempt.site.api.service.buffers.free_bytes >= attempt.site.api.settings.buffer_bytes, "it is given up")
    return None


def client_leaves_before_the_answer(attempt: Attempt) -> Answer | None:
    """The client's connection ends while the deed is being done."""
    heads = all_heads(attempt.site.store)
    attempt.site.gate.arm(attempt.deed, "slow")
    with attempt.open():
        assert attempt.site.gate.reached.wait(60)
    attempt.site.gate.go.set()
    eventually(lambda: all_heads(attempt.site.store) != heads, "it is done")
    return None


def client_reads_late(attempt: Attempt) -> Answer | None:
    """The client does not read its answer until everybody else has seen what it did."""
    heads = all_heads(attempt.site.store)
    with attempt.open() as connection:
        eventually(lambda: all_heads(attempt.site.store) != heads, "it is done")
        assert attempt.site.shown() == attempt.after
        status = int(connection.recv(65536).split()[1])
    return Answer(status, {}, b"")


def metadata_away_after_the_deed(attempt: Attempt) -> Answer | None:
    """Metadata goes away as soon as the deed is durable, before the answer is written."""
    site = attempt.site
    passed = site.gate._pass

    def go_away(step: str, call: Callable[[], object]) -> object:
        done = passed(step, call)
        if step == attempt.deed:
            site.gate._away = True
        return done

    site.gate._pass = go_away  # type: ignore[method-assign]
    try:
        return attempt.send()
    finally:
        site.gate._pass = passed  # type: ignore[method-assign]


# --- notes -----------------------------------------------------------------------------------------


def notes_meet(hook: Callable[[Request], None], *, after: bool = False) -> Strike:
    """The first call of each node for notes meets `hook`, the next ones nothing."""

    def strike(attempt: Attempt) -> Answer | None:
        attempt.site.flush_notes()
        met: set[str] = set()

        def on(node: DiskNode) -> Callable[[Request], None]:
            def act(request: Request) -> None:
                if request.path == "/notes" and node.node_id not in met:
                    met.add(node.node_id)
                    hook(request)

            return act

        for node in attempt.site.nodes:
            setattr(node, "after" if after else "before", on(node))
        answer = attempt.send()
        eventually(lambda: len(met) >= 2, "the nodes were asked to keep notes")
        return answer

    return strike


def nodes_die_at_the_deed(attempt: Attempt) -> Answer | None:
    """All nodes are dead when the notes are to be sent, and live again later."""
    site = attempt.site
    site.flush_notes()
    site.gate.arm(attempt.deed, "slow")
    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(attempt.send, site.api.port)
        assert site.gate.reached.wait(60)
        for node in site.nodes:
            node.kill()
        site.gate.go.set()
        answer = sent.result()
    for node in site.nodes:
        node.revive()
    site.wait_writable()
    return answer


def killed_before_notes(*, power: bool = False) -> Strike:
    """The API server is killed when it has answered and before a node keeps the note."""

    def strike(attempt: Attempt) -> Answer | None:
        attempt.site.flush_notes()
        with attempt.site.doomed() as doomed:
            asked = threading.Event()

            def hook(request: Request) -> None:
                if request.path == "/notes":
                    asked.set()
                    doomed.kill()
                    request.body._link.cut_off()
                    raise StoreReadOnly("the caller is dead")

            for node in attempt.site.nodes:
                node.before = hook
            answer = attempt.send(doomed.port)
            assert asked.wait(60)
            doomed.died()
            quiet(attempt.site)
        if power:
            cut_power(attempt.site)
        return answer

    return strike
