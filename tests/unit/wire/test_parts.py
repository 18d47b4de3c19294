"""The server's parts one by one, where the whole cannot be brought into the state easily."""

from __future__ import annotations

import errno
import resource
import selectors
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from dfs.errors import DfsError
from dfs.wire import limits as limits_module
from dfs.wire.acceptor import PAUSE_SECONDS, Acceptor
from dfs.wire.connection import Connection, Fate, State
from dfs.wire.custody import Custody
from dfs.wire.exchange import Exchanges
from dfs.wire.limits import Limits, raise_file_limit
from dfs.wire.link import PAUSE, READ_AHEAD, FramingError, Link, PeerGone
from dfs.wire.message import Request, Response
from dfs.wire.pace import Pace, TooSlow
from dfs.wire.route import Route
from dfs.wire.server import HttpServer
from dfs.wire.waiting import Waiting
from dfs.wire.workers import Workers
from tests.unit.wire.conftest import PATIENCE, Raw

Pair = tuple[Link, socket.socket]


def patient() -> Pace:
    return Pace(PATIENCE, 0.0, PATIENCE, lambda: False)


@pytest.fixture
def pair() -> Iterator[Callable[[], Pair]]:
    ends: list[socket.socket] = []

    def make() -> Pair:
        ours, theirs = socket.socketpair()
        ends.extend((ours, theirs))
        return Link(ours, patient()), theirs

    yield make
    for end in ends:
        end.close()


# -- link ------------------------------------------------------------------------------------------


def test_lines(pair: Callable[[], Pair]) -> None:
    link, peer = pair()
    peer.sendall(b"ab\r\n\r\ncd\r")
    assert (link.line(2), link.line(0)) == (b"ab", b"")
    peer.sendall(b"\nrest")
    assert link.line(2) == b"cd"
    view = memoryview(bytearray(3))
    assert (link.receive_into(view), bytes(view)) == (3, b"res")
    peer.close()
    with pytest.raises(PeerGone):
        link.line(10)


@pytest.mark.parametrize(
    "line", [b"a\n", b"\n", b"a\rb\r\n", b"a\0b\r\n", b"abcdef\r\n", b"abcdefgh", b"\r\r\n"]
)
def test_what_is_no_line(pair: Callable[[], Pair], line: bytes) -> None:
    link, peer = pair()
    peer.sendall(line)
    with pytest.raises(FramingError):
        link.line(5)


def test_a_broken_connection_is_peer_gone_whatever_is_tried() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for attempt in ("receive", "more", "send", "send big", "finish"):
            ours = socket.create_connection(listener.getsockname())
            theirs = listener.accept()[0]
            link = Link(ours, patient())
            Link(theirs, patient()).reset_on_close()
            theirs.close()
            assert link.readable(PATIENCE)
            with pytest.raises(PeerGone):
                if attempt == "receive":
                    link.receive_into(memoryview(bytearray(1)))
                elif attempt == "more":
                    link.more()
                elif attempt == "finish":
                    link.finish_sending()
                else:
                    for _ in range(3):
                        link.send(b"x" if attempt == "send" else memoryview(b"x" * 10_000_000))
            assert link.send_watching(memoryview(b"x")) == 0
            link.cut_off()
            link.close()


def test_a_peer_that_goes_while_much_is_sent_is_noticed(pair: Callable[[], Pair]) -> None:
    link, peer = pair()
    link.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)

    def read_and_go() -> None:
        peer.recv(100_000)
        peer.close()

    thread = threading.Thread(target=read_and_go)
    thread.start()
    with pytest.raises(PeerGone):
        link.send(b"x" * 10_000_000)
    thread.join()


def test_waiting_ends_when_patience_does(pair: Callable[[], Pair]) -> None:
    link, peer = pair()
    link.patience = Pace(0.01, 0.0, 10.0, lambda: False)
    for step in (
        link.more,
        lambda: link.line(5),
        lambda: link.send(b"x" * 10_000_000),
        lambda: link.receive_into(memoryview(bytearray(1))),
    ):
        with pytest.raises(TooSlow):
            step()
    del peer


