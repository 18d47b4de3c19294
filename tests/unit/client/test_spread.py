"""Downloads over several connections, against the scripted API."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dfs import errors
from dfs.client import LocalFailure, Replaced, VerifyFailed, fetch, spans
from dfs.client.content import PIECE
from dfs.client.partfile import PartFile
from dfs.client.spans import Spans
from dfs.wire.client import ConnectFailed, ConnectionLost
from tests.unit.client.fakes import FakeAnswer, FakeApi, Seen, client_of
from tests.unit.client.test_get import names

PORTION = 2 * PIECE
BODY = os.urandom(11 * PORTION + 17)
"""Portions of 512 KiB, so that files of a few MiB are large."""


@pytest.fixture(autouse=True)
def _small_portions(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(fetch, "FIRST", PORTION)
    monkeypatch.setattr(spans, "_LEAST", PORTION)
    monkeypatch.setattr(spans, "_MOST", PORTION)
    monkeypatch.setattr(spans, "MIB", PORTION)
    yield


def ranges(api: FakeApi) -> list[str | None]:
    return [seen.headers.get("Range") for seen in api.seen if seen.method == "GET" and seen.path == "/files/f"]


def portion(number: int) -> str:
    return f"bytes={number * PORTION}-{min(len(BODY), (number + 1) * PORTION) - 1}"


EVERY = {portion(number) for number in range(1, 12)} | {f"bytes=0-{PORTION - 1}"}


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("resume", [True, False])
@pytest.mark.parametrize("jobs", [2, 4, 64])
def test_a_large_file_arrives_whole_in_ranges_of_one_file(tmp_path: Path, whole: bool, resume: bool, jobs: int) -> None:
    api = FakeApi()
    stored = api.add("f", BODY, whole=whole, chunk_size=100_000)
    told: list[tuple[int, int | None]] = []
    client = client_of(api, "http://a:1,http://b:2", jobs=jobs)
    info = client.get("f", tmp_path / "out", resume=resume, progress=lambda *done: told.append(done))
    assert (tmp_path / "out").read_bytes() == BODY and names(tmp_path) == ["out"]
    assert info.file_id == stored.file_id and info.size == len(BODY)
    assert set(ranges(api)) == EVERY and len(ranges(api)) == len(EVERY)
    assert [seen.headers.get("If-Match") for seen in api.seen if seen.path == "/files/f"][1:] == [
        f'"{stored.file_id}"'
    ] * (len(EVERY) - 1)
    assert told == sorted(told) and told[-1] == (len(BODY), len(BODY))
    assert not [each for each in threading.enumerate() if each.name.startswith("dfs-get")]


@pytest.mark.parametrize("body", [b"", b"a", BODY[:PORTION], BODY[: PORTION + 1]])
@pytest.mark.parametrize("resume", [True, False])
def test_a_file_that_the_first_answer_holds_needs_no_more(tmp_path: Path, body: bytes, resume: bool) -> None:
    api = FakeApi()
    api.add("f", body)
    client_of(api, jobs=4).get("f", tmp_path / "out", resume=resume)
    assert (tmp_path / "out").read_bytes() == body and names(tmp_path) == ["out"]
    first = f"bytes=0-{PORTION - 1}"
    expected = {0: [first, None], PORTION + 1: [first, f"bytes={PORTION}-{PORTION}"]}
    assert ranges(api) == expected.get(len(body), [first])


def test_streams_get_their_bytes_in_order_over_one_connection(tmp_path: Path) -> None:
    api = FakeApi()
    api.add("f", BODY)
    with open(tmp_path / "out", "wb") as out:
        client_of(api, jobs=4).get("f", out)
    assert (tmp_path / "out").read_bytes() == BODY and ranges(api) == [None]


class Scripted(FakeApi):
    """Does to answers with a certain range what `deeds` say, each once."""

    def __init__(self) -> None:
        super().__init__()
        self.deeds: dict[str, list[object]] = {}

    def _handle(self, seen: Seen) -> FakeAnswer:
        for deed in self.deeds.pop(seen.headers.get("Range") or "", []):
            if callable(deed):
                deed()
            elif isinstance(deed, BaseException):
                raise deed
        return super()._handle(seen)


def test_connections_spread_over_the_servers(tmp_path: Path) -> None:
    other = threading.Event()

    class Patient(FakeApi):
        def _handle(self, seen: Seen) -> FakeAnswer:
            if seen.host == "b":
                other.set()
            elif len(self.seen) > 1:
                assert other.wait(20), "the second server was not asked"
            return super()._handle(seen)

    api = Patient()
    api.add("f", BODY)
    client_of(api, "http://a:1,http://b:2", jobs=2).get("f", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == BODY and {seen.host for seen in api.seen} == {"a", "b"}


def test_a_range_that_fails_is_repeated_alone(tmp_path: Path) -> None:
    api = Scripted()
    api.add("f", BODY)
    api.deeds = {portion(3): [ConnectFailed("refused")], portion(7): [ConnectionLost("lost")]}
    client_of(api, "http://a:1,http://b:2", jobs=4).get("f", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == BODY
    asked = ranges(api)
    assert len(asked) == len(EVERY) + 2 and asked.count(portion(3)) == asked.count(portion(7)) == 2
    hosts = [seen.host for seen in api.seen if seen.headers.get("Range") == portion(3)]
    assert sorted(hosts) == ["a", "b"]


def test_a_server_that_is_away_is_tried_once_by_each_connection(tmp_path: Path) -> None:
    class Away(FakeApi):
        def _handle(self, seen: Seen) -> FakeAnswer:
            if seen.host == "b":
                raise ConnectFailed("refused")
            return super()._handle(seen)

    api = Away()
    api.add("f", BODY)
    client_of(api, "http://a:1,http://b:2", jobs=4).get("f", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == BODY
    assert [seen.host for seen in api.seen].count("b") <= 2  # the second and the fourth begin there


def test_a_connection_that_breaks_within_a_range_goes_on_in_it(tmp_path: Path) -> None:
    api = FakeApi()
    api.add("f", BODY)
    api.cuts.extend([PIECE] * 5)
    client_of(api, "http://a:1,http://b:2", jobs=3).get("f", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == BODY
    again = [each for each in ranges(api) if each not in EVERY]
    assert again and all(int((each or "")[6:].split("-")[0]) % PORTION == PIECE for each in again)


def test_a_range_that_cannot_be_had_ends_it_and_leaves_nothing(tmp_path: Path) -> None:
    api = Scripted()
    api.add("f", BODY)
    api.deeds = {portion(5): [errors.Forbidden("not this one")]}
    (tmp_path / "out").write_bytes(b"old")
    with pytest.raises(errors.Forbidden):
        client_of(api, jobs=4).get("f", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"old" and names(tmp_path) == ["out"]


@pytest.mark.parametrize("resume", [True, False])
def test_a_file_replaced_meanwhile_is_begun_again(tmp_path: Path, resume: bool) -> None:
    api = Scripted()
    api.add("f", BODY)
    new = os.urandom(len(BODY) + 5)
    api.deeds = {portion(4): [lambda: api.add("f", new)]}
    client_of(api, jobs=4).get("f", tmp_path / "out", resume=resume)
    assert (tmp_path / "out").read_bytes() == new and names(tmp_path) == ["out"]


def test_a_file_that_keeps_being_replaced_is_given_up(tmp_path: Path) -> None:
    class Restless(FakeApi):
        def _handle(self, seen: Seen) -> FakeAnswer:
            if seen.headers.get("Range") == portion(2):
                self.add("f", os.urandom(len(BODY)))
            return super()._handle(seen)

    api = Restless()
    api.add("f", BODY)
    with pytest.raises(Replaced):
        client_of(api, jobs=4).get("f", tmp_path / "out")
    assert names(tmp_path) == []


def test_content_that_does_not_verify_leaves_the_target_alone(tmp_path: Path) -> None:
    api = FakeApi()
    stored = api.add("f", BODY)

    class Lying(type(stored)):  # type: ignore[misc]
        @property
        def sha256(self) -> str:
            return hashlib.sha256(b"something else").hexdigest()

    api.files["default", "f"] = Lying(stored.file_id, BODY)
    with pytest.raises(VerifyFailed):
        client_of(api, jobs=4).get("f", tmp_path / "out")
    assert names(tmp_path) == []


@pytest.mark.parametrize("answer", ["whole", "other range", "no range"])
def test_a_server_that_does_not_do_ranges(tmp_path: Path, answer: str) -> None:
    class Rangeless(FakeApi):
        def _handle(self, seen: Seen) -> FakeAnswer:
            if answer == "whole":
                seen.headers = type(seen.headers)([pair for pair in seen.headers if pair[0] != "Range"])
            found = super()._handle(seen)
            if answer != "whole":
                kept = [pair for pair in found.headers if pair[0] != "Content-Range"]
                other = [("Content-Range", f"bytes 1-{PORTION}/{len(BODY)}")] if answer == "other range" else []
                found.headers = type(found.headers)(kept + other)
            return found

    api = Rangeless()
    api.add("f", BODY)
    client = client_of(api, jobs=4)
    if answer == "whole":
        client.get("f", tmp_path / "out")
        assert (tmp_path / "out").read_bytes() == BODY and len(api.seen) == 1
    else:
        with pytest.raises(LocalFailure, match="ranges"):
            client.get("f", tmp_path / "out")
        assert names(tmp_path) == []


@pytest.mark.parametrize("jobs", [1, 4])
def test_a_replaced_file_is_noticed_though_if_match_is_not_heeded(tmp_path: Path, jobs: int) -> None:
    new = os.urandom(len(BODY))

    class Heedless(FakeApi):
        def _handle(self, seen: Seen) -> FakeAnswer:
            seen.headers = type(seen.headers)([pair for pair in seen.headers if pair[0] != "If-Match"])
            if len(self.seen) == 2:
                self.add("f", new)
            return super()._handle(seen)

    api = Heedless()
    api.add("f", BODY)
    api.cuts.append(PIECE)
    client_of(api, jobs=jobs).get("f", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == new


@pytest.mark.parametrize("resume", [True, False])
def test_an_answer_of_another_size_ends_it(tmp_path: Path, resume: bool) -> None:
    class Shrinking(FakeApi):
        def _handle(self, seen: Seen) -> FakeAnswer:
            found = super()._handle(seen)
            if seen.headers.get("Range") == portion(11):
                first = 11 * PORTION
                kept = [pair for pair in found.headers if pair[0] not in ("Content-Range", "Content-Length")]
                kept.append(("Content-Range", f"bytes {first}-{first + 4}/{first + 5}"))
                found = FakeAnswer(206, kept, BODY[first : first + 5])
            return found

    api = Shrinking()
    api.add("f", BODY)
    with pytest.raises(Replaced):
        client_of(api, jobs=4).get("f", tmp_path / "out", resume=resume)
    assert not (tmp_path / "out").exists()


def test_a_note_that_cannot_be_written_ends_it_and_closes_the_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise LocalFailure("No space left on device")

    answers: list[FakeAnswer] = []

    class Kept(FakeApi):
        def _handle(self, seen: Seen) -> FakeAnswer:
            answers.append(super()._handle(seen))
            return answers[-1]

    api = Kept()
    api.add("f", BODY)
    monkeypatch.setattr(PartFile, "landed", full)
    with pytest.raises(LocalFailure, match="No space left"):
        client_of(api, jobs=4).get("f", tmp_path / "out", resume=True)
    assert len(answers) == 1 and answers[0].closed


# Going on another time


def interrupted(tmp_path: Path, api: Scripted, number: int = 6) -> PartFile:
    """What a download left that broke off at one portion for good; the part, to look at."""
    api.deeds = {portion(number): [errors.Forbidden("stop")]}
    with pytest.raises(errors.Forbidden):
        client_of(api, jobs=3).get("f", tmp_path / "out", resume=True)
    assert names(tmp_path) == ["out.part", "out.part.json"]
    api.seen.clear()
    part = PartFile(tmp_path / "out")
    part.abort()
    return part


@pytest.mark.parametrize("jobs", [1, 2, 5])
def test_an_interrupted_download_fetches_only_what_is_missing(tmp_path: Path, jobs: int) -> None:
    api = Scripted()
    api.add("f", BODY)
    part = interrupted(tmp_path, api)
    there = part.holds
    assert there.prefix() >= PORTION and (6 * PORTION, 7 * PORTION) not in list(there)
    client_of(api, jobs=jobs).get("f", tmp_path / "out", resume=True)
    assert (tmp_path / "out").read_bytes() == BODY and names(tmp_path) == ["out"]
    asked = [tuple(int(end) if end else len(BODY) - 1 for end in (each or "")[6:].split("-")) for each in ranges(api)]
    fetched = sum(last + 1 - first for first, last in asked)
    assert fetched == len(BODY) - (there.prefix() if jobs == 1 else there.total())


def test_a_process_that_was_killed_goes_on_from_what_its_note_says(tmp_path: Path) -> None:
    api = FakeApi()
    stored = api.add("f", BODY)
    done = [[0, 3 * PORTION], [5 * PORTION, 6 * PORTION], [len(BODY) - 10, len(BODY) + 999]]
    held = bytearray(len(BODY))
    for start, end in done:
        held[start:end] = BODY[start:end]
    for jobs in (1, 4):
        (tmp_path / "out.part").write_bytes(held)
        (tmp_path / "out.part.json").write_text(json.dumps({"etag": stored.file_id, "done": done}))
        api.seen.clear()
        client_of(api, jobs=jobs).get("f", tmp_path / "out", resume=True)
        assert (tmp_path / "out").read_bytes() == BODY and names(tmp_path) == ["out"]
        assert sorted(each or "" for each in ranges(api))[0].startswith(f"bytes={3 * PORTION}-")


@pytest.mark.parametrize("done", [5, None, [[1]], [["a", 2]], [[0, -1]], [[0, True]], {"0": 1}, [[0, 10, 20]]])
def test_a_note_that_makes_no_sense_means_beginning_again(tmp_path: Path, done: object) -> None:
    api = FakeApi()
    stored = api.add("f", BODY)
    (tmp_path / "out.part").write_bytes(b"who knows")
    (tmp_path / "out.part.json").write_text(json.dumps({"etag": stored.file_id, "done": done}))
    client_of(api, jobs=4).get("f", tmp_path / "out", resume=True)
    assert (tmp_path / "out").read_bytes() == BODY and set(ranges(api)) == EVERY


def test_a_part_with_damage_is_begun_again_and_one_of_another_file_too(tmp_path: Path) -> None:
    api = FakeApi()
    stored = api.add("f", BODY)
    for etag in (stored.file_id, "another"):
        (tmp_path / "out.part").write_bytes(b"\0" * len(BODY))
        note = {"etag": etag, "done": [[0, PORTION], [3 * PORTION, 4 * PORTION]]}
        (tmp_path / "out.part.json").write_text(json.dumps(note))
        client_of(api, jobs=4).get("f", tmp_path / "out", resume=True)
        assert (tmp_path / "out").read_bytes() == BODY and names(tmp_path) == ["out"]


class Full:
    """A disk that takes so many bytes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
        self.left = room
        self._real = os.pwrite
        monkeypatch.setattr(os, "pwrite", self._pwrite)

    def _pwrite(self, fd: int, data: bytes, offset: int) -> int:
        if self.left < len(data):
            raise OSError(28, "No space left on device")
        self.left -= len(data)
        return self._real(fd, data, offset)


