"""Stores that are not there are a sentence; programs that are started are ended, with their children."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.bench import machine, peers
from tests.bench.stores import server
from tests.bench.stores.dfs import Dfs, known_settings
from tests.bench.stores.nginx import find_nginx
from tests.bench.stores.seaweedfs import PLAIN, SYNCED
from tests.bench.stores.server import Missing, NotStarted, Program, free_ports, wait_until
from tests.support import needs

WAITER = "import signal, subprocess, sys; {child}print('up', flush=True); signal.pause()"


def _program(tmp_path: Path, text: str) -> Program:
    return Program([sys.executable, "-c", text], tmp_path / "log", stdout=subprocess.PIPE)


def test_a_missing_nginx_is_a_sentence_that_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(Missing, match="not installed here; apt-get install nginx-extras"):
        find_nginx(str(tmp_path))


def test_an_nginx_without_dav_is_a_sentence(tmp_path: Path) -> None:
    fake = tmp_path / "nginx"
    fake.write_text("#!/bin/sh\necho 'configure arguments: --with-threads' >&2\n")
    fake.chmod(0o755)
    with pytest.raises(Missing, match="without its DAV module"):
        find_nginx(str(tmp_path))
    fake.write_text("#!/bin/sh\necho 'configure arguments: --with-http_dav_module' >&2\n")
    assert find_nginx(str(tmp_path)) == str(fake)


def test_a_peer_that_cannot_be_installed_is_a_sentence_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python"
    python.write_text("#!/bin/sh\necho 'ERROR: No matching distribution found' >&2\nexit 1\n")
    python.chmod(0o755)
    said = peers.install("swift", tmp_path)
    assert said is not None
    assert said.startswith("swift: ERROR: No matching distribution found; with a network, `")
    assert "swift>=2.38" in said


def test_a_peer_that_is_there_is_not_installed_again(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "weed").write_text("")
    assert peers.install("seaweedfs", tmp_path) is None


def test_peers_are_for_linux(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert "on Linux only" in str(peers.install("swift", tmp_path))


def test_targets_of_a_line() -> None:
    assert PLAIN.put_target("a") == PLAIN.get_target("a") == "/a/{n}"
    assert SYNCED.put_target("a") == "/a/{n}?fsync=true"
    assert SYNCED.get_target("a") == "/a/{n}"


def test_free_ports_are_free_and_different() -> None:
    ports = free_ports(5)
    assert len(set(ports)) == 5
    for port in ports:
        socket.create_server(("127.0.0.1", port)).close()


def test_a_port_that_is_taken_is_not_offered() -> None:
    first = free_ports(1)[0]
    with socket.create_server(("127.0.0.1", first)):
        assert first not in free_ports(20)


def test_a_program_that_cannot_be_run_is_not_started(tmp_path: Path) -> None:
    with pytest.raises(NotStarted, match="No such file"):
        Program([str(tmp_path / "nothing")], tmp_path / "log")


def test_a_program_that_ends_while_it_is_waited_for_says_why(tmp_path: Path) -> None:
    program = Program([sys.executable, "-c", "raise SystemExit('no disk')"], tmp_path / "log")
    with pytest.raises(NotStarted, match="no disk"):
        wait_until("it", lambda: False, [program])
    program.stop()


def test_waiting_ends(tmp_path: Path) -> None:
    def refused() -> bool:
        raise ConnectionRefusedError

    with pytest.raises(NotStarted, match="did not serve within 0 s"):
        wait_until("it", refused, [], seconds=0)


def test_stopping_ends_what_a_program_has_started(tmp_path: Path) -> None:
    child = "p = subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()']); "
    program = _program(tmp_path, WAITER.format(child=child))
    assert program.process.stdout is not None
    program.process.stdout.readline()
    family = [process.pid for process in machine.family([program.pid])]
    if sys.platform.startswith("linux"):
        assert len(family) == 2
    orphan = next((pid for pid in family if pid != program.pid), None)
    program.stop()
    program.stop()
    assert program.process.returncode == -signal.SIGTERM
    if orphan is not None:
        _wait_gone(orphan)


def _wait_gone(pid: int) -> None:
    gone = threading.Event()
    while not gone.wait(0.01):
        process = machine.processes().get(pid)
        if process is None or not process.command:  # a zombie waits for whoever adopted it
            gone.set()


def test_a_program_that_will_not_stop_is_killed(tmp_path: Path) -> None:
    program = _program(tmp_path, "import signal; signal.signal(15, signal.SIG_IGN); print('up', flush=True); signal.pause()")
    assert program.process.stdout is not None
    program.process.stdout.readline()
    program.stop(patience=0.1)
    assert program.process.returncode == -signal.SIGKILL


def test_roles_of_a_clusters_processes(tmp_path: Path) -> None:
    cluster = Dfs(tmp_path)
    for command, role in (("python -m dfs.api", "api"), ("python -m dfs.node --ready-fd 3", "node"), ("python -m dfs up", "supervisor")):
        assert cluster.role(machine.Process(1, 0, command, 0.0, 0)) == role
    assert cluster.usage() == {}
    cluster.stop()


def test_settings_are_known_by_asking() -> None:
    assert {"DFS_CHUNK_SIZE", "DFS_VOLUME_SIZE"} <= known_settings()


def test_processes_know_themselves() -> None:
    needs.linux()
    mine = machine.processes()[os.getpid()]
    assert mine.parent == os.getppid()
    assert mine.rss > 1 << 20
    assert mine.cpu > 0
    assert os.getpid() in [process.pid for process in machine.family([os.getppid()])]
    assert machine.resident([os.getpid(), 1 << 30])[0] > 1 << 20


def test_memory_is_touched_within_bounds_and_nothing_is_left(tmp_path: Path) -> None:
    assert machine.touch_memory(tmp_path, 3 << 20) == 3 << 20
    assert list(tmp_path.iterdir()) == []


def test_the_machine_is_described(tmp_path: Path) -> None:
    about = machine.describe(tmp_path)
    assert about["cores"] == os.cpu_count()
    assert about["python"] == ".".join(map(str, sys.version_info[:3]))


def test_version_of_a_program() -> None:
    assert server.version_of([sys.executable, "--version"]).startswith("Python 3")
