"""The command line end to end over the fake API: output, messages, every exit code."""

from __future__ import annotations

import io
import json
import os
import runpy
import signal
import sys
from pathlib import Path

import pytest

from dfs import errors
from dfs.client import cli
from dfs.client.browse import format_time
from dfs.client.console import Console
from dfs.client.exits import Exit, advice, exit_code, joint_exit
from dfs.client.failures import LocalConflict, LocalFailure, Replaced, Unreachable, VerifyFailed
from dfs.errors import BY_CODE, DfsError
from dfs.model import new_file_id
from dfs.settings import ClientSettings
from dfs.wire.client import ConnectFailed, ConnectionLost
from tests.unit.client.fakes import FakeAnswer, FakeApi, Seen, Stored, Terminal, as_json, command


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(directory: Path) -> list[str]:
    return sorted(str(each.relative_to(directory)) for each in directory.rglob("*"))


# Exit codes


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (LocalFailure, 1),
        (DfsError, 1),
        (errors.BadRequest, 1),
        (errors.Forbidden, 1),
        (errors.TooManyChunks, 1),
        (errors.BadPath, 2),
        (errors.NotFound, 3),
        (errors.Gone, 3),
        (errors.ConditionFailed, 4),
        (errors.ChunkConflict, 4),
        (errors.Incomplete, 4),
        (errors.NotFinalized, 4),
        (Replaced, 4),
        (LocalConflict, 4),
        (errors.Unavailable, 5),
        (errors.NotEnoughNodes, 5),
        (errors.NoReplica, 5),
        (errors.Busy, 5),
        (errors.Unknown, 5),
        (errors.ClusterFull, 5),
        (errors.RequestTimeout, 5),
        (Unreachable, 5),
        (VerifyFailed, 6),
        (errors.ChecksumMismatch, 6),
        (errors.LengthMismatch, 6),
        (errors.CorruptChunk, 6),
    ],
)
def test_each_error_has_its_exit_code(kind: type[DfsError], code: int) -> None:
    assert exit_code(kind("x")) == code


def test_every_error_of_the_tree_ends_in_a_documented_code() -> None:
    for kind in BY_CODE.values():
        assert exit_code(kind("x")) in set(range(1, 7))
        advice(kind("x"))


def test_several_failures_make_one_code() -> None:
    assert joint_exit([], 5) == 0
    assert joint_exit([Exit.NOT_FOUND], 2) == 7
    assert joint_exit([Exit.NOT_FOUND, Exit.NOT_FOUND], 2) == 3
    assert joint_exit([Exit.NOT_FOUND, Exit.CONFLICT], 2) == 7


# put


def test_put_names_the_path_after_the_file(here: Path) -> None:
    (here / "a.txt").write_bytes(b"hello")
    api = FakeApi()
    ran = command(api, "put", "a.txt")
    assert ran.code == 0 and ran.err == ""
    stored = api.files["default", "a.txt"]
    assert ran.text == f"a.txt  5 B  {stored.file_id}\n" and stored.content_type == "text/plain"
    assert command(api, "put", "./a.txt", "d/b").code == 0 and command(api, "put", "a.txt", "e/").code == 0
    assert command(api, "put", "a.txt", "/").code == 0 and command(api, "put", "a.txt", "path:f").code == 0
    assert sorted(path for _, path in api.files) == ["a.txt", "d/b", "e/a.txt", "f"]


def test_put_takes_several_files_and_goes_on_after_one_fails(here: Path) -> None:
    for name in ("a", "b"):
        (here / name).write_bytes(name.encode())
    api = FakeApi()
    ran = command(api, "put", "a", "missing", "b", "d/")
    assert ran.code == 7 and sorted(path for _, path in api.files) == ["d/a", "d/b"]
    assert ran.err == "dfs: cannot read missing: No such file or directory\n"
    assert command(api, "put", "a", "b", "d/").code == 0
    assert command(api, "put", "m1", "m2", "d/").code == 1


def test_put_reads_stdin(here: Path) -> None:
    api = FakeApi()
    assert command(api, "put", "-", "x/y", stdin=b"piped").code == 0
    assert api.files["default", "x/y"].body == b"piped"


