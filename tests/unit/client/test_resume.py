from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from dfs import errors
from dfs.client import LocalFailure, StoredFile, VerifyFailed
from dfs.client.chunks import WORKERS
from dfs.client.resume import DEFAULT_CHUNK, LARGEST_CHUNK, UploadState, UploadStates, choose_chunk_size
from dfs.model import new_file_id
from tests.unit.client.fakes import FakeAnswer, FakeApi, Seen, client_of

DATA = bytes(range(100))


class Down(FakeApi):
    """Refuses chunks once it has taken `limit` of them, until that is lifted."""

    limit = 5

    def _route(self, seen: Seen) -> FakeAnswer:
        if seen.path == "/proxy-chunk-upload":
            if self.limit <= 0:
                raise errors.NotEnoughNodes("down", retry_after=600)
            self.limit -= 1
        return super()._route(seen)


def resume(api: FakeApi, tmp_path: Path, **options: object) -> StoredFile:
    chosen = {"chunk_size": 4} | options
    return client_of(api).put_resumable(tmp_path / "f", "p", state_dir=tmp_path / "state", **chosen)  # type: ignore[arg-type]


def interrupted(tmp_path: Path) -> Down:
    (tmp_path / "f").write_bytes(DATA)
    api = Down()
    with pytest.raises(errors.NotEnoughNodes):
        resume(api, tmp_path)
    assert len(states(tmp_path)) == 1
    api.limit = 1000
    api.seen.clear()
    return api


def states(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "state").glob("*"))


def sent(api: FakeApi) -> int:
    return sum(seen.path == "/proxy-chunk-upload" for seen in api.seen)


def test_without_an_interruption_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(DATA)
    api = FakeApi()
    stored = resume(api, tmp_path, content_type="text/x", if_none_match="*")
    assert api.files["default", "p"].body == DATA and states(tmp_path) == []
    begun = json.loads(api.seen[0].body)
    assert begun["op_id"] == stored.file_id and begun["path"] == "p" and begun["content_type"] == "text/x"


def test_only_the_missing_chunks_are_sent_the_second_time(tmp_path: Path) -> None:
    api = interrupted(tmp_path)
    told: list[tuple[int, int | None]] = []
    resume(api, tmp_path, progress=lambda done, total: told.append((done, total)))
    assert sent(api) == 20
    assert api.files["default", "p"].body == DATA and states(tmp_path) == []
    assert told[0] == (20, 100) and told[-1] == (100, 100)


def test_a_changed_source_is_begun_again(tmp_path: Path) -> None:
    api = interrupted(tmp_path)
    (tmp_path / "f").write_bytes(DATA[::-1])
    os.utime(tmp_path / "f", (1, 1))
    resume(api, tmp_path)
    assert sent(api) == 25 and api.files["default", "p"].body == DATA[::-1]


