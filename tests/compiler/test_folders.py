"""Folders that are written all at once or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from intaglio.compiler.errors import ArtifactError
from intaglio.compiler.folders import replaced_folder

NAMES = ("one", "two")


def write(path: Path, content: str) -> None:
    with replaced_folder(path, NAMES, "save") as folder:
        for name in NAMES:
            (folder / name).write_text(content)


def write_half(path: Path) -> None:
    with replaced_folder(path, NAMES, "save") as folder:
        (folder / "one").write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def read(path: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in path.iterdir()}


def test_a_folder_is_made_with_its_parents(tmp_path: Path) -> None:
    write(tmp_path / "deep" / "model", "new")
    assert read(tmp_path / "deep" / "model") == {"one": "new", "two": "new"}
    assert os.stat(tmp_path / "deep" / "model").st_mode & 0o777 == 0o755


@pytest.mark.parametrize("before", [[], ["one"], ["one", "two"]])
def test_an_older_one_is_replaced(tmp_path: Path, before: list[str]) -> None:
    path = tmp_path / "model"
    path.mkdir()
    for name in before:
        (path / name).write_text("old")
    write(path, "new")
    assert read(path) == {"one": "new", "two": "new"}
    assert list(tmp_path.iterdir()) == [path]


def test_other_files_are_never_touched(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.mkdir()
    (path / "diary.txt").write_text("dear")
    with pytest.raises(ArtifactError, match=r"diary\.txt"):
        write(path, "new")
    assert read(path) == {"diary.txt": "dear"}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", ["file", "link", "dangling"])
def test_what_is_no_folder_is_refused(tmp_path: Path, kind: str) -> None:
    path, real = tmp_path / "model", tmp_path / "real"
    if kind == "file":
        path.write_text("mine")
    else:
        path.symlink_to(real)
    if kind == "link":
        real.mkdir()
    with pytest.raises(ArtifactError, match="no folder"):
        write(path, "new")
    assert path.is_symlink() == (kind != "file")


def test_a_full_disk_leaves_nothing_and_keeps_the_old(tmp_path: Path) -> None:
    path = tmp_path / "model"
    write(path, "old")
    with pytest.raises(ArtifactError, match="No space left"):
        write_half(path)
    assert read(path) == {"one": "old", "two": "old"}
    assert list(tmp_path.iterdir()) == [path]


def test_other_errors_pass_through_and_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError), replaced_folder(tmp_path / "model", NAMES, "save"):
        raise KeyError("a bug")
    assert list(tmp_path.iterdir()) == []


def test_a_failing_swap_brings_the_old_one_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, rename = tmp_path / "model", Path.rename
    write(path, "old")

    def fail(self: Path, target: Path) -> Path:
        if self.name.endswith(".partial"):
            raise OSError(errno.EIO, "broken")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(ArtifactError, match="broken"):
        write(path, "new")
    assert read(path) == {"one": "old", "two": "old"}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_place_without_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ArtifactError, match="Permission denied"):
        write(tmp_path / "model", "new")
