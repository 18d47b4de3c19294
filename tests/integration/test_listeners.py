"""Sockets of a server process: bound, adopted from systemd, chosen among ports (dfs.process, dfs.node.ports)."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dfs import process
from dfs.errors import StartError
from dfs.node import ports
from dfs.settings import NodeSettings
from tests.support import needs

HOST = "127.0.0.1"
REPOSITORY = Path(process.__file__).parents[1]


@pytest.fixture
def held() -> Iterator[socket.socket]:
    """A port that somebody listens on."""
    with socket.create_server((HOST, 0)) as server:
        yield server


def port_of(bound: socket.socket) -> int:
    return int(bound.getsockname()[1])


@pytest.fixture
def spare() -> Iterator[tuple[int, int]]:
    """Two ports that nobody listens on; held bound, so that no other test is given them."""
    with bind(HOST, 0) as one, bind(HOST, 0) as two:
        yield port_of(one), port_of(two)


def listen(host: str, port: int) -> socket.socket:
    return process.listen(host, port, port_setting="DFS_API_PORT", bind_setting="DFS_API_BIND")


def bind(host: str, port: int) -> socket.socket:
    return process.bind(host, port, port_setting="DFS_API_PORT", bind_setting="DFS_API_BIND")


def test_a_listening_socket_takes_connections() -> None:
    with listen(HOST, 0) as server, socket.create_connection(server.getsockname()):
        server.accept()[0].close()


def test_a_bound_socket_refuses_connections_until_it_listens() -> None:
    with bind(HOST, 0) as bound:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(bound.getsockname())
        bound.listen()
        socket.create_connection(bound.getsockname()).close()


def test_a_port_in_use_names_its_setting(held: socket.socket) -> None:
    with pytest.raises(process.PortInUse, match=rf"DFS_API_PORT={port_of(held)}: the port is in use on 127.0.0.1"):
        listen(HOST, port_of(held))


def test_a_port_taken_between_binding_and_listening_names_its_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    with bind(HOST, 0) as rival:
        real = process.bind

        def bind_while_the_rival_listens(*args: object, **names: str) -> socket.socket:
            bound = real(*args, **names)  # type: ignore[arg-type]
            rival.listen()
            return bound

        monkeypatch.setattr(process, "bind", bind_while_the_rival_listens)
        with pytest.raises(process.PortInUse, match="DFS_API_PORT"):
            listen(HOST, port_of(rival))


def test_an_address_of_another_machine_names_its_setting() -> None:
    with pytest.raises(StartError, match=r"DFS_API_BIND=203\.0\.113\.1: this machine does not have that address"):
        listen("203.0.113.1", 0)


@pytest.mark.parametrize(
    ("number", "said"),
    [(errno.EACCES, "choose one above 1023"), (errno.ENOBUFS, "cannot listen there")],
)
def test_other_refusals_name_the_settings_too(number: int, said: str) -> None:
    error = process._bind_error(OSError(number, os.strerror(number)), HOST, 80, "DFS_API_PORT", "DFS_API_BIND")
    assert "DFS_API_PORT=80" in str(error)
    assert said in str(error)


def test_ipv6() -> None:
    needs.ipv6()
    with listen("::1", 0) as server:
        assert server.family == socket.AF_INET6


# --- sockets from systemd ---


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A listening socket, and variables that say it was passed to this process."""
    server = socket.create_server((HOST, 0))
    os.set_inheritable(server.fileno(), True)
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "1")
    yield server
    server.close()


def test_a_passed_socket_is_adopted_once_and_not_handed_on(passed: socket.socket) -> None:
    adopted = process.inherited_listener(os.dup(passed.fileno()))
    assert adopted is not None
    with adopted:
        assert port_of(adopted) == port_of(passed)
        assert not adopted.get_inheritable()
        assert "LISTEN_FDS" not in os.environ
        assert process.inherited_listener() is None