def test_a_source_that_changed_without_telling_does_not_verify(tmp_path: Path) -> None:
    api = interrupted(tmp_path)
    before = (tmp_path / "f").stat()
    (tmp_path / "f").write_bytes(DATA[::-1])
    os.utime(tmp_path / "f", ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(VerifyFailed, match="without --resume"):
        resume(api, tmp_path)


def test_another_chunk_size_is_another_upload(tmp_path: Path) -> None:
    api = interrupted(tmp_path)
    resume(api, tmp_path, chunk_size=10)
    assert sent(api) == 10


def test_an_upload_the_servers_forgot_is_begun_again(tmp_path: Path) -> None:
    api = interrupted(tmp_path)
    api.uploads.clear()
    resume(api, tmp_path)
    assert sent(api) == 25 and api.files["default", "p"].body == DATA


@pytest.mark.parametrize("change", [{"state": "deleting"}, {"size": 7}, {"chunk_size": 5}])
def test_an_upload_that_is_not_ours_any_more_is_begun_again(tmp_path: Path, change: dict[str, object]) -> None:
    api = interrupted(tmp_path)

    def other(_: Seen) -> FakeAnswer:
        facts = {"file_id": "x", "state": "uploading", "size": 100, "chunk_size": 4, "chunks": 25, "missing": []}
        return FakeAnswer(200, body=json.dumps(facts | change).encode())

    api.faults.append(other)
    resume(api, tmp_path)
    assert sent(api) == 25


def test_an_upload_that_was_finished_after_all_is_taken_as_it_is(tmp_path: Path) -> None:
    api = interrupted(tmp_path)
    key = states(tmp_path)[0]
    state = key.read_bytes()
    resume(api, tmp_path)
    key.write_bytes(state)
    api.seen.clear()
    stored = resume(api, tmp_path)
    assert sent(api) == 0 and stored.file_id == json.loads(state)["file_id"] and states(tmp_path) == []


def test_a_condition_that_fails_at_the_end_keeps_the_upload(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(DATA)
    api = FakeApi()
    api.add("p", b"there")
    with pytest.raises(errors.ConditionFailed):
        resume(api, tmp_path, if_none_match="*")
    assert len(states(tmp_path)) == 1
    api.seen.clear()
    resume(api, tmp_path)
    assert sent(api) == 0 and api.files["default", "p"].body == DATA


def test_an_upload_deleted_at_the_end_is_forgotten(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(DATA)
    api = FakeApi()

    class Deleting(FakeApi):
        def _route(self, seen: Seen) -> FakeAnswer:
            if seen.path == "/finalize-upload":
                raise errors.Gone("deleted")
            return super()._route(seen)

    api = Deleting()
    with pytest.raises(errors.Gone):
        resume(api, tmp_path)
    assert states(tmp_path) == []


def test_the_servers_choice_of_chunk_size_is_remembered(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(DATA)
    api = Down()
    api.limit = 0

    def smaller(seen: Seen) -> FakeAnswer:
        fields = json.loads(seen.body) | {"chunk_size": 50}
        seen.body = json.dumps(fields).encode()
        return api._begin(seen)

    api.faults.append(smaller)
    with pytest.raises(errors.NotEnoughNodes):
        resume(api, tmp_path, chunk_size=None)
    assert json.loads(states(tmp_path)[0].read_text())["chunk_size"] == 50


def test_an_empty_file_is_stored(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"")
    api = FakeApi()
    resume(api, tmp_path)
    assert api.files["default", "p"].body == b"" and sent(api) == 0


def test_what_cannot_be_resumed_is_said(tmp_path: Path) -> None:
    with pytest.raises(LocalFailure, match="cannot read"):
        resume(FakeApi(), tmp_path)
    (tmp_path / "f").symlink_to("/dev/null")
    with pytest.raises(LocalFailure, match="cannot be resumed"):
        resume(FakeApi(), tmp_path)


def test_a_state_directory_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(DATA)
    (tmp_path / "state").write_text("a file")
    with pytest.raises(LocalFailure, match="remember"):
        resume(FakeApi(), tmp_path)


def test_states_are_kept_apart_by_all_that_matters(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"1")
    (tmp_path / "g").write_bytes(b"1")
    os.utime(tmp_path / "g", ns=(1, (tmp_path / "f").stat().st_mtime_ns))
    (tmp_path / "link").symlink_to("f")
    file = tmp_path / "f"
    key = UploadStates.key(("http://a", "http://b"), "default", "p", file)
    assert key == UploadStates.key(("http://b", "http://a"), "default", "p", tmp_path / "link")
    others = [
        UploadStates.key(("http://a",), "default", "p", file),
        UploadStates.key(("http://a", "http://b"), "other", "p", file),
        UploadStates.key(("http://a", "http://b"), "default", "q", file),
        UploadStates.key(("http://a", "http://b"), "default", "p", tmp_path / "g"),
    ]
    os.utime(file, (5, 5))
    others.append(UploadStates.key(("http://a", "http://b"), "default", "p", file))
    assert len({key, *others}) == 6
    with pytest.raises(LocalFailure):
        UploadStates.key((), "default", "p", tmp_path / "missing")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"file_id":"x","chunk_size":4}', '{"file_id":5,"chunk_size":4}', "[" * 9999, "\udcff"]
)
def test_a_damaged_state_is_no_state(tmp_path: Path, text: str) -> None:
    states = UploadStates(tmp_path)
    (tmp_path / "k.json").write_text(text, errors="surrogateescape")
    assert states.load("k") is None and states.load("missing") is None


@pytest.mark.parametrize("chunk_size", ["4", True, 0, -1, None])
def test_a_state_with_a_strange_chunk_size_is_no_state(tmp_path: Path, chunk_size: object) -> None:
    (tmp_path / "k.json").write_text(json.dumps({"file_id": new_file_id(), "chunk_size": chunk_size}))
    assert UploadStates(tmp_path).load("k") is None


def test_states_of_long_ago_are_forgotten(tmp_path: Path) -> None:
    now = 1_000_000_000.0
    states = UploadStates(tmp_path / "deep" / "er", clock=lambda: now)
    for name, age in (("old.json", 8 * 86400), ("new.json", 3600), ("old.txt", 8 * 86400)):
        (tmp_path / "deep" / "er").mkdir(parents=True, exist_ok=True)
        (tmp_path / "deep" / "er" / name).touch()
        os.utime(tmp_path / "deep" / "er" / name, (now - age, now - age))
    (tmp_path / "deep" / "er" / "dangling.json").symlink_to("nowhere")
    states.save("k", UploadState(new_file_id(), 4))
    assert sorted(each.name for each in (tmp_path / "deep" / "er").iterdir()) == ["dangling.json", "k.json", "new.json", "old.txt"]
    states.forget("k")
    states.forget("k")


def test_chunks_grow_with_the_file() -> None:
    assert choose_chunk_size(0) == choose_chunk_size(256 << 30) == DEFAULT_CHUNK
    assert choose_chunk_size((256 << 30) + 1) == 2 * DEFAULT_CHUNK
    assert choose_chunk_size(1 << 50) == LARGEST_CHUNK
    assert WORKERS * LARGEST_CHUNK <= 64 << 20
