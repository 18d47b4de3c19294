from __future__ import annotations

import hashlib
import io
import os
import threading
from pathlib import Path
from typing import BinaryIO, cast

import pytest

from dfs.client.failures import LocalFailure
from dfs.client.source import PIECE, Source


class Pipe(io.RawIOBase):
    """A stream that can be read once, a little at a time."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def read(self, n: int = -1) -> bytes:
        return self._data.read(min(n, 3))


def test_a_file_is_read_in_pieces_and_hashed(tmp_path: Path) -> None:
    data = os.urandom(2 * PIECE + 5)
    (tmp_path / "f").write_bytes(data)
    told: list[tuple[int, int | None]] = []
    with Source.open(tmp_path / "f") as source:
        assert source.size == len(data) and source.can_restart and not source.complete
        pieces = list(source.pieces(lambda done, total: told.append((done, total))))
        assert [len(piece) for piece in pieces] == [PIECE, PIECE, 5]
        assert source.complete and source.sha256() == hashlib.sha256(data).hexdigest()
    assert told[0] == (0, len(data)) and told[-1] == (len(data), len(data))


def test_the_hash_is_of_the_whole_even_when_sending_stopped_early() -> None:
    with Source.open(b"x" * (3 * PIECE)) as source:
        next(iter(source.pieces()))
        assert source.sha256() == hashlib.sha256(b"x" * (3 * PIECE)).hexdigest()


def test_a_file_object_is_sent_from_where_it_stands_and_stays_open() -> None:
    file = io.BytesIO(b"headbody")
    file.seek(4)
    with Source.open(file) as source:
        assert source.size == 4 and source.read_all() == b"body" and source.read_all() == b"body"
        assert source.read_at(1, 2) == b"od"
    assert not file.closed


def test_a_pipe_is_sent_once() -> None:
    source = Source.open(cast(BinaryIO, Pipe(b"abcdef")))
    assert source.size is None and source.can_restart
    assert source.read_all() == b"abcdef"
    assert not source.can_restart
    with pytest.raises(LocalFailure, match="twice"):
        source.read_all()
    with pytest.raises(LocalFailure, match="in chunks"):
        source.read_at(0, 1)


def test_a_named_pipe_has_no_size(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "p")
    writer = threading.Thread(target=lambda: (tmp_path / "p").write_bytes(b"through"))
    writer.start()
    with Source.open(tmp_path / "p") as source:
        assert source.size is None and source.read_all() == b"through"
    writer.join()


def test_a_file_that_gets_shorter_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"0123456789")
    with Source.open(tmp_path / "f") as source:
        os.truncate(tmp_path / "f", 4)
        with pytest.raises(LocalFailure, match="shorter"):
            source.read_all()
        with pytest.raises(LocalFailure, match="shorter"):
            source.read_at(2, 5)


def test_a_file_that_grows_is_sent_as_it_was_and_the_change_is_told(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"0123")
    with Source.open(tmp_path / "f") as source:
        source.check_unchanged()
        with (tmp_path / "f").open("ab") as file:
            file.write(b"more")
        assert source.read_all() == b"0123"
        with pytest.raises(LocalFailure, match="changed while it was being sent"):
            source.check_unchanged()


@pytest.mark.parametrize("name", ["missing", "directory", "nul\0"])
def test_what_cannot_be_read_is_said_in_one_sentence(tmp_path: Path, name: str) -> None:
    (tmp_path / "directory").mkdir()
    with pytest.raises(LocalFailure, match="^cannot read"):
        with Source.open(tmp_path / name) as source:
            source.read_all()


def test_text_streams_are_refused() -> None:
    with pytest.raises(TypeError, match="binary"):
        Source.open(cast(BinaryIO, io.StringIO("text"))).read_all()


class Failing(io.BytesIO):
    def read(self, _: int | None = -1) -> bytes:
        raise OSError(5, "Input/output error")

    def tell(self) -> int:
        if self.getvalue():
            raise OSError(29, "Illegal seek")
        return 0


def test_read_errors_are_translated() -> None:
    with pytest.raises(LocalFailure, match="Illegal seek"):
        Source.open(Failing(b"x"))
    file = Failing(b"")
    source = Source.open(file)
    source.size = 3
    with pytest.raises(LocalFailure, match="Input/output error"):
        source.read_all()