def test_put_passes_its_options_on(here: Path) -> None:
    (here / "a").write_bytes(b"x")
    api = FakeApi()
    op_id = new_file_id()
    ran = command(
        api, "--bucket", "uploads", "put", "a", "--chunk-size", "1KiB", "--content-type", "x/y", "--op-id", op_id,
        "--sha256", "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881", "--json",
    )  # fmt: skip
    assert ran.code == 0
    stored = api.files["uploads", "a"]
    assert (stored.file_id, stored.chunk_size, stored.content_type) == (op_id, 1024, "x/y")
    assert ran.json[0]["source"] == "a" and ran.json[0]["file_id"] == op_id and ran.json[0]["size"] == 1


def test_put_only_creates_when_told_so(here: Path) -> None:
    (here / "a").write_bytes(b"x")
    api = FakeApi()
    assert command(api, "put", "a", "--no-clobber").code == 0
    ran = command(api, "put", "a", "--no-clobber")
    assert ran.code == 4 and ran.err.startswith("dfs: ") and ran.err.count("\n") == 1
    assert command(api, "put", "a", "--if-match", new_file_id()).code == 4
    assert command(api, "put", "a", "--if-none-match", api.files["default", "a"].file_id).code == 4


def test_put_stores_a_directory(here: Path) -> None:
    for name in ("d/1", "d/sub/2", "d/sub/ü"):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_bytes(name.encode())
    api = FakeApi()
    assert command(api, "put", "-r", "d", "backup/x").code == 0
    assert sorted(path for _, path in api.files) == ["backup/x/1", "backup/x/sub/2", "backup/x/sub/ü"]
    api.files.clear()
    assert command(api, "put", "-r", "d/").code == 0
    assert sorted(path for _, path in api.files) == ["d/1", "d/sub/2", "d/sub/ü"]
    (here / "d" / os.fsdecode(b"\xff")).touch()
    (here / "d" / "loop").symlink_to(".")
    ran = command(api, "put", "-r", "d", "/")
    assert ran.code == 7 and ran.err.count("\n") == 2 and ("default", "sub/2") in api.files


def test_put_stops_when_no_server_can_be_reached(here: Path) -> None:
    for number in range(5):
        (here / str(number)).write_bytes(b"x")
    api = FakeApi()
    api.faults.append(None)
    api.lose_before(ConnectFailed("cannot connect to a:1: [Errno 111] Connection refused"))
    ran = command(api, "put", "-r", ".", "p")
    assert ran.code == 7 and len(api.seen) == 2
    assert "is the API server running" in ran.err and "the rest was not tried" in ran.err


@pytest.mark.parametrize(
    "argv",
    [
        ["put"],
        ["put", "-"],
        ["put", "-", "d/"],
        ["put", "a", "b", "c"],
        ["put", "a", "b", "d/", "--op-id", new_file_id()],
        ["put", "-r", "a", "b", "c"],
        ["put", "-r", "d", "--if-match", "x"],
        ["put", "a", "--chunk-size", "x"],
        ["put", "a", "--chunk-size", "0"],
        ["put", "a", "../b"],
        ["put", "a", "/b"],
        ["put", "a", "--no-clobber", "--if-none-match", "*"],
        ["put", "-", "x", "--resume"],
        ["put", "a", "--resume", "--op-id", new_file_id()],
        ["get"],
        ["get", "a", "-", "--resume"],
        ["get", "a", "-", "--no-clobber"],
        ["get", "a", "b", "--resume", "--if-none-match", "*"],
        ["get", "-r", "a", "-"],
        ["get", "a", "missing/"],
        ["get", "a//b"],
        ["ls", "a", "b"],
        ["rm"],
        ["rm", "-r", ""],
        ["rm", "a", "b", "--if-match", "x"],
        ["rm", "-r", "a", "--op-id", new_file_id()],
        ["mv", "a"],
        ["upload", "http://a:1"],
        ["upload", "-chunk-size=x", "http://a:1", "a"],
        ["upload", "not a url", "a"],
        ["nonsense"],
        [],
        ["ls", "--api", "https://a"],
        ["ls", "--timeout", "0"],
        ["ls", "--timeout", "x"],
        ["--bucket", "Not/Legal", "ls"],
        ["--frobnicate", "ls"],
    ],
)
def test_a_wrong_command_line_is_one_line_and_sends_nothing(here: Path, argv: list[str]) -> None:
    (here / "a").write_bytes(b"x")
    (here / "d").mkdir()
    api = FakeApi()
    ran = command(api, *argv)
    assert ran.code == 2 and ran.out == b"" and not api.seen
    assert ran.err.startswith("dfs: ") and ran.err.count("\n") == 1