@pytest.mark.parametrize("first", [0, 1, 300_000])
def test_a_large_read_takes_what_trickles_in(first: int) -> None:
    ours, theirs = tcp()
    link = Link(ours, patient())
    whole = bytes(range(256)) * 4096
    link.data += whole[:first]
    pause = threading.Event()

    def trickle() -> None:
        for start in range(first, len(whole), 150_000):
            theirs.sendall(whole[start : start + 150_000])
            pause.wait(PAUSE / 3)

    thread = threading.Thread(target=trickle)
    thread.start()
    view = memoryview(bytearray(len(whole)))
    assert link.receive_fully(view) == len(whole) and view == whole
    thread.join()
    theirs.sendall(b"x")
    assert link.readable(PATIENCE) and link.listen() == 1
    theirs.sendall(whole[:70_000])
    theirs.close()
    assert link.receive_fully(view) == 70_001
    assert link.receive_fully(view) == 0
    link.close()


def test_a_large_read_ends_with_patience_however_bytes_drip() -> None:
    ours, theirs = tcp()
    stop = threading.Event()

    def drip() -> None:
        while not stop.wait(PAUSE / 5):
            theirs.send(b"x" * 1000)

    thread = threading.Thread(target=drip)
    thread.start()
    pressed: list[int] = []

    def press() -> bool:
        pressed.append(1)
        return len(pressed) > 1

    link = Link(ours, Pace(PATIENCE, 1_000_000.0, 2 * PAUSE, press))
    with pytest.raises(TooSlow, match="while others wait"):
        link.receive_fully(memoryview(bytearray(1_000_000)))
    assert len(pressed) == 2
    link.patience = Pace(PATIENCE, 0.0, PAUSE / 2, lambda: False)
    assert link.receive_fully(memoryview(bytearray(100_000))) == 100_000
    stop.set()
    thread.join()
    link.patience = Pace(PAUSE, 0.0, PATIENCE, lambda: False)
    with pytest.raises(TooSlow, match="no byte"):
        link.receive_fully(memoryview(bytearray(10_000_000)))
    theirs.close()
    link.close()


def test_a_large_read_of_a_connection_that_breaks_is_peer_gone() -> None:
    ours, theirs = tcp()
    link = Link(ours, patient())
    theirs.sendall(b"x" * 100)
    thread = threading.Timer(PAUSE / 2, reset, (theirs,))
    thread.start()
    with pytest.raises(PeerGone):
        while link.receive_fully(memoryview(bytearray(1_000_000))):
            pass
    thread.join()
    assert link.listen() == 0
    link.close()


@pytest.mark.parametrize("head", [0, 10, 300_000])
def test_head_and_body_are_sent_as_one_however_slowly_the_peer_reads(
    pair: Callable[[], Pair], head: int
) -> None:
    link, peer = pair()
    link.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    peer.settimeout(PATIENCE)
    found = bytearray()
    total = head + 500_000

    def read() -> None:
        while len(found) < total:
            found.extend(peer.recv(3_000))

    thread = threading.Thread(target=read)
    thread.start()
    link.send_both(b"h" * head, memoryview(b"b" * 500_000))
    thread.join()
    assert found == b"h" * head + b"b" * 500_000


@pytest.mark.parametrize("size", [100, 4_000, READ_AHEAD])
def test_small_sends_that_need_no_waiting_are_progress_all_the_same(pair: Callable[[], Pair], size: int) -> None:
    link, peer = pair()
    moved: list[int] = []

    class Counting(Pace):
        def moved(self, count: int, seconds: float = 0.0) -> None:
            moved.append(count)
            super().moved(count, seconds)

    link.patience = Counting(PATIENCE, 0.0, PATIENCE, lambda: False)
    peer.settimeout(PATIENCE)
    for data in (b"x" * size, memoryview(b"x" * size)):
        link.send(data)
        assert sum(moved) == size  # else an answer of many small pieces looks slower than it is
        moved.clear()
        while size > sum(moved):
            moved.append(len(peer.recv(size)))
        moved.clear()


def test_a_peer_that_reads_nothing_for_a_while_is_waited_for(pair: Callable[[], Pair]) -> None:
    link, peer = pair()
    size = 3_000_000

    pause = threading.Event()

    def read_late() -> None:
        pause.wait(2 * PAUSE)
        left = size
        while left:
            left -= len(peer.recv(left))

    for send in (link.send, lambda data: link.send_watching(memoryview(data))):
        thread = threading.Thread(target=read_late)
        thread.start()
        send(b"x" * size)
        thread.join()


