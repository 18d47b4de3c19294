"""The trash from the client's side: library and command line over the fake API."""

from __future__ import annotations

from typing import Any

import pytest

from dfs.client.failures import LocalFailure
from dfs.errors import ConditionFailed, NotFound
from dfs.model import new_file_id
from dfs.wire.client import ConnectionLost
from tests.unit.client.fakes import FakeAnswer, FakeApi, Seen, as_json, client_of, command


def test_what_was_deleted_is_listed_and_restored() -> None:
    api = FakeApi()
    first, other = api.add("d/a", b"12345"), api.add("e", b"6")
    command(api, "rm", "d/a", "e")
    second = api.add("d/a", b"7")
    command(api, "rm", "d/a")
    ran = command(api, "ls", "--deleted")
    assert ran.text.splitlines()[0].split() == ["DELETED", "KEPT", "UNTIL", "WHY", "SIZE", "FILE", "ID", "PATH"]
    assert [line.split()[2:] for line in ran.text.splitlines()[1:]] == [
        ["deleted", "5", first.file_id, "d/a"],
        ["deleted", "1", second.file_id, "d/a"],
        ["deleted", "1", other.file_id, "e"],
    ]
    assert "2023-11-14T22:13:21Z  2023-11-21T22:13:21Z" in ran.text
    assert [line["file_id"] for line in command(api, "ls", "--deleted", "e", "--json").json] == [other.file_id]
    assert command(api, "ls", "--deleted", "nothing").text == ""
    assert command(api, "restore", "d/a").text == f"restored d/a  {second.file_id}\n"
    assert command(api, "restore", "d/a", "--id", first.file_id).code == 4
    assert command(api, "restore", "d/a", "--id", first.file_id, "--to", "old/").text.startswith("restored old/a ")
    again = command(api, "restore", "d/a", "--json")
    assert (again.code, again.json[0]["error"]["code"]) == (3, "not_found")
    ran = command(api, "restore", "e", "--to", "f", "--json")
    assert (ran.json[0]["source"], ran.json[0]["path"], ran.json[0]["file_id"]) == ("e", "f", other.file_id)


def test_a_file_in_the_trash_is_deleted_for_good() -> None:
    api = FakeApi()
    gone = api.add("a", b"1")
    command(api, "rm", "a")
    api.add("a", b"2")
    assert command(api, "rm", "--purge", "--id", gone.file_id, "a").code == 0
    assert not api.trash and api.files["default", "a"].body == b"2"
    assert command(api, "rm", "--purge", "--id", gone.file_id, "a").code == 3


@pytest.mark.parametrize(
    "argv",
    [
        ("--id", "ID", "a"),
        ("--purge", "--id", "ID", "a", "b"),
        ("--purge", "--id", "ID", "-r", "a"),
        ("--purge", "--id", "ID", "a", "--if-match", "x"),
        ("--purge", "--id", "nonsense", "a"),
    ],
)
def test_an_id_goes_with_purge_and_one_path(argv: tuple[str, ...]) -> None:
    api = FakeApi()
    assert command(api, "rm", *(new_file_id() if word == "ID" else word for word in argv)).code == 2
    assert not api.seen


def test_a_restore_whose_answer_was_lost_is_repeated_under_its_id() -> None:
    api = FakeApi()
    api.add("a", b"1")
    with client_of(api) as it:
        it.delete("a")
        api.lose_answer()
        assert it.restore("a").path == "a"
        sent = [seen.headers.get("X-Dfs-Op") for seen in api.seen if seen.method == "POST"]
        assert len(sent) == 2 and len(set(sent)) == 1
    for _ in range(99):
        api.lose_before(ConnectionLost("gone"))
    ran = command(api, "restore", "a", "--retry-for", "0")
    assert ran.code == 5 and "--op-id " in ran.err


def test_the_library_lists_page_by_page_and_raises_what_is_refused() -> None:
    api = FakeApi()
    with client_of(api) as it:
        for number in range(7):
            api.add(f"p{number}", b"x")
            it.delete(f"p{number}")
        assert [file.path for file in it.list_deleted("p")] == [f"p{number}" for number in range(7)]
        page = it.list_deleted_page("p", limit=3)
        assert (len(page.files), page.files[0].bucket, page.files[0].retired) == (3, "default", "deleted")
        with pytest.raises(NotFound):
            it.restore("p0", file_id=new_file_id())
        it.restore("p0")
        with pytest.raises(ConditionFailed):
            it.restore("p1", to="p0")
        file = page.files[1]
        it.delete(file.path, purge=True, file_id=file.file_id)
        assert [file.path for file in it.list_deleted()] == [f"p{number}" for number in range(2, 7)]


@pytest.mark.parametrize(
    "answer",
    [
        [],
        {"files": [1]},
        {"files": [{"file_id": "x", "size": 1}]},
        {"files": [{"path": "x", "size": 1}]},
        {"files": [{"path": "x", "file_id": "x", "size": "1"}]},
    ],
)
def test_an_answer_that_makes_no_sense_is_said(answer: Any) -> None:
    api = FakeApi()
    api.faults.append(lambda _: as_json(answer))
    with client_of(api) as it, pytest.raises(LocalFailure, match="makes no sense"):
        list(it.list_deleted())


def test_a_listing_that_goes_in_circles_is_left() -> None:
    def circle(_: Seen) -> FakeAnswer:
        return as_json({"files": [], "cursor": "same"})

    api = FakeApi()
    api.faults.extend([circle, circle])
    with client_of(api) as it, pytest.raises(LocalFailure, match="does not go on"):
        list(it.list_deleted())
