from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dfs import errors
from dfs.client import Client, LocalConflict, LocalFailure, Replaced, VerifyFailed
from dfs.client.content import PIECE
from dfs.client.partfile import PartFile
from dfs.wire.client import ConnectFailed, ConnectionLost
from tests.unit.client.fakes import FakeAnswer, FakeApi, Seen, Stored, client_of

BODY = os.urandom(5 * PIECE + 17)


def names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("body", [b"", b"a", BODY])
def test_a_file_arrives_whole(tmp_path: Path, body: bytes, whole: bool) -> None:
    api = FakeApi()
    stored = api.add("d/f", body, whole=whole, chunk_size=100_000)
    info = client_of(api).get("d/f", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == body and names(tmp_path) == ["out"]
    assert info.file_id == stored.file_id and info.size == len(body) and info.modified == 1_700_000_000_000
    assert client_of(api).get(None, tmp_path / "by-id", file_id=stored.file_id).path is None
    assert (tmp_path / "by-id").read_bytes() == body


def test_a_broken_connection_goes_on_at_the_next_server(tmp_path: Path) -> None:
    api = FakeApi()
    stored = api.add("f", BODY)
    api.cuts.extend([2 * PIECE + 5, PIECE, 0, None])
    client_of(api, "http://a:1,http://b:2").get("f", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == BODY
    assert [seen.host for seen in api.seen] == ["a", "b", "a", "b"]
    ranges = [seen.headers.get("Range") for seen in api.seen]
    assert ranges == [None, f"bytes={2 * PIECE}-", f"bytes={3 * PIECE}-", f"bytes={3 * PIECE}-"]
    assert {seen.headers.get("If-Match") for seen in api.seen[1:]} == {f'"{stored.file_id}"'}


def test_a_server_that_never_gets_further_is_given_up(tmp_path: Path) -> None:
    api = FakeApi()
    api.add("f", BODY)
    api.cuts.extend([PIECE] + [0] * 100)
    (tmp_path / "out").write_bytes(b"old")
    with pytest.raises(errors.Unavailable):
        client_of(api).get("f", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"old" and names(tmp_path) == ["out"]
    assert len(api.seen) < 20


class Flaky(FakeApi):
    """Does something to itself when a given request comes."""

    def __init__(self, number: int, deed: Callable[[Flaky], None]) -> None:
        super().__init__()
        self._number = number
        self._deed = deed

    def _handle(self, seen: Seen) -> FakeAnswer:
        if len(self.seen) == self._number:
            self._deed(self)
        return super()._handle(seen)


def replace_it(api: Flaky) -> None:
    api.add("f", b"the new content")


def test_a_file_replaced_meanwhile_is_begun_again(tmp_path: Path) -> None:
    api = Flaky(2, replace_it)
    api.add("f", BODY)
    api.cuts.append(PIECE)
    told: list[int] = []
    info = client_of(api).get("f", tmp_path / "out", progress=lambda done, _: told.append(done))
    assert (tmp_path / "out").read_bytes() == b"the new content"
    assert info.size == 15 and told.count(0) == 2


@pytest.mark.parametrize("resume", [False, True])
def test_a_file_that_keeps_being_replaced_is_given_up(tmp_path: Path, resume: bool) -> None:
    class Restless(FakeApi):
        def _handle(self, seen: Seen) -> FakeAnswer:
            if len(self.seen) % 2 == 0:
                self.add("f", os.urandom(2 * PIECE))
            return super()._handle(seen)

    api = Restless()
    api.add("f", BODY)
    api.cuts.extend([PIECE] * 100)
    with pytest.raises(Replaced):
        client_of(api).get("f", tmp_path / "out", resume=resume)
    assert "out" not in names(tmp_path) and (resume or names(tmp_path) == [])


def test_bytes_that_were_passed_on_cannot_be_taken_back() -> None:
    api = Flaky(2, replace_it)
    api.add("f", BODY)
    api.cuts.append(PIECE)
    out = io.BytesIO()
    with pytest.raises(Replaced, match="incomplete"):
        client_of(api).get("f", out)
    with pytest.raises(Replaced):
        api = Flaky(2, replace_it)
        api.add("f", BODY)
        api.cuts.append(PIECE)
        list(client_of(api).iter_content("f"))


def test_a_file_deleted_meanwhile_is_not_found(tmp_path: Path) -> None:
    api = Flaky(2, lambda api: api.files.clear())
    api.add("f", BODY)
    api.cuts.append(PIECE)
    with pytest.raises(errors.NotFound):
        client_of(api).get("f", tmp_path / "out")


def corrupt(stored: Stored) -> Stored:
    class Lying(Stored):
        @property
        def sha256(self) -> str | None:
            return hashlib.sha256(b"something else").hexdigest()

    return Lying(stored.file_id, stored.body)


def test_content_that_does_not_verify_leaves_the_target_alone(tmp_path: Path) -> None:
    api = FakeApi()
    api.files["default", "f"] = corrupt(api.add("f", BODY))
    (tmp_path / "out").write_bytes(b"old")
    with pytest.raises(VerifyFailed):
        client_of(api).get("f", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"old" and names(tmp_path) == ["out"]
    with pytest.raises(VerifyFailed):
        client_of(api).read("f")


def test_a_chunk_that_does_not_verify_is_named(tmp_path: Path) -> None:
    api = FakeApi()
    stored = api.add("f", b"aaaabbbbcc", whole=False)
    api.done[stored.file_id] = Stored(stored.file_id, b"aaaaXbbbcc", whole=False)
    with pytest.raises(VerifyFailed, match="chunk 1 "):
        client_of(api).get("f", tmp_path / "out")


def test_a_plan_that_went_away_means_the_file_was_replaced(tmp_path: Path) -> None:
    def vanish(api: Flaky) -> None:
        api.done.clear()
        api.add("f", b"new")

    api = Flaky(2, vanish)
    api.add("f", b"aaaabbbb", whole=False)
    client_of(api).get("f", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"new"


def test_existing_files_can_be_protected(tmp_path: Path) -> None:
    api = FakeApi()
    api.add("f", b"x")
    (tmp_path / "out").write_bytes(b"old")
    with pytest.raises(LocalConflict):
        client_of(api).get("f", tmp_path / "out", replace=False)
    assert not api.seen
    client_of(api).get("f", tmp_path / "new", replace=False)
    assert (tmp_path / "new").read_bytes() == b"x"


def test_conditions_of_a_get(tmp_path: Path) -> None:
    api = FakeApi()
    stored = api.add("f", b"x")
    with pytest.raises(errors.ConditionFailed):
        client_of(api).get("f", tmp_path / "out", if_none_match=stored.file_id)
    with pytest.raises(errors.ConditionFailed):
        client_of(api).get("f", tmp_path / "out", if_match="other")
    client_of(api).get("f", tmp_path / "out", if_match=stored.file_id)


class Headless(FakeApi):
    """Leaves a header out of, or puts one into, every answer."""

    def __init__(self, name: str, value: str | None, status: int | None = None) -> None:
        super().__init__()
        self._name, self._value, self._status = name, value, status

    def _handle(self, seen: Seen) -> FakeAnswer:
        answer = super()._handle(seen)
        kept = [pair for pair in answer.headers if pair[0] != self._name]
        answer.headers = type(answer.headers)(kept + ([(self._name, self._value)] if self._value else []))
        if self._name == "Content-Length":
            answer.length = None
        return answer


@pytest.mark.parametrize(
    ("name", "value"), [("ETag", None), ("ETag", 'W/"x"'), ("ETag", '""'), ("Content-Length", None)]
)
def test_an_answer_without_what_is_needed_is_no_api(tmp_path: Path, name: str, value: str | None) -> None:
    api = Headless(name, value)
    api.add("f", b"x")
    with pytest.raises(LocalFailure):
        client_of(api).get("f", tmp_path / "out")
    with pytest.raises(LocalFailure):
        client_of(api).stat("f")
    assert names(tmp_path) == []


@pytest.mark.parametrize("value", [None, "bytes 0-9/10", "bytes 5-", f"bytes {PIECE}-{len(BODY)}/9999999999"])
def test_a_server_without_ranges_cannot_resume(tmp_path: Path, value: str | None) -> None:
    api = Headless("Content-Range", value)
    api.add("f", BODY)
    api.cuts.append(PIECE)
    with pytest.raises(LocalFailure, match="ranges"):
        client_of(api).get("f", tmp_path / "out")


def test_an_answer_that_ends_early_without_an_error_is_gone_on_with(tmp_path: Path) -> None:
    api = FakeApi()
    stored = api.add("f", BODY)

    def short(_: Seen) -> FakeAnswer:
        tag, digest = f'"{stored.file_id}"', hashlib.sha256(BODY).hexdigest()
        answer = FakeAnswer(200, [("ETag", tag), ("X-File-SHA256", digest)], BODY[:1000])
        answer.length = len(BODY)
        return answer

    api.faults.append(short)
    client_of(api).get("f", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == BODY and len(api.seen) == 2


def test_wrong_calls_are_programming_errors(tmp_path: Path) -> None:
    client = client_of(FakeApi())
    with pytest.raises(TypeError):
        client.get("f")
    with pytest.raises(TypeError):
        client.stat()
    with pytest.raises(TypeError):
        client.get("f", tmp_path / "x", file_id="y")


def test_small_files_can_be_read_into_memory() -> None:
    api = FakeApi()
    api.add("f", b"content")
    assert client_of(api).read("f") == b"content"
    with pytest.raises(LocalFailure, match="longer"):
        client_of(api).read("f", limit=3)


# Resuming


def interrupted(tmp_path: Path, api: FakeApi, at: int = 2 * PIECE) -> None:
    """A download that broke off after `at` bytes."""
    api.cuts.extend([at] + [0] * 30)
    with pytest.raises(errors.Unavailable):
        client_of(api).get("f", tmp_path / "out", resume=True)
    api.cuts.clear()
    api.seen.clear()


@pytest.mark.parametrize("whole", [True, False])
def test_an_interrupted_download_goes_on_where_it_was(tmp_path: Path, whole: bool) -> None:
    api = FakeApi()
    stored = api.add("f", BODY, whole=whole, chunk_size=100_000)
    interrupted(tmp_path, api)
    assert names(tmp_path) == ["out.part", "out.part.json"]
    client_of(api).get("f", tmp_path / "out", resume=True)
    assert (tmp_path / "out").read_bytes() == BODY and names(tmp_path) == ["out"]
    gets = [seen for seen in api.seen if seen.method == "GET" and seen.path == "/files/f"]
    assert [seen.headers.get("Range") for seen in gets] == [f"bytes={2 * PIECE}-"]
    assert gets[0].headers.get("If-Match") == f'"{stored.file_id}"'


def test_a_part_of_another_file_is_begun_again(tmp_path: Path) -> None:
    api = FakeApi()
    api.add("f", BODY)
    interrupted(tmp_path, api)
    api.add("f", b"new")
    client_of(api).get("f", tmp_path / "out", resume=True)
    assert (tmp_path / "out").read_bytes() == b"new" and names(tmp_path) == ["out"]


def test_a_part_that_is_complete_is_verified_and_renamed(tmp_path: Path) -> None:
    api = FakeApi()
    stored = api.add("f", BODY)
    (tmp_path / "out.part").write_bytes(BODY)
    (tmp_path / "out.part.json").write_text(json.dumps({"etag": stored.file_id}))
    client_of(api).get("f", tmp_path / "out", resume=True)
    assert (tmp_path / "out").read_bytes() == BODY
    assert [seen.method for seen in api.seen] == ["HEAD"]


@pytest.mark.parametrize("length", [len(BODY), 3 * PIECE])
def test_a_damaged_part_is_begun_again(tmp_path: Path, length: int) -> None:
    api = FakeApi()
    stored = api.add("f", BODY)
    (tmp_path / "out.part").write_bytes(b"\0" * length)
    (tmp_path / "out.part.json").write_text(json.dumps({"etag": stored.file_id}))
    client_of(api).get("f", tmp_path / "out", resume=True)
    assert (tmp_path / "out").read_bytes() == BODY and names(tmp_path) == ["out"]


@pytest.mark.parametrize("note", ["", "{", "[]", '{"etag": 5}', '{"etag": "a\\"b"}', '{"etag": "\\u00e9"}', "[" * 9999])
def test_a_part_without_a_usable_note_is_begun_again(tmp_path: Path, note: str) -> None:
    api = FakeApi()
    api.add("f", BODY)
    (tmp_path / "out.part").write_bytes(b"who knows")
    (tmp_path / "out.part.json").write_text(note)
    client_of(api).get("f", tmp_path / "out", resume=True)
    assert (tmp_path / "out").read_bytes() == BODY and names(tmp_path) == ["out"]


def test_what_does_not_verify_from_its_start_is_given_up_at_once(tmp_path: Path) -> None:
    api = FakeApi()
    api.files["default", "f"] = corrupt(api.add("f", BODY))
    with pytest.raises(VerifyFailed):
        client_of(api).get("f", tmp_path / "out", resume=True)
    assert names(tmp_path) == []
    assert len(api.seen) == 1


def test_a_file_replaced_while_resuming_is_begun_again(tmp_path: Path) -> None:
    api = Flaky(3, replace_it)
    api.add("f", BODY)
    interrupted(tmp_path, api)
    api.cuts.extend([PIECE, None])
    client_of(api).get("f", tmp_path / "out", resume=True)
    assert (tmp_path / "out").read_bytes() == b"the new content"


def test_a_missing_file_leaves_no_part(tmp_path: Path) -> None:
    with pytest.raises(errors.NotFound):
        client_of(FakeApi()).get("f", tmp_path / "out", resume=True)
    assert names(tmp_path) == []


def test_two_downloads_do_not_share_a_part(tmp_path: Path) -> None:
    first = PartFile(tmp_path / "out")
    with pytest.raises(LocalFailure, match="another process"):
        PartFile(tmp_path / "out")
    first.abort()
    first.abort()
    PartFile(tmp_path / "out").abort()


def test_a_part_finished_by_another_process_just_now_is_not_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out.part").write_bytes(b"theirs")
    real = fcntl.flock

    def flock(fd: int, how: int) -> None:
        if (tmp_path / "out.part").stat().st_size:  # only the first time
            os.rename(tmp_path / "out.part", tmp_path / "out")
        real(fd, how)
        (tmp_path / "out.part").touch()

    monkeypatch.setattr(fcntl, "flock", flock)
    part = PartFile(tmp_path / "out")
    part.write(b"mine")
    assert (tmp_path / "out").read_bytes() == b"theirs" and (tmp_path / "out.part").read_bytes() == b"mine"
    part.abort()


def test_a_part_respects_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"old")
    with pytest.raises(LocalConflict):
        PartFile(tmp_path / "out", replace=False)
    with pytest.raises(LocalFailure, match="regular"):
        PartFile(tmp_path)
    with pytest.raises(LocalFailure, match="regular"):
        PartFile(Path("/dev/null"))
    with pytest.raises(LocalFailure, match="cannot write"):
        PartFile(tmp_path / "missing" / "out")


def test_a_part_cut_behind_our_back_is_noticed(tmp_path: Path) -> None:
    part = PartFile(tmp_path / "out")
    part.begin("e")
    part.write(b"12345")
    os.truncate(tmp_path / "out.part", 2)
    with pytest.raises(LocalFailure, match="shorter"):
        list(part.existing())
    part.abort()


def test_a_part_whose_descriptor_fails_is_translated(tmp_path: Path) -> None:
    part = PartFile(tmp_path / "out")
    part.write(b"12345")
    broken = os.open(tmp_path / "out.part", os.O_WRONLY)
    os.dup2(broken, part._fd)
    with pytest.raises(LocalFailure, match="cannot read"):
        list(part.existing())
    readable = os.open(tmp_path / "out.part", os.O_RDONLY)
    os.dup2(readable, part._fd)
    with pytest.raises(LocalFailure, match="cannot write"):
        part.write(b"x")
    with pytest.raises(LocalFailure, match="cannot write"):
        part.restart()
    os.unlink(tmp_path / "out.part")
    with pytest.raises(LocalFailure, match="cannot write"):
        part.commit()
    (tmp_path / "out.part.json").mkdir()
    os.dup2(os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT), part._fd)
    with pytest.raises(LocalFailure, match="cannot write"):
        part.begin("e")
    part.abort()
    os.close(broken)
    os.close(readable)


def test_every_server_down_names_what_to_do(tmp_path: Path) -> None:
    api = FakeApi()
    for _ in range(3):
        api.lose_before(ConnectFailed("cannot connect"))
    api.lose_before(ConnectionLost("lost"))
    api.add("f", b"x")
    client: Client = client_of(api, "http://a:1,http://b:2")
    client.get("f", tmp_path / "out")
    assert len(api.seen) == 5


def test_a_part_follows_a_symbolic_link(tmp_path: Path) -> None:
    api = FakeApi()
    api.add("f", b"x")
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real" / "out")
    client_of(api).get("f", tmp_path / "link", resume=True)
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real" / "out").read_bytes() == b"x"
