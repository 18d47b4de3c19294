from __future__ import annotations

import os
import stat
import threading
from pathlib import Path
from typing import BinaryIO, cast

import pytest

from dfs.client.failures import LocalConflict, LocalFailure, Replaced, local_failure, printable
from dfs.client.localfile import AtomicFile, StreamSink, open_sink


def names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


def test_the_target_is_untouched_until_commit(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.write_bytes(b"old")
    file = AtomicFile(target)
    file.write(b"new")
    assert target.read_bytes() == b"old"
    file.commit()
    file.abort()
    assert target.read_bytes() == b"new" and names(tmp_path) == ["out"]


def test_aborting_leaves_nothing(tmp_path: Path) -> None:
    file = AtomicFile(tmp_path / "out")
    file.write(b"half")
    file.abort()
    file.abort()
    assert names(tmp_path) == []
    with pytest.raises(LocalFailure):
        file.write_at(b"late", 0)


def test_starting_again_forgets_what_was_written(tmp_path: Path) -> None:
    file = AtomicFile(tmp_path / "out")
    file.write(b"much too long")
    file.restart()
    file.write(b"short")
    file.commit()
    assert (tmp_path / "out").read_bytes() == b"short"


def test_pieces_from_several_threads_find_their_places(tmp_path: Path) -> None:
    file = AtomicFile(tmp_path / "out")
    threads = [threading.Thread(target=file.write_at, args=(bytes([n]) * 1000, n * 1000)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    file.commit()
    assert (tmp_path / "out").read_bytes() == b"".join(bytes([n]) * 1000 for n in range(20))


def test_a_name_as_long_as_can_be(tmp_path: Path) -> None:
    file = AtomicFile(tmp_path / ("n" * 255))
    file.commit()
    assert names(tmp_path) == ["n" * 255]


def test_a_replaced_file_passes_on_its_permissions(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.touch(mode=0o600)
    target.chmod(0o640)
    file = AtomicFile(target)
    file.commit()
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


def test_without_replacing_whoever_was_first_wins(tmp_path: Path) -> None:
    target = tmp_path / "out"
    file = AtomicFile(target, replace=False)
    file.write(b"mine")
    target.write_bytes(b"theirs")
    with pytest.raises(LocalConflict):
        file.commit()
    file.abort()
    assert target.read_bytes() == b"theirs" and names(tmp_path) == ["out"]
    with pytest.raises(LocalConflict):
        open_sink(target, replace=False)
    with pytest.raises(LocalConflict):
        AtomicFile(target, replace=False)


def test_a_symbolic_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    for existing in (False, True):
        link = tmp_path / f"link{existing}"
        goal = tmp_path / "real" / f"goal{existing}"
        if existing:
            goal.write_bytes(b"old")
        link.symlink_to(goal)
        sink = open_sink(link)
        sink.write(b"new")
        sink.commit()
        assert link.is_symlink() and goal.read_bytes() == b"new"


def test_devices_and_pipes_are_written_to_directly(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "p")
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "p").read_bytes()))
    reader.start()
    sink = open_sink(tmp_path / "p")
    sink.restart()
    sink.write(b"through")
    sink.commit()
    reader.join()
    assert read == [b"through"]
    with pytest.raises(Replaced):
        sink.restart()


@pytest.mark.parametrize("name", ["", "missing/out", "file/out", "x" * 300, "nul\0"])
def test_what_cannot_be_written_is_said(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LocalFailure, match="^cannot write"):
        open_sink(tmp_path / name)


def test_a_device_that_refuses_is_translated() -> None:
    sink = open_sink(Path("/dev/full"))
    sink.write(b"x")
    with pytest.raises(LocalFailure, match="No space left"):
        sink.commit()
    sink.abort()


class Broken:
    def __init__(self, error: OSError) -> None:
        self._error = error

    def write(self, _: bytes) -> int:
        raise self._error

    def flush(self) -> None:
        raise self._error


def test_stream_errors_are_translated_but_for_a_closed_pipe() -> None:
    for error, kind in ((OSError(5, "Input/output error"), LocalFailure), (BrokenPipeError(), BrokenPipeError)):
        sink = StreamSink(cast(BinaryIO, Broken(error)), "out")
        with pytest.raises(kind):
            sink.write(b"x")
        with pytest.raises(kind):
            sink.commit()


def test_a_full_disk_is_translated(tmp_path: Path) -> None:
    file = AtomicFile(tmp_path / "out")
    full = os.open("/dev/full", os.O_RDWR)
    os.dup2(full, file._fd)
    os.close(full)
    with pytest.raises(LocalFailure, match="No space left"):
        file.write(b"x")
    with pytest.raises(LocalFailure):
        file.restart()
    with pytest.raises(LocalFailure):
        file.commit()
    file.abort()
    assert names(tmp_path) == []


def test_a_device_that_may_not_be_opened_is_said(tmp_path: Path) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        with pytest.raises(LocalFailure, match="cannot write"):
            open_sink(tmp_path / "s")


def test_messages_are_one_printable_line() -> None:
    assert printable("a\n\x1b[2Jé") == "a\\n\\x1b[2Jé"
    assert "another file system" in local_failure("write", "x", OSError(18, "Invalid cross-device link")).message
    assert local_failure("write", "x", OSError("odd")).message == "cannot write x: odd"