def test_an_unknown_setting_is_a_usage_error() -> None:
    ran = command(FakeApi(), "ls", environ={"DFS_APPI": "http://a"})
    assert ran.code == 2 and "DFS_APPI" in ran.err


def test_the_servers_come_from_the_option_or_the_environment(here: Path) -> None:
    api = FakeApi()
    command(api, "ls", environ={"DFS_API": "http://env:5"})
    command(api, "ls", "--api", "http://opt:5", environ={"DFS_API": "http://env:5"})
    command(api, "ls")
    assert [seen.host for seen in api.seen] == ["env", "opt", "localhost"]


@pytest.mark.parametrize("argv", [["--help"], ["put", "--help"], ["--version"]])
def test_help_and_version_are_no_error(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        command(FakeApi(), *argv)
    assert caught.value.code == 0 and capsys.readouterr().out


def test_a_directory_needs_the_option(here: Path) -> None:
    (here / "d").mkdir()
    assert "put -r" in command(FakeApi(), "put", "d").err
    (here / "f").touch()
    assert command(FakeApi(), "put", "-r", "f").code == 1


def test_put_resumes(here: Path) -> None:
    (here / "f").write_bytes(b"0123456789")
    environ = {"XDG_STATE_HOME": str(here / "state")}
    api = FakeApi()
    api.faults.extend([None, None])
    api.lose_before(errors.NotEnoughNodes("Not enough active nodes. Required: 2, Available: 1"))
    ran = command(api, "put", "f", "p", "--resume", "--chunk-size", "2", environ=environ)
    assert ran.code == 5 and "Required: 2" in ran.err and len(list((here / "state" / "dfs" / "uploads").iterdir())) == 1
    ran = command(api, "put", "f", "p", "--resume", "--chunk-size", "2", environ=environ)
    assert ran.code == 0 and api.files["default", "p"].body == b"0123456789"


def test_the_place_for_states() -> None:
    def place(**values: Path) -> str:
        return str(cli.state_directory(ClientSettings(**values)))

    assert place(state_home=Path("/s"), home=Path("/h")) == "/s/dfs/uploads"
    assert place(home=Path("/h")) == place(state_home=Path("rel"), home=Path("/h")) == "/h/.local/state/dfs/uploads"
    with pytest.raises(LocalFailure, match="HOME"):
        place()
    with pytest.raises(LocalFailure, match="HOME"):
        place(home=Path("rel"))


def test_an_unknown_outcome_says_how_to_repeat(here: Path) -> None:
    (here / "f").write_bytes(b"x")
    for argv in (["put", "f", "p"], ["mv", "p", "q"], ["rm", "p"]):
        api = FakeApi()
        api.add("p", b"old")
        api.lose_answer()
        ran = command(api, *argv)
        assert ran.code == 5
        op_id = ran.err.partition("--op-id ")[2].split()[0]
        assert command(api, *argv, "--op-id", op_id).code == 0


def test_retries_are_told_once_to_somebody_who_watches(here: Path) -> None:
    (here / "f").write_bytes(b"x")
    for terminal in (True, False):
        api = FakeApi()
        api.lose_before(errors.Busy("so busy", retry_after=0))
        ran = command(api, "--timeout", "5", "put", "f", terminal=terminal, retry_for="1s")
        assert ran.code == 0 and ("dfs: so busy; trying again\n" in ran.err) == terminal
    err = Terminal(io.BytesIO(), write_through=True)
    console = Console(err, err, err, as_json=False, quiet=False)
    for text in ("a", "a", "b"):
        console.notice(text)
    err.seek(0)
    assert err.read() == "dfs: a\ndfs: b\n"


def test_times_that_no_calendar_has() -> None:
    assert format_time(None) == format_time(1 << 62) == "-"


# get and cat


def test_get_names_the_file_after_the_path(here: Path) -> None:
    api = FakeApi()
    stored = api.add("d/a.txt", b"hello")
    ran = command(api, "get", "d/a.txt")
    assert ran.code == 0 and ran.text == f"a.txt  5 B  {stored.file_id}\n"
    assert (here / "a.txt").read_bytes() == b"hello"
    (here / "out").mkdir()
    assert command(api, "get", "d/a.txt", "out").code == command(api, "get", "d/a.txt", "b").code == 0
    assert command(api, "get", stored.file_id, "out/by-id").code == 0
    os.unlink(here / "a.txt")
    assert command(api, "get", stored.file_id).code == 0
    assert names(here) == ["a.txt", "b", "out", "out/a.txt", "out/by-id"]


def test_get_writes_to_stdout(here: Path) -> None:
    api = FakeApi()
    api.add("a", b"\x00\xff")
    ran = command(api, "get", "a", "-")
    assert ran.code == 0 and ran.out == b"\x00\xff" and ran.err == ""
    ran = command(api, "cat", "a", "path:a")
    assert ran.code == 0 and ran.out == b"\x00\xff\x00\xff" and names(here) == []
    ran = command(api, "cat", "a", "--json")
    assert ran.out == b"\x00\xff" and json.loads(ran.err)["size"] == 2


def test_cat_ends_with_the_first_failure(here: Path) -> None:
    api = FakeApi()
    api.add("a", b"a")
    ran = command(api, "cat", "missing", "a")
    assert ran.code == 3 and ran.out == b""


def test_get_of_what_is_not_there(here: Path) -> None:
    ran = command(FakeApi(), "get", "a/b")
    assert ran.code == 3 and ran.err == "dfs: there is no file at 'a/b'; `ls` and `buckets` show what is there\n" and names(here) == []
    assert command(FakeApi(), "get", new_file_id(), "x").code == 3
    ran = command(FakeApi(), "get", "11111111-1111-4111-8111-111111111111")
    assert ran.code == 3 and "there is no file 11111111" in ran.err
    ran = command(FakeApi(), "get", "a/")
    assert ran.code == 2 and "get -r fetches what lies under it" in ran.err


def test_get_that_does_not_verify(here: Path) -> None:
    api = FakeApi()
    stored = api.add("a", b"good")
    api.files["default", "a"] = Stored(stored.file_id, b"good")

    def lie(_: Seen) -> FakeAnswer:
        return FakeAnswer(200, [("ETag", '"x"'), ("X-File-SHA256", "0" * 64)], b"evil")

    api.faults.append(lie)
    ran = command(api, "get", "a")
    assert ran.code == 6 and "does not verify" in ran.err and names(here) == []


def test_get_respects_what_is_there(here: Path) -> None:
    api = FakeApi()
    stored = api.add("a", b"new")
    (here / "a").write_bytes(b"old")
    assert command(api, "get", "a", "--no-clobber").code == 4
    assert command(api, "get", "a", "--if-none-match", stored.file_id).code == 4
    assert command(api, "get", "a", "--if-match", new_file_id()).code == 4
    assert (here / "a").read_bytes() == b"old"


def test_get_resumes(here: Path) -> None:
    api = FakeApi()
    api.add("a", bytes(600_000))
    api.cuts.append(300_000)
    assert command(api, "get", "a", "--resume").code == 5
    assert names(here) == ["a.part", "a.part.json"]
    assert command(api, "get", "a", "--resume").code == 0
    assert (here / "a").read_bytes() == bytes(600_000) and names(here) == ["a"]


def test_get_fetches_a_directory(here: Path) -> None:
    api = FakeApi()
    for path in ("d/1", "d/s/2", "d/s/3", "d/4", "d/5", "other", "d"):
        api.add(path, path.encode())
    assert command(api, "get", "-r", "d", "out").code == 0
    assert names(here / "out") == ["1", "4", "5", "s", "s/2", "s/3"]
    assert (here / "out" / "s" / "2").read_bytes() == b"d/s/2"
    ran = command(api, "get", "-r", "missing/", "out")
    assert ran.code == 3 and "missing/" in ran.err


def test_get_refuses_paths_that_collide_and_goes_on(here: Path) -> None:
    api = FakeApi()
    for path in ("d/a", "d/a/b", "d/c"):
        api.add(path, path.encode())
    ran = command(api, "get", "-r", "d", ".")
    assert ran.code == 7 and "needs a directory" in ran.err and names(here) == ["a", "c"]
    assert command(api, "get", "-r", "/", "c").code == 1


def test_get_does_not_trust_the_servers_paths(here: Path) -> None:
    (here / "in").mkdir()
    for evil in ("d/../../escape", "d//escape", "d/./x"):
        api = FakeApi()
        api.add(evil, b"x")
        api.add("d/good", b"x")
        ran = command(api, "get", "-r", "d", "in")
        assert ran.code == 7 and "cannot be a file name here" in ran.err
    assert names(here) == ["in", "in/good"]


def test_a_listing_that_breaks_off_is_a_failure_among_several(here: Path) -> None:
    api = FakeApi()
    for number in range(5):
        api.add(f"d/{number}", b"x")
    api.faults.extend([None] * 4)
    api.lose_before(ConnectionLost("gone"))
    ran = command(api, "get", "-r", "d", ".")
    assert ran.code == 7 and "the rest was not tried" in ran.err and names(here) == ["0", "1", "2"]


# The seed's commands


def test_upload_and_download_end_with_the_seeds_lines(here: Path) -> None:
    (here / "t.txt").write_bytes(bytes(5000))
    api = FakeApi()
    ran = command(api, "upload", "-chunk-size=2048", "http://seed:9", "t.txt")
    file_id = next(iter(api.uploads))
    assert ran.code == 0 and ran.text.splitlines()[-1] == f"Upload complete! File ID: {file_id}"
    assert {seen.host for seen in api.seen} == {"seed"} and api.uploads[file_id].chunk_size == 2048
    ran = command(api, "download", "http://seed:9", file_id, "./back.txt")
    assert ran.code == 0 and ran.text.splitlines()[-1] == "Download complete! File saved to: ./back.txt"
    assert (here / "back.txt").read_bytes() == bytes(5000)
    assert command(api, "upload", "-chunk-size", "-1", "http://seed:9", "t.txt", "--json").json[0]["chunk_size"] == 1024
    assert command(api, "upload", "--chunk-size=1KiB", "http://seed:9", "t.txt").code == 0
    assert command(api, "download", "http://seed:9", file_id, "b", "--json").json[0]["size"] == 5000
    assert command(api, "download", "http://seed:9", new_file_id(), "x").code == 3
    assert command(api, "upload", "http://seed:9", "missing").code == 1


# ls, stat, mv, rm, nodes, buckets


def test_ls_lists_as_a_directory_does() -> None:
    api = FakeApi()
    for path in ("a", "d/1", "d/2", "d/s/3", "z"):
        api.add(path, b"xyz")
    assert command(api, "ls").text == "a\nd/\nz\n" == command(api, "ls", "/").text
    assert command(api, "ls", "d/").text == "d/1\nd/2\nd/s/\n"
    assert command(api, "ls", "-r").text == "a\nd/1\nd/2\nd/s/3\nz\n"
    assert command(api, "ls", "nothing").code == 0
    long = command(api, "ls", "-l", "d/").text.splitlines()
    assert long[0].split() == ["3", "2023-11-14T22:13:20Z", api.files["default", "d/1"].file_id, "d/1"]
    assert long[2].split() == ["-", "d/s/"]
    found = command(api, "ls", "d/", "--json").json
    assert found[0]["type"] == "file" and found[0]["path"] == "d/1" and found[2] == {"type": "prefix", "prefix": "d/s/"}
    assert command(api, "ls", "--bucket", "missing").code == 3
    assert command(api, "ls", "\udcff").code == 2


def test_ls_survives_names_that_the_terminal_cannot_show() -> None:
    api = FakeApi()
    api.add("ü\u202e😀", b"")
    out = io.BytesIO()
    stdout = io.TextIOWrapper(out, encoding="ascii")
    assert cli.run(["ls"], io.StringIO(), stdout, io.StringIO(), transport=api, environ={}) == 0
    assert out.getvalue() == b"\\xfc\\u202e\\U0001f600\n"


def test_names_are_escaped_for_a_terminal_only() -> None:
    api = FakeApi()
    api.add("a\u202eb\u00a0c", b"")
    assert command(api, "ls").text == "a\u202eb\u00a0c\n"
    assert command(api, "ls", terminal=True, stdout_terminal=True).text == "a\\u202eb\\xa0c\n"


def test_a_listing_that_goes_in_circles_is_left() -> None:
    api = FakeApi()
    page = {"bucket": "default", "files": [], "prefixes": [], "cursor": "again"}
    api.faults.extend([lambda _: as_json(page)] * 5)
    ran = command(api, "ls")
    assert ran.code == 1 and len(api.seen) == 2


def test_stat_of_a_file_replaced_just_now() -> None:
    api = FakeApi()
    stored = api.add("a", b"hello")
    del api.done[stored.file_id]
    ran = command(api, "stat", "a")
    assert ran.code == 0 and "chunks:       -" in ran.text


def test_stat_shows_what_is_known() -> None:
    api = FakeApi()
    stored = api.add("d/a", b"hello")
    ran = command(api, "stat", "d/a")
    assert ran.code == 0 and "SHA-256:      2cf24d" in ran.text and "chunks:       2 of 4 bytes" in ran.text
    found = command(api, "stat", stored.file_id, "--json").json[0]
    assert found["path"] == "d/a" and found["chunks"] == 2
    api.add("s", b"hello", whole=False)
    assert "stored in chunks" in command(api, "stat", "s").text
    assert command(api, "stat", "d/a", "missing").code == 7
    assert command(api, "stat", "missing").code == 3


def test_mv_renames() -> None:
    api = FakeApi()
    api.add("a", b"a")
    api.add("b", b"b")
    assert command(api, "mv", "a", "d/").text == "a -> d/a\n"
    assert command(api, "mv", "d/a", "b").code == 4
    assert command(api, "mv", "d/a", "b", "--overwrite").code == 0
    assert command(api, "mv", "missing", "x").code == 3
    assert command(api, "mv", "b", "x", "--json").json[0]["path"] == "x"
    assert command(api, "mv", "x", "y", "--if-match", new_file_id()).code == 4


def test_rm_deletes() -> None:
    api = FakeApi()
    for path in ("a", "b", "d/1", "d/2", "d/3", "d/4"):
        api.add(path, b"x")
    assert command(api, "rm", "a").text == "deleted a\n"
    assert command(api, "rm", "a").code == 3
    assert command(api, "rm", "a", "b").code == 7
    assert command(api, "rm", "d/1", "--if-match", new_file_id()).code == 4
    assert command(api, "rm", "-r", "d", "--purge").code == 0 and not api.files
    assert {seen.query.get("purge") for seen in api.seen if seen.method == "DELETE"} == {None, "1"}
    assert command(api, "rm", "-r", "d").code == 3 == command(api, "rm", "-r", "/").code
    assert command(api, "rm", "missing", "--json").json[0]["error"]["exit"] == 3


def test_nodes_and_buckets() -> None:
    api = FakeApi()
    lines = command(api, "nodes").text.splitlines()
    assert lines[0].split()[0] == "NODE" and lines[1].split()[:3] == ["node1", "active", "yes"]
    assert lines[2].split()[:3] == ["node2", "-", "no"]
    assert [each["node_id"] for each in command(api, "nodes", "--json").json] == ["node1", "node2"]
    assert command(api, "mkbucket", "photos").code == 0
    assert command(api, "buckets").text == "default\nphotos\nuploads\n"
    assert command(api, "buckets", "--json").json[0]["name"] == "default"
    assert command(api, "mkbucket", "Not legal").code == 2


# What is written, and how it ends


def test_quiet_says_nothing_but_errors(here: Path) -> None:
    (here / "a").write_bytes(b"x")
    api = FakeApi()
    for argv in (["put", "a"], ["get", "a", "b"], ["mv", "a", "c"], ["rm", "c"], ["mkbucket", "x"]):
        ran = command(api, "-q", *argv, terminal=True)
        assert (ran.code, ran.out, ran.err) == (0, b"", "")
    assert command(api, "-q", "get", "a").err


def test_progress_is_drawn_on_a_terminal_only(here: Path) -> None:
    (here / "a").write_bytes(bytes(600_000))
    for argv in (["put", "a"], ["get", "a", "b"], ["cat", "a"], ["put", "a", "--resume"]):
        api = FakeApi()
        api.add("a", bytes(600_000))
        environ = {"HOME": str(here)}
        shown = command(api, *argv, terminal=True, environ=environ).err
        assert "\ra  [" in shown.replace("\x1b[K", "") and "100%" in shown and shown.endswith("\r\x1b[K")
        assert command(api, *argv, environ=environ).err == ""
        assert "\r" not in command(api, *argv, "--json", terminal=True, environ=environ).err


def test_a_subject_is_named_and_escaped() -> None:
    api = FakeApi()
    api.add("a", b"x")
    api.lose_before(errors.Busy("too \x1b[2J\nmuch"))
    ran = command(api, "rm", "a", "b")
    assert ran.err.splitlines()[0] == "dfs: a: too \\x1b[2J\\nmuch; try again later"


def test_an_interrupt_ends_with_130_and_leaves_nothing(here: Path) -> None:
    api = FakeApi()
    api.add("a", bytes(600_000))

    class Interrupted(FakeAnswer):
        def read(self, n: int = -1) -> bytes:
            if self._at:
                raise KeyboardInterrupt
            return super().read(n)

    answer = Interrupted(200, [("ETag", '"x"'), ("X-File-SHA256", "0" * 64)], bytes(600_000))
    api.faults.append(lambda _: answer)
    ran = command(api, "get", "a")
    assert ran.code == 130 and ran.err == "dfs: interrupted\n" and names(here) == []


def test_a_bug_is_a_sentence_not_a_traceback() -> None:
    def bug() -> None:
        raise ZeroDivisionError("oops")

    api = FakeApi()
    api.faults.append(lambda _: bug())
    ran = command(api, "ls")
    assert ran.code == 1 and ran.err == "dfs: internal error: ZeroDivisionError: oops; please report this\n"


class Closed(io.TextIOWrapper):
    """A stdout whose reader has gone."""

    error: OSError = BrokenPipeError()

    def write(self, _: str) -> int:
        raise self.error


def test_a_reader_that_goes_away_ends_it_quietly() -> None:
    api = FakeApi()
    api.add("a", b"x")
    err = io.StringIO()
    assert cli.run(["ls"], io.StringIO(), Closed(io.BytesIO()), err, transport=api, environ={}) == 1
    assert err.getvalue() == ""


def test_a_stdout_that_cannot_be_written_is_said() -> None:
    api = FakeApi()
    api.add("a", b"x")
    err, out = io.StringIO(), Closed(io.BytesIO())
    out.error = OSError(28, "No space left on device")
    assert cli.run(["ls"], io.StringIO(), out, err, transport=api, environ={}) == 1
    assert err.getvalue() == "dfs: cannot go on: No space left on device\n"


def test_main_restores_the_signal_handlers(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert cli.main(["nonsense"]) == 2
    assert signal.getsignal(signal.SIGTERM) is before
    assert capsys.readouterr().err.startswith("dfs: ")
    monkeypatch.setattr(sys, "argv", ["dfs-client", "--version"])
    with pytest.raises(SystemExit) as caught:
        runpy.run_module("dfs.client", run_name="__main__")
    assert caught.value.code == 0


def test_sigterm_unwinds() -> None:
    with pytest.raises(SystemExit) as caught, cli._sigterm_unwinds():
        signal.raise_signal(signal.SIGTERM)
    assert caught.value.code == 143


def test_main_works_outside_the_main_thread() -> None:
    import threading

    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(cli.main(["nonsense"])))
    thread.start()
    thread.join()
    assert codes == [2]
