"""How one child of the embedded cluster is started, watched and stopped, with small programs as children."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dfs.errors import StartError
from dfs.local import cluster as local_cluster
from dfs.local import demo, supervise
from dfs.local.supervise import Child, Launch
from dfs.wire.client import HttpClient
from dfs.wire.deadline import Deadline
from tests.support.cluster import eventually
from tests.support.embedded import alive

SERVES = """
import os, sys
ready = int(sys.argv[sys.argv.index("--ready-fd") + 1])
parent = int(sys.argv[sys.argv.index("--parent-fd") + 1])
os.write(ready, b'{"port": 4711}\\n')
os.close(ready)
os.read(parent, 1)
"""
SERVES_STUBBORNLY = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SERVES
FAILS = "import sys; sys.exit('dfs-node: it cannot be')"
HANGS = "import signal; signal.pause()"

Make = Callable[..., Child]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Makes a child whose every start runs the next program (the last one again and again)."""
    made: list[Child] = []
    read, write = os.pipe()

    def build(*programs: str | None, supervise: bool = True) -> Child:
        left = list(programs)

        def launch() -> Launch:
            program = left.pop(0) if len(left) > 1 else left[0]
            arguments = [sys.executable, "-c", program] if program is not None else ["/no/such/program"]
            return Launch(arguments, dict(os.environ))

        child = Child(
            "child",
            launch,
            log_file=tmp_path / "log",
            pid_file=tmp_path / "pid",
            parent_fd=read,
            kept_fds=(),
            on_ready=lambda name, port: ports.append((name, port)),
            supervise=supervise,
        )
        made.append(child)
        return child

    ports: list[tuple[str, int]] = []
    build.ports = ports  # type: ignore[attr-defined]
    yield build
    for child in made:
        child.stop(10)
    os.close(read)
    os.close(write)


def started(child: Child) -> int:
    child.spawn()
    child.wait_ready()
    child.watch()
    assert child.pid is not None
    return child.pid


def test_a_child_says_its_port_and_has_a_pid_file(make: Make, tmp_path: Path) -> None:
    pid = started(make(SERVES))
    assert make.ports == [("child", 4711)]  # type: ignore[attr-defined]
    assert (tmp_path / "pid").read_text() == f"{pid}\n"


def test_a_child_that_fails_is_quoted(make: Make) -> None:
    child = make(FAILS)
    child.spawn()
    with pytest.raises(StartError, match="child did not start: dfs-node: it cannot be"):
        child.wait_ready()


def test_a_child_that_hangs_is_given_up(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "START_SECONDS", 0.2)
    child = make(HANGS)
    child.spawn()
    with pytest.raises(StartError, match="child did not start: it said nothing"):
        child.wait_ready()


def test_a_child_that_ignores_sigterm_is_killed_in_the_end(make: Make, tmp_path: Path) -> None:
    child = make(SERVES_STUBBORNLY)
    pid = started(child)
    child.stop(0.2)
    assert not alive(pid)
    assert not (tmp_path / "pid").exists()
    assert not child.spawn(), "a stopped child is never started again"


@pytest.mark.parametrize("second", [FAILS, None], ids=["exits at once", "cannot be executed"])
def test_a_restart_that_fails_is_tried_again(make: Make, tmp_path: Path, second: str | None) -> None:
    child = make(SERVES, second, SERVES)
    first = started(child)
    os.kill(first, signal.SIGKILL)
    eventually(lambda: len(make.ports) == 2, "it serves again")  # type: ignore[attr-defined]
    assert child.pid != first
    assert (tmp_path / "pid").read_text() == f"{child.pid}\n"


def test_a_long_log_is_turned_over_at_a_start(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "LOG_BYTES", 10)
    (tmp_path / "log").write_text("more than ten bytes")
    started(make(SERVES))
    assert (tmp_path / "log.1").read_text() == "more than ten bytes"
    assert (tmp_path / "log").read_text() == ""


def test_a_port_that_was_taken_meanwhile_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert not local_cluster._is_free(taken.getsockname()[1])
    assert local_cluster._is_free(0)


def test_an_api_that_dies_while_nodes_gather_ends_the_start() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def hang_up() -> None:
            connection, _ = server.accept()
            connection.close()

        closer = threading.Thread(target=hang_up)
        closer.start()
        client = HttpClient()
        with pytest.raises(StartError, match="stopped answering"):
            local_cluster._alive(client, "127.0.0.1", port, Deadline(10))
        closer.join()
        client.close()


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (StartError("no"), "no"),
        (demo.NotTheSame("no"), "no"),
        (OSError(28, "No space"), "No space; TMPDIR names another directory for its data"),
    ],
)
def test_a_demo_that_fails_says_so(
    error: Exception, sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_file: Path | None) -> None:
        raise error

    monkeypatch.setattr(demo, "_run", fail)
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    try:
        assert demo.main([]) == 1
    finally:
        for number, handler in zip((signal.SIGTERM, signal.SIGINT), handlers, strict=True):
            signal.signal(number, handler)
    assert capsys.readouterr().err == f"dfs demo: failed: {sentence}\n"