def test_a_worker_that_held_a_connection_is_there_for_others_when_they_are_few(pair: Callable[[], Pair]) -> None:
    eased: list[bool] = []
    back, gate = threading.Semaphore(0), threading.Event()

    def serve(connection: Connection) -> Fate:
        eased.append(workers.at_ease())
        back.release()
        gate.wait(PATIENCE)
        return Fate.WAIT

    workers = Workers(4, serve, lambda connection: back.release(), "w")
    for _ in range(4):
        workers.submit(connection(pair()))
        assert back.acquire(timeout=PATIENCE)
    assert eased == [True, True, False, False] and not workers.crowded()
    waiting = connection(pair())
    workers.submit(waiting)
    assert workers.crowded()
    gate.set()
    for _ in range(6):
        assert back.acquire(timeout=PATIENCE)
    assert not workers.crowded() and workers.stop(PATIENCE)


def test_listening_ends_after_a_pause(pair: Callable[[], Pair]) -> None:
    link, peer = pair()
    assert link.listen() is None
    peer.sendall(b"abc")
    assert (link.listen(), bytes(link.data)) == (3, b"abc")
    peer.close()
    assert link.listen() == 0


# -- connection, waiting ---------------------------------------------------------------------------


def connection(pair: Pair, data: bytes = b"") -> Connection:
    made = Connection(pair[0].sock, ("peer", 1), patient())
    made.link.data += data
    return made


def test_each_byte_of_a_head_is_scanned_once(pair: Callable[[], Pair]) -> None:
    made = connection(pair())
    for byte in b"GET / HTTP/1.1\r\nHost: h\r\n\r":
        made.link.data.append(byte)
        assert not made.has_work(Limits())
    made.link.data.append(0x0A)
    assert made.has_work(Limits())
    assert made.take_head(Limits()).endswith(b"\r\n\r\n") and not made.link.data


def test_a_skipped_body_may_have_been_read_already(pair: Callable[[], Pair]) -> None:
    made = connection(pair(), b"bodyGET")
    made.skip = 4
    made.pass_over()
    assert (made.skip, bytes(made.link.data)) == (0, b"GET")
    made.skip = 10
    made.pass_over()
    assert (made.skip, bytes(made.link.data)) == (7, b"")


def test_waiting_knows_who_is_overdue_and_how_many_bytes_they_hold(pair: Callable[[], Pair]) -> None:
    waiting = Waiting({State.HEAD: 10.0, State.IDLE: 100.0})
    a, b, c = (connection(pair(), b"xyz") for _ in range(3))
    assert waiting.next_due() is None
    waiting.enter(a, State.HEAD, 0.0)
    waiting.enter(b, State.HEAD, 1.0)
    waiting.enter(c, State.IDLE, 1.0)
    assert (waiting.next_due(), waiting.head_bytes, waiting.oldest(State.HEAD), waiting.since(c)) == (
        10.0,
        6,
        a,
        1.0,
    )
    assert (waiting.overdue(9.9), waiting.overdue(10.0), waiting.overdue(1000.0)) == ([], [a], [a, b, c])
    waiting.grew(a, 0)
    a.link.data += b"more"
    waiting.grew(a, 4)
    waiting.grew(c, 4)
    assert waiting.head_bytes == 10
    waiting.leave(a)
    waiting.leave(a)
    assert (waiting.head_bytes, a.state, waiting.counts()) == (3, State.SERVED, {"head": 1, "idle": 1})
    waiting.shorten(State.IDLE, 5.0, 2.0)
    waiting.enter(a, State.IDLE, 3.0)
    assert [each.due for each in (c, a)] == [7.0, 8.0]


# -- acceptor --------------------------------------------------------------------------------------


class Listener:
    """A listening socket whose accept() does as it is told."""

    def __init__(self, *results: OSError | tuple[object, tuple[str, int]]) -> None:
        self.results = list(results)
        self.sock = socket.create_server(("127.0.0.1", 0))

    def accept(self) -> object:
        if not self.results:
            raise BlockingIOError
        result = self.results.pop(0)
        if isinstance(result, OSError):
            raise result
        return result

    def setblocking(self, flag: bool) -> None:
        self.sock.setblocking(flag)

    def fileno(self) -> int:
        return self.sock.fileno()

    def close(self) -> None:
        self.sock.close()


