"""Uploads over several connections, against the scripted API."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dfs import errors
from dfs.client import LocalFailure, client
from dfs.model import new_file_id
from dfs.wire.client import ConnectionLost
from tests.unit.client.fakes import FakeAnswer, FakeApi, Seen, client_of, command

BODY = os.urandom(100_003)
CHUNK = 7000


@pytest.fixture(autouse=True)
def _everything_is_large(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(client, "CHUNKED_FROM", len(BODY))
    yield


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "f").write_bytes(BODY)
    return tmp_path / "f"


def put(api: FakeApi, source: Path, **options: object) -> str:
    made = client_of(api, "http://a:1,http://b:2")
    return made.put(source, "d/f.txt", chunk_size=CHUNK, jobs=4, **options).file_id  # type: ignore[arg-type]


def paths(api: FakeApi) -> list[str]:
    return [f"{seen.method} {seen.path.split('/')[1]}" for seen in api.seen]


def test_a_large_file_goes_up_in_chunks(source: Path) -> None:
    api = FakeApi()
    file_id = put(api, source)
    assert api.files["default", "d/f.txt"].body == BODY and not api.files["default", "d/f.txt"].whole
    assert api.done[file_id] is api.files["default", "d/f.txt"]
    assert paths(api).count("PUT proxy-chunk-upload") == 15 and "PUT files" not in paths(api)


@pytest.mark.parametrize("how", ["small", "sha256", "stream", "one job"])
def test_what_is_better_sent_in_one_piece_is(source: Path, how: str) -> None:
    api = FakeApi()
    made = client_of(api)
    if how == "small":
        source.write_bytes(BODY[1:])
        made.put(source, "p", jobs=4)
    elif how == "sha256":
        with pytest.raises(errors.ChecksumMismatch):
            made.put(source, "p", jobs=4, sha256="0" * 64)
    elif how == "stream":
        with open(source, "rb") as stream:
            made.put(stream, "p", jobs=4)
    else:
        made.put(source, "p")
    assert set(paths(api)) == {"PUT files"}


def test_conditions_are_looked_at_before_anything_is_sent(source: Path) -> None:
    api = FakeApi()
    first = put(api, source, if_none_match="*")
    api.seen.clear()
    for options in ({"if_none_match": "*"}, {"if_match": "other"}):
        with pytest.raises(errors.ConditionFailed):
            put(api, source, **options)
    assert paths(api) == ["GET uploads", "HEAD files"] * 2
    put(api, source, if_match=first)
    api.files.clear()
    with pytest.raises(errors.ConditionFailed):
        put(api, source, if_match=first)


def test_a_repeat_of_what_was_stored_does_not_fail_by_its_own_condition(source: Path) -> None:
    api = FakeApi()
    op_id = new_file_id()
    before = put(api, source)
    for options in ({"if_match": before}, {"if_match": before}):
        assert put(api, source, op_id=op_id, **options) == op_id
    api.files.clear()
    op_id = new_file_id()
    for _ in range(2):
        assert put(api, source, op_id=op_id, if_none_match="*") == op_id


@pytest.mark.parametrize("finished", [True, False])
def test_an_id_of_another_paths_upload_is_refused(source: Path, finished: bool) -> None:
    api = Aborts()
    op_id = new_file_id()
    made = client_of(api)
    made.put(source, "here", chunk_size=CHUNK, jobs=4, op_id=op_id)
    if not finished:
        api.files.clear()
        del api.done[op_id]
    for path, bucket in (("there", "default"), ("here", "uploads")):
        with pytest.raises(errors.ConditionFailed, match="another file"):
            made.put(source, path, bucket=bucket, chunk_size=CHUNK, jobs=4, op_id=op_id)
    assert not api.given_up and set(api.files) <= {("default", "here")}


def test_a_repeat_after_the_file_was_moved_is_told_what_was_stored(source: Path) -> None:
    api = FakeApi()
    op_id = put(api, source)
    api.files["default", "moved"] = api.files.pop(("default", "d/f.txt"))
    api.seen.clear()
    assert put(api, source, op_id=op_id, if_none_match="*") == op_id
    assert "PUT proxy-chunk-upload" not in paths(api)


class Aborts(FakeApi):
    """Knows DELETE /uploads/ID."""

    def __init__(self) -> None:
        super().__init__()
        self.given_up: list[str] = []

    def _handle(self, seen: Seen) -> FakeAnswer:
        if seen.method == "DELETE" and seen.path.startswith("/uploads/"):
            self.given_up.append(seen.path.removeprefix("/uploads/"))
            return FakeAnswer(204)
        return super()._handle(seen)


def test_a_condition_that_fails_at_the_end_gives_the_upload_up(source: Path) -> None:
    class Beaten(Aborts):
        def _finalize(self, seen: Seen) -> FakeAnswer:
            raise errors.ConditionFailed("somebody was quicker")

        def _route(self, seen: Seen) -> FakeAnswer:
            return self._finalize(seen) if seen.path == "/finalize-upload" else super()._route(seen)

    api = Beaten()
    with pytest.raises(errors.ConditionFailed):
        put(api, source)
    assert api.given_up == list(api.uploads)


def test_an_upload_that_a_repeat_may_finish_stays_and_is_gone_on_with(source: Path) -> None:
    api = Aborts()
    op_id = new_file_id()

    def refuse(seen: Seen) -> FakeAnswer | None:
        if seen.path == "/proxy-chunk-upload" and int(seen.query["chunk_index"]) > 5:
            raise ConnectionLost("lost")
        return None

    api.faults.extend([refuse] * 500)
    with pytest.raises(errors.Unknown):
        put(api, source, op_id=op_id)
    before = set(api.uploads[op_id].chunks)
    assert before and not api.given_up
    api.faults.clear()
    api.seen.clear()
    assert put(api, source, op_id=op_id) == op_id
    assert api.files["default", "d/f.txt"].body == BODY
    sent = {int(seen.query["chunk_index"]) for seen in api.seen if seen.path == "/proxy-chunk-upload"}
    assert sent == set(range(15)) - before
    api.seen.clear()
    assert put(api, source, op_id=op_id) == op_id
    assert "PUT proxy-chunk-upload" not in paths(api)


def test_an_id_of_another_upload_is_left_alone(source: Path) -> None:
    api = Aborts()
    op_id = new_file_id()
    put(api, source, op_id=op_id)
    source.write_bytes(BODY + b"more")
    with pytest.raises(errors.DfsError):
        put(api, source, op_id=op_id)
    assert not api.given_up


def test_a_source_that_changes_gives_the_upload_up_even_if_that_fails_too(source: Path) -> None:
    class Changing(Aborts):
        def _store_chunk(self, seen: Seen) -> FakeAnswer:
            source.write_bytes(BODY[:5000])
            return super()._store_chunk(seen)

        def _route(self, seen: Seen) -> FakeAnswer:
            if seen.method == "DELETE":
                raise errors.Forbidden("no")
            return self._store_chunk(seen) if seen.path == "/proxy-chunk-upload" else super()._route(seen)

        def _handle(self, seen: Seen) -> FakeAnswer:
            return FakeApi._handle(self, seen)

    api = Changing()
    with pytest.raises(LocalFailure):
        put(api, source)
    assert paths(api)[-1] == "DELETE uploads"


def test_an_interrupt_gives_the_upload_up_without_waiting_for_servers(source: Path) -> None:
    class Away(FakeApi):
        def _handle(self, seen: Seen) -> FakeAnswer:
            if seen.method == "DELETE":
                raise ConnectionLost("lost")
            return super()._handle(seen)

    def progress(done: int, _: int | None) -> None:
        raise KeyboardInterrupt

    api = Away()
    with pytest.raises(KeyboardInterrupt):
        put(api, source, progress=progress)
    assert paths(api).count("DELETE uploads") == 1


@pytest.mark.parametrize("jobs", ["0", "-1", "65", "x", "1.5", "", "99999999999"])
@pytest.mark.parametrize("what", ["put", "get"])
def test_a_number_of_connections_that_makes_no_sense_is_refused(jobs: str, what: str) -> None:
    api = FakeApi()
    ran = command(api, what, "f", "--jobs", jobs)
    assert ran.code == 2 and "1 to 64" in ran.err and not api.seen


@pytest.mark.parametrize("jobs", [0, -1, 65])
def test_the_library_refuses_it_too(jobs: int) -> None:
    with pytest.raises(ValueError, match="1 to 64"):
        client_of(FakeApi(), jobs=jobs)
    with pytest.raises(ValueError, match="1 to 64"):
        client_of(FakeApi()).put(b"", "p", jobs=jobs)


def test_the_command_line_passes_it_on(source: Path, tmp_path: Path) -> None:
    api = FakeApi()
    assert command(api, "put", "--jobs", "3", "--chunk-size", str(CHUNK), str(source), "p").code == 0
    assert "PUT proxy-chunk-upload" in paths(api) and api.files["default", "p"].body == BODY
    assert command(api, "get", "--jobs", "1", "p", str(tmp_path / "one")).code == 0
    assert api.seen[-3].headers.get("Range") is None
    assert command(api, "get", "p", str(tmp_path / "four")).code == 0
    assert (tmp_path / "one").read_bytes() == (tmp_path / "four").read_bytes() == BODY
