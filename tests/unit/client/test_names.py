from __future__ import annotations

import os
from pathlib import Path

import pytest

from dfs.client.failures import LocalFailure, UsageError
from dfs.client.names import (
    LocalTree,
    Wanted,
    folds_names,
    output_file,
    stored_path,
    stored_prefix,
    walk,
    wanted,
)
from dfs.errors import BadPath, DfsError

UUID = "bd08c6c6-3b5d-4f28-a32a-2bab04d1aba5"


def test_a_uuid_is_a_file_id_unless_forced() -> None:
    assert wanted(UUID.upper()) == Wanted(None, UUID)
    assert wanted("path:" + UUID) == Wanted(UUID, None) and wanted("path:" + UUID).name == UUID
    assert wanted("a/b").path == "a/b" and wanted("path:path:x").path == "path:x"
    assert wanted(UUID[:-1]).path == UUID[:-1]
    assert stored_path("path:a") == "a"
    with pytest.raises(BadPath):
        wanted("a/../b")


def test_prefixes_end_in_a_slash() -> None:
    assert [stored_prefix(text) for text in ("a", "a/", "path:a/b/", "/")] == ["a/", "a/", "a/b/", ""]
    for text in ("", "path:", "/a", "a//", "..", "../"):
        with pytest.raises(BadPath):
            stored_prefix(text)


def test_where_a_file_goes(tmp_path: Path) -> None:
    assert output_file(None, "a/b.txt") == Path("b.txt")
    assert output_file(str(tmp_path), "a/b.txt") == tmp_path / "b.txt"
    assert output_file("other", "a/b.txt") == Path("other")
    with pytest.raises(UsageError, match="no directory"):
        output_file(str(tmp_path / "missing") + "/", "a/b.txt")


def test_a_directory_is_walked_in_order_and_says_what_it_leaves_out(tmp_path: Path) -> None:
    for name in ("b/2", "b/1", "a", "b/c/deep", "z"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "loop").symlink_to(".")
    (tmp_path / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "fifo")
    found = list(walk(tmp_path))
    assert [each[1] for each in found if not isinstance(each, DfsError)] == ["a", "link", "z", "b/1", "b/2", "b/c/deep"]
    assert len([each for each in found if isinstance(each, DfsError)]) == 3


def test_directories_that_cannot_be_read_are_said(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    found = []
    for each in walk(tmp_path / "d" / ".." / "missing"):
        found.append(each)
    assert len(found) == 1 and isinstance(found[0], LocalFailure)


def test_a_link_without_end_is_said(tmp_path: Path) -> None:
    (tmp_path / "me").symlink_to("me")
    found = list(walk(tmp_path))
    assert len(found) == 1 and isinstance(found[0], LocalFailure)


def test_files_get_their_directories(tmp_path: Path) -> None:
    tree = LocalTree(tmp_path, folds=False)
    assert tree.place("a/b/c") == tmp_path / "a" / "b" / "c"
    assert (tmp_path / "a" / "b").is_dir()
    assert tree.place("A/B/C").parent.is_dir()


@pytest.mark.parametrize("relative", ["../x", "a/../../x", "/etc/passwd", "", "a//b", ".", "a/.", "a\0b", "..", "a\nb"])
def test_no_path_leads_out_of_the_directory(tmp_path: Path, relative: str) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(LocalFailure, match="cannot be a file name"):
        LocalTree(tmp_path / "in", folds=False).place(relative)
    assert os.listdir(tmp_path) == ["in"] and os.listdir(tmp_path / "in") == []


def test_symbolic_links_are_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "in" / "dir").symlink_to(tmp_path / "out")
    (tmp_path / "in" / "file").symlink_to(tmp_path / "out" / "file")
    tree = LocalTree(tmp_path / "in", folds=False)
    for relative in ("dir/x", "file"):
        with pytest.raises(LocalFailure, match="symbolic link"):
            tree.place(relative)


def test_a_file_and_a_directory_of_one_name_are_told_apart(tmp_path: Path) -> None:
    tree = LocalTree(tmp_path, folds=False)
    tree.place("a").touch()
    with pytest.raises(LocalFailure, match="needs a directory"):
        tree.place("a/b")
    tree.place("d/e")
    with pytest.raises(LocalFailure, match="needs a file"):
        tree.place("d")
    with pytest.raises(LocalFailure, match="cannot make the directory"):
        tree.place("x" * 300 + "/y")


def test_names_the_file_system_takes_for_equal_are_told_apart(tmp_path: Path) -> None:
    tree = LocalTree(tmp_path, folds=True)
    tree.place("Straße/é")
    tree.place("Straße/é")
    for relative in ("STRASSE/é", "straße/e\u0301"):
        with pytest.raises(LocalFailure, match="would be the same file"):
            tree.place(relative)


def test_whether_the_file_system_folds_is_tried(tmp_path: Path) -> None:
    assert folds_names(tmp_path) == (tmp_path / "X").exists() is False
    assert os.listdir(tmp_path) == []
    with pytest.raises(LocalFailure, match="cannot write"):
        folds_names(tmp_path / "missing")