def test_accept_goes_on_after_one_lost_connection_and_pauses_without_descriptors() -> None:
    taken: list[tuple[str, int]] = []
    listener = Listener(
        OSError(errno.ECONNABORTED, "gone"), (None, ("a", 1)), OSError(errno.EMFILE, "no more"), (None, ("b", 2)), (None, ("c", 3))
    )  # fmt: skip
    with selectors.DefaultSelector() as selector:
        acceptor = Acceptor(listener, selector, lambda sock, peer: taken.append(peer))  # type: ignore[arg-type]
        acceptor.update(10, 100.0)
        acceptor.accept()
        assert (taken, acceptor.next_due()) == ([("a", 1)], 100.0 + PAUSE_SECONDS)
        acceptor.update(10, 100.0)
        assert not selector.get_map()
        acceptor.update(1, 101.0)
        assert (acceptor.next_due(), len(selector.get_map())) == (None, 1)
        acceptor.accept()
        assert taken[1:] == [("b", 2)]
        acceptor.update(0, 101.0)
        assert not selector.get_map()
        acceptor.finish()
        acceptor.update(0, 101.0)
        assert not acceptor.closed
        acceptor.update(5, 101.0)
        assert acceptor.closed and taken[2:] == [("c", 3)] and acceptor.accepted == 3
        acceptor.update(5, 101.0)
        acceptor.close()


# -- custody, workers ------------------------------------------------------------------------------


def custody(selector: selectors.BaseSelector, submit: Callable[[Connection], None]) -> Custody:
    return Custody(selector, Limits(), 10, submit=submit, refusal=lambda error: b"no", pressed=lambda: False)


def tcp() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        return listener.accept()[0], ours


def reset(sock: socket.socket) -> None:
    Link(sock, patient()).reset_on_close()
    sock.close()


def test_one_connections_trouble_is_its_own(caplog: pytest.LogCaptureFixture) -> None:
    def submit(connection: Connection) -> None:
        raise KeyError("bug")

    with selectors.DefaultSelector() as selector:
        kept = custody(selector, submit)
        sock, peer = tcp()
        peer.sendall(b"\0")
        while not Link(sock, patient()).readable(PATIENCE):
            pass
        kept.adopt(sock, ("peer", 1))
        assert "connection_failed" in caplog.text and not kept.open and sock.fileno() == -1
        peer.close()


def test_what_broke_before_it_was_adopted_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> Connection:
        raise OSError(errno.EINVAL, "reset")

    monkeypatch.setattr("dfs.wire.custody.Connection", broken)
    with selectors.DefaultSelector() as selector:
        sock, peer = tcp()
        kept = custody(selector, lambda connection: None)
        kept.adopt(sock, ("peer", 1))
        assert not kept.open and sock.fileno() == -1
        peer.close()


@pytest.mark.parametrize("state", [State.FRESH, State.LINGER, State.SKIP, State.HEAD])
def test_resets_and_false_alarms_in_every_state(state: State) -> None:
    with selectors.DefaultSelector() as selector:
        kept = custody(selector, lambda connection: None)
        sock, peer = tcp()
        kept.adopt(sock, ("peer", 1))
        (made,) = kept.open
        made.skip = 5
        kept._move(made, state)
        kept.readable(made)
        assert made in kept.open
        reset(peer)
        assert made.link.readable(PATIENCE)
        if state is State.HEAD:
            made.due = 0.0
            kept.time_over(made)  # the refusal cannot be sent
        else:
            kept.readable(made)
        assert not kept.open and not selector.get_map()
        kept.close(made)


def test_lingering_with_a_peer_that_is_gone_closes() -> None:
    with selectors.DefaultSelector() as selector:
        kept = custody(selector, lambda connection: None)
        sock, peer = tcp()
        kept.adopt(sock, ("peer", 1))
        (made,) = kept.open
        kept._release(made)
        reset(peer)
        assert made.link.readable(PATIENCE)
        made.fate = Fate.LINGER
        kept.take_back(made)
        assert not kept.open


def test_a_stale_list_of_overdue_connections_does_no_harm() -> None:
    with selectors.DefaultSelector() as selector:
        kept = custody(selector, lambda connection: None)
        sock, peer = tcp()
        kept.adopt(sock, ("peer", 1))
        (made,) = kept.open
        kept.time_over(made)
        kept._release(made)
        kept.time_over(made)
        assert made in kept.open
        kept.close(made)
        peer.close()