@pytest.mark.parametrize("resume", [True, False])
def test_a_full_disk_is_told_and_leaves_what_a_download_over_one_connection_leaves(
    tmp_path: Path, resume: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = FakeApi()
    api.add("f", BODY)
    full = Full(monkeypatch, 4 * PORTION)
    with pytest.raises(LocalFailure, match="No space left"):
        client_of(api, jobs=4).get("f", tmp_path / "out", resume=resume)
    assert names(tmp_path) == (["out.part", "out.part.json"] if resume else [])
    full.left = len(BODY)
    client_of(api, jobs=4).get("f", tmp_path / "out", resume=resume)
    assert (tmp_path / "out").read_bytes() == BODY and names(tmp_path) == ["out"]


def test_an_interrupt_ends_it_at_once_and_nothing_is_written_afterwards(tmp_path: Path) -> None:
    api = FakeApi()
    api.add("f", BODY)
    held = threading.Event()

    def progress(done: int, _: int | None) -> None:
        if done > 2 * PORTION:
            raise KeyboardInterrupt

    class Holding(FakeAnswer):
        def read(self, n: int = -1) -> bytes:
            held.wait(20)
            return super().read(n)

    original = api._handle

    def handle(seen: Seen) -> FakeAnswer:
        found = original(seen)
        if seen.headers.get("Range") == portion(1):
            found.__class__ = Holding
        return found

    api._handle = handle  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        client_of(api, jobs=4).get("f", tmp_path / "out", progress=progress)
    assert names(tmp_path) == []
    held.set()
    for each in threading.enumerate():
        if each.name.startswith("dfs-get"):
            each.join(20)
    assert names(tmp_path) == []


def test_a_part_that_fails_or_shrinks_is_translated(tmp_path: Path) -> None:
    part = PartFile(tmp_path / "out")
    part.begin("e")
    part.write_at(b"12345", 10)
    part.landed(Spans([(10, 15)]))
    assert part.read_at(10, 99) == b"12345" and part.offset == 0 and part.holds.total() == 5
    with pytest.raises(LocalFailure, match="shorter"):
        part.read_at(15, 1)
    part.abort()
    assert names(tmp_path) == ["out.part", "out.part.json"]
    part = PartFile(tmp_path / "out")
    os.dup2(os.open(tmp_path / "out.part", os.O_RDONLY), part._fd)
    with pytest.raises(LocalFailure, match="cannot write"):
        part.write_at(b"x", 0)
    with pytest.raises(LocalFailure, match="cannot write"):
        part.keep_beginning()
    part.abort()
