"""dfs.process: arguments, signals, the parent's pipe, exit codes (sockets: tests/integration/test_listeners.py)."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dfs import process
from dfs.errors import SettingsError, StartError, Unavailable
from dfs.process import Interrupted, Lifetime
from dfs.settings import NodeSettings

REPOSITORY = Path(process.__file__).parents[1]


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """The tests' own process gets its signal handlers and its garbage collector back."""
    before = {number: signal.getsignal(number) for number in process.STOP_SIGNALS}
    threshold = gc.get_threshold()
    yield
    gc.set_threshold(*threshold)
    gc.unfreeze()
    for number, handler in before.items():
        signal.signal(number, handler)
    signal.set_wakeup_fd(-1)


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("DFS_", "NODE_")):
            monkeypatch.delenv(name)


def run(serve: object, *argv: str) -> int:
    return process.run("dfs-test", NodeSettings, serve, argv, description="A test.")  # type: ignore[arg-type]


def test_a_clean_end_is_exit_code_0() -> None:
    seen: list[NodeSettings] = []

    def serve(settings: NodeSettings, lifetime: Lifetime) -> None:
        seen.append(settings)
        lifetime.ready()
        lifetime.stop("done")
        assert lifetime.wait()
        assert lifetime.reason == "done"

    assert run(serve) == 0
    assert isinstance(seen[0], NodeSettings)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SettingsError("NODE_PORT='x' is bad"), 2),
        (StartError("the disk is another's"), 1),
        (Unavailable("metadata does not answer"), 1),
    ],
)
def test_a_failed_start_says_one_sentence(
    error: Exception, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def serve(_settings: NodeSettings, _lifetime: Lifetime) -> None:
        raise error

    assert run(serve) == code
    assert capsys.readouterr().err == f"dfs-test: {error}\n"


def test_a_bad_setting_stops_before_serving(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NODE_PORT", "many")
    assert run(lambda *_: pytest.fail("served")) == 2
    assert "NODE_PORT='many' is not allowed" in capsys.readouterr().err


def test_show_settings_prints_the_effective_values_and_ends(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "node.env"
    config.write_text("NODE_PORT=9999\nNODE_ID=fromfile\n")
    monkeypatch.setenv("NODE_ID", "fromenv")
    assert run(lambda *_: pytest.fail("served"), "--config", str(config), "--show-settings") == 0
    shown = capsys.readouterr().out
    assert "NODE_PORT=9999  #" in shown
    assert "NODE_ID=fromenv  #" in shown


def test_a_failure_while_serving_beats_an_earlier_clean_request(capsys: pytest.CaptureFixture[str]) -> None:
    def serve(_settings: NodeSettings, lifetime: Lifetime) -> None:
        lifetime.ready()
        lifetime.stop("SIGTERM")
        lifetime.stop("the disk failed", exit_code=1)
        lifetime.stop("another", exit_code=5)
        lifetime.wait()

    assert run(serve) == 1
    assert capsys.readouterr().err == "dfs-test: the disk failed\n"


def test_a_signal_during_the_start_interrupts_it_once_and_is_a_clean_stop() -> None:
    cleaned = []

    def serve(_settings: NodeSettings, lifetime: Lifetime) -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
            pytest.fail("went on")
        finally:
            signal.raise_signal(signal.SIGINT)  # must not cut the cleaning up
            cleaned.append(lifetime.stopping)

    assert run(serve) == 0
    assert cleaned == [True]


def test_a_stop_for_a_failure_during_the_start_keeps_its_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    def serve(_settings: NodeSettings, lifetime: Lifetime) -> None:
        lifetime.stop("the disk failed", exit_code=1)
        raise Interrupted(lifetime.reason)

    assert run(serve) == 1
    assert capsys.readouterr().err.endswith("dfs-test: the disk failed\n")


@pytest.mark.parametrize("number", process.STOP_SIGNALS)
def test_a_signal_while_serving_only_ends_the_wait(number: signal.Signals) -> None:
    def serve(_settings: NodeSettings, lifetime: Lifetime) -> None:
        lifetime.ready()
        assert not lifetime.wait(0)
        signal.raise_signal(number)
        signal.raise_signal(number)
        assert lifetime.wait()
        assert lifetime.reason == number.name

    assert run(serve) == 0


def test_a_signal_after_the_end_does_not_kill() -> None:
    with Lifetime() as lifetime:
        lifetime.ready()
    signal.raise_signal(signal.SIGTERM)


def test_wait_ends_when_another_thread_asks_for_a_stop() -> None:
    with Lifetime() as lifetime:
        lifetime.ready()
        asker = threading.Thread(target=lifetime.stop, args=("enough",))
        asker.start()
        assert lifetime.wait(60)
        asker.join()
        assert lifetime.wait(), "every later wait ends at once"


def test_wait_outlives_wake_ups_that_are_no_stop() -> None:
    with Lifetime() as lifetime:
        lifetime.ready()
        os.write(lifetime._wake_write, b"x")
        assert not lifetime.wait(0.01)
        lifetime._empty_pipe()  # nothing there: another reader was first


def test_stop_with_a_full_pipe_is_still_noticed() -> None:
    with Lifetime() as lifetime:
        lifetime.ready()
        for _ in range(70_000):
            lifetime.stop("again")
        assert lifetime.wait()


def test_the_end_of_the_parents_pipe_is_a_clean_stop() -> None:
    read, write = os.pipe()

    def serve(_settings: NodeSettings, lifetime: Lifetime) -> None:
        lifetime.ready()
        os.write(write, b"words are ignored")
        assert not lifetime.wait(0)
        os.close(write)
        assert lifetime.wait(60)
        assert lifetime.reason == "the parent process is gone"

    assert run(serve, "--parent-fd", str(read)) == 0
    os.close(read)


def test_the_end_of_the_parents_pipe_interrupts_a_start() -> None:
    read, write = os.pipe()

    def serve(_settings: NodeSettings, lifetime: Lifetime) -> None:
        os.close(write)
        lifetime.wait(60)
        pytest.fail("went on")

    assert run(serve, "--parent-fd", str(read)) == 0
    os.close(read)


def test_a_parents_descriptor_that_cannot_be_read_counts_as_its_end(tmp_path: Path) -> None:
    unreadable = os.open(tmp_path / "written", os.O_WRONLY | os.O_CREAT)

    def serve(_settings: NodeSettings, lifetime: Lifetime) -> None:
        lifetime.wait(60)
        pytest.fail("went on")

    assert run(serve, "--parent-fd", str(unreadable)) == 0
    os.close(unreadable)


def test_ready_writes_one_json_line_and_closes() -> None:
    read, write = os.pipe()

    def serve(_settings: NodeSettings, lifetime: Lifetime) -> None:
        lifetime.ready(port=8081, node_id="n")
        lifetime.ready(port=1)  # only once
        lifetime.stop("done")

    assert run(serve, "--ready-fd", str(write)) == 0
    with open(read) as stream:  # reaches its end only because the writing side was closed
        assert json.loads(stream.read()) == {"port": 8081, "node_id": "n"}


def test_a_server_that_is_ready_spares_the_garbage_collector_what_stays() -> None:
    def serve(_settings: NodeSettings, lifetime: Lifetime) -> None:
        lifetime.ready()
        lifetime.stop("done")

    assert run(serve) == 0
    assert gc.get_freeze_count() > 10_000
    assert gc.get_threshold()[0] == process.GC_YOUNG


def test_a_process_that_forks_watches_its_parent_without_a_thread() -> None:
    read, write = os.pipe()
    other, signal_of_other = os.pipe()

    def serve(_settings: NodeSettings, lifetime: Lifetime) -> None:
        assert "parent-watch" not in [thread.name for thread in threading.enumerate()]
        lifetime.hold_signals()
        os.write(write, b"words are ignored")
        assert not lifetime.wait(0.01)
        os.write(signal_of_other, b"x")
        assert not lifetime.wait(60, [other]), "ends when the other descriptor can be read"
        os.read(other, 1)
        signal.raise_signal(signal.SIGTERM)
        assert lifetime.wait(60, [other])
        os.close(write)
        assert lifetime.wait()

    argv = ["--parent-fd", str(read)]
    assert process.run("t", NodeSettings, serve, argv, description="", forks=lambda _settings: True) == 0

    with Lifetime(parent_fd=read, threads=False) as lifetime:
        assert lifetime.wait(60)
        assert lifetime.reason == "the parent process is gone"
    for fd in (read, other, signal_of_other):
        os.close(fd)


def test_nobody_reading_the_ready_line_is_no_reason_to_stop() -> None:
    read, write = os.pipe()
    os.close(read)

    def serve(_settings: NodeSettings, lifetime: Lifetime) -> None:
        lifetime.ready(port=8081)
        assert not lifetime.stopping

    assert run(serve, "--ready-fd", str(write)) == 0


@pytest.mark.parametrize(
    "argv",
    [
        ["--ready-fd", "2"],
        ["--ready-fd", "999999"],
        ["--ready-fd", "99999999999999999999"],
        ["--parent-fd", "-1"],
        ["--parent-fd", "x"],
        ["--conf", "abbreviated"],
        ["extra"],
    ],
)
def test_bad_usage_is_exit_code_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        run(lambda *_: pytest.fail("served"), *argv)
    assert end.value.code == 2
    assert "usage: dfs-test" in capsys.readouterr().err


def test_dfs_lists_its_commands_and_refuses_others() -> None:
    def dfs(*argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "dfs", *argv], cwd=REPOSITORY, capture_output=True, text=True, timeout=60
        )

    for asked in (["--help"], ["help"]):
        helped = dfs(*asked)
        assert helped.returncode == 0
        for command in ("up", "demo", "api", "node", "client", "admin"):
            assert f"\n  {command} " in helped.stdout
    assert dfs("--version").stdout.startswith("dfs ")
    wrong = dfs("upp")
    assert wrong.returncode == 2
    assert "there is no command 'upp'" in wrong.stderr
    assert dfs().returncode == 2


def test_ctrl_c_while_a_command_is_still_being_imported_is_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from dfs import __main__ as command_line

    (tmp_path / "interrupted_import.py").write_text("raise KeyboardInterrupt\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(command_line.COMMANDS, "slow", ("interrupted_import", "takes long"))
    assert command_line.main(["slow"]) == 130
    assert capsys.readouterr().err == "dfs: interrupted\n"


def test_dfs_hands_the_rest_to_the_commands_own_main(capsys: pytest.CaptureFixture[str]) -> None:
    from dfs.__main__ import main

    with pytest.raises(SystemExit) as end:
        main(["node", "--help"])
    assert end.value.code == 0
    assert "usage: dfs-node" in capsys.readouterr().out