def test_a_worker_survives_a_bug(pair: Callable[[], Pair], caplog: pytest.LogCaptureFixture) -> None:
    done: list[Fate] = []
    back = threading.Semaphore(0)

    def finished(connection: Connection) -> None:
        done.append(connection.fate)
        back.release()

    def serve(connection: Connection) -> Fate:
        if connection.requests:
            raise KeyError("bug")
        return Fate.WAIT

    workers = Workers(1, serve, finished, "w")
    good, bad = connection(pair()), connection(pair())
    bad.requests = 1
    for each in (bad, good):
        workers.submit(each)
        assert back.acquire(timeout=PATIENCE)
    assert done == [Fate.RESET, Fate.WAIT] and "worker_failed" in caplog.text
    assert workers.stop(PATIENCE)
    workers.submit(good)
    assert workers.counts()["ready"] == 1


def test_without_more_threads_the_others_do_the_work(
    pair: Callable[[], Pair], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    back, gate = threading.Semaphore(0), threading.Event()

    def serve(connection: Connection) -> Fate:
        gate.wait(PATIENCE)
        return Fate.WAIT

    workers = Workers(2, serve, lambda connection: back.release(), "w")
    workers.submit(connection(pair()))

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        workers.submit(connection(pair()))
    gate.set()
    assert back.acquire(timeout=PATIENCE) and back.acquire(timeout=PATIENCE)
    assert "worker_not_started" in caplog.text and workers.counts()["workers"] == 1
    assert workers.stop(PATIENCE)


# -- server ----------------------------------------------------------------------------------------


def test_the_file_limit_is_raised_where_the_system_lets_us(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(limits_module.resource, "getrlimit", lambda kind: (100, 200))
    monkeypatch.setattr(limits_module.resource, "setrlimit", lambda kind, value: asked.append(value))
    assert raise_file_limit() == 200 and asked == [(200, 200)]

    def refuse(kind: int, value: tuple[int, int]) -> None:
        raise ValueError("not allowed")

    monkeypatch.setattr(limits_module.resource, "setrlimit", refuse)
    assert raise_file_limit() == 100 and "file_limit_kept" in caplog.text
    monkeypatch.setattr(limits_module.resource, "getrlimit", lambda kind: (resource.RLIM_INFINITY,) * 2)
    assert raise_file_limit() > 100_000


def test_a_poller_that_fails_says_so_and_closes_everything(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server = HttpServer(("127.0.0.1", 0), [Route("GET", "/", lambda request: Response.empty(204))])
    fatal = threading.Event()
    server.on_fatal = fatal.set
    server.start()
    client = Raw(server.port).send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    client.until(b"\r\n\r\n")
    assert server._poller is not None

    def broken() -> None:
        raise KeyError("bug")

    monkeypatch.setattr(server._poller, "_turn", broken)
    server._poller._wake()
    assert fatal.wait(PATIENCE) and "server_failed" in caplog.text
    assert client.rest() == b""
    server.close()


def test_a_handler_that_never_ends_is_left_behind_and_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("dfs.wire.poller.STOP_SECONDS", 0.05)
    entered, gate = threading.Event(), threading.Event()

    def handler(request: Request) -> Response:
        entered.set()
        gate.wait(PATIENCE)
        raise DfsError("late")

    server = HttpServer(("127.0.0.1", 0), [Route("GET", "/", handler)])
    server.start()
    client = Raw(server.port).send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    assert entered.wait(PATIENCE)
    server.close()
    assert "handlers_left_running" in caplog.text
    assert client.rest() == b""
    gate.set()


def test_a_reset_while_a_worker_still_listens_ends_the_connection() -> None:
    route = Route("GET", "/", lambda request: Response.empty(204))
    server = HttpServer(("127.0.0.1", 0), [route], limits=Limits(hot_seconds=PATIENCE))
    server.start()
    client = Raw(server.port).send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    client.until(b"\r\n\r\n")
    reset(client.sock)
    pause = threading.Event()
    while server.stats()["connections"]:
        pause.wait(0.001)
    server.close()


def test_a_refusal_that_cannot_be_sent_closes() -> None:
    server = HttpServer(("127.0.0.1", 0), [])
    sock, peer = tcp()
    made = Connection(sock, ("peer", 1), patient())
    made.link.data += b"\0"
    reset(peer)
    assert made.link.readable(PATIENCE)
    assert Exchanges(server).serve(made) is Fate.CLOSE
    made.link.close()
    server.close()