def test_several_passed_sockets_are_refused(passed: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_FDS", "2")
    with pytest.raises(StartError, match="LISTEN_FDS=2: one listening socket is expected"):
        process.inherited_listener()


def test_a_passed_descriptor_that_is_no_socket_is_refused(passed: socket.socket, tmp_path: Path) -> None:
    with open(tmp_path / "file", "w") as file, pytest.raises(StartError, match="is not a socket"):
        process.inherited_listener(file.fileno())


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_passed_socket_that_does_not_listen_is_refused(passed: socket.socket, kind: socket.SocketKind) -> None:
    with socket.socket(socket.AF_INET, kind) as other:
        with pytest.raises(StartError, match="is not a listening TCP socket"):
            process.inherited_listener(other.fileno())
        assert other.getsockname(), "the refused descriptor is left open"


def test_a_process_adopts_what_systemd_passes() -> None:
    with socket.create_server((HOST, 0)) as server:
        code = (
            "import os, sys\n"
            f"os.dup2({server.fileno()}, 3)\n"
            "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1')\n"
            "from dfs import process\n"
            "print(process.inherited_listener().getsockname()[1])"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=REPOSITORY, pass_fds=[server.fileno()], capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.stdout == f"{port_of(server)}\n", done.stderr


# --- a node's port ---


def test_an_inherited_socket_beats_node_port(passed: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "inherited_listener", lambda: passed)
    assert ports.choose(NodeSettings(node_port=1), HOST) is passed
    assert ports.open_for_calls(passed, NodeSettings(node_port=1), HOST) is passed


def test_node_port_is_taken_as_it_is(held: socket.socket, spare: tuple[int, int]) -> None:
    number, _ = spare
    with ports.choose(NodeSettings(node_port=number), HOST) as bound:
        assert port_of(bound) == number
    with pytest.raises(StartError, match=f"NODE_PORT={port_of(held)}: the port is in use"):
        ports.choose(NodeSettings(node_port=port_of(held)), HOST)


def test_node_port_0_is_any_free_port() -> None:
    with ports.choose(NodeSettings(node_port=0), HOST) as one, ports.choose(NodeSettings(node_port=0), HOST) as two:
        assert port_of(one) != port_of(two)


def test_the_usual_ports_are_those_of_the_seed() -> None:
    assert ports.AUTOMATIC == (8081, 8082, 8083, 8084, 8085, 8086, 8087, 8088, 8089, 8090, 8080)


def test_without_node_port_the_first_free_usual_port_is_taken(held: socket.socket, spare: tuple[int, int]) -> None:
    first, second = spare
    with ports.choose(NodeSettings(), HOST, [port_of(held), first, second]) as bound:
        assert port_of(bound) == first


def test_without_any_free_usual_port_the_way_out_is_named(held: socket.socket) -> None:
    with pytest.raises(StartError, match=f"usual ports {port_of(held)} are in use on 127.0.0.1: set NODE_PORT, 0"):
        ports.choose(NodeSettings(), HOST, [port_of(held)])


def test_a_wrong_address_is_not_taken_for_ports_in_use() -> None:
    with pytest.raises(StartError, match="DFS_NODE_BIND=203"):
        ports.choose(NodeSettings(), "203.0.113.1")


def test_a_port_taken_while_the_disk_recovered_is_replaced_where_node_port_allows(spare: tuple[int, int]) -> None:
    first, second = spare
    chosen = ports.choose(NodeSettings(), HOST, [first, second])
    assert port_of(chosen) == first
    with bind(HOST, first) as rival:
        rival.listen()
        with ports.open_for_calls(chosen, NodeSettings(), HOST, [first, second]) as serving:
            assert port_of(serving) == second
            socket.create_connection(serving.getsockname()).close()


def test_a_port_taken_while_the_disk_recovered_is_said_where_node_port_does_not_allow(spare: tuple[int, int]) -> None:
    number, _ = spare
    settings = NodeSettings(node_port=number)
    chosen = ports.choose(settings, HOST)
    with bind(HOST, number) as rival:
        rival.listen()
        with pytest.raises(StartError, match=f"NODE_PORT={number}: the port cannot be listened on"):
            ports.open_for_calls(chosen, settings, HOST)
