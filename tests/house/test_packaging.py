"""What ships is what is in the tree: sdist and wheel are built from a clean copy and compared with it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("kernels", "compiler", "passes", "cost_models", "backends")
ALONGSIDE = ("src", "pyproject.toml", "README.md", "LICENSE")
JUNK = shutil.ignore_patterns("__pycache__", "*.egg-info")
# Prose stays in the repository; everything else in a folder of code belongs into the wheel.
NOT_SHIPPED = {".md"}


def copy_tree(destination: Path) -> None:
    """Copy what a build reads; links stay links."""
    for name in (*FOLDERS, *ALONGSIDE):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, destination / name, symlinks=True, ignore=JUNK)
        else:
            shutil.copy(source, destination / name)


def expected(tree: Path) -> set[str]:
    """The wheel's files under `intaglio/`, read off `tree`."""
    files = {
        f"intaglio/{file.relative_to(tree)}"
        for folder in FOLDERS
        for file in (tree / folder).rglob("*")
        if file.is_file() and file.suffix not in NOT_SHIPPED
    }
    return files | {"intaglio/__init__.py", "intaglio/py.typed"}


def build(hook: str, folder: Path) -> Path:
    """Call a hook of the build backend in a fresh interpreter; no network is needed."""
    code = f"import setuptools.build_meta as backend; print(backend.{hook}('out'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "out" / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """The copied tree, the sdist built from it, and the wheel built from the sdist."""
    tree, unpacked = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("sdist")
    copy_tree(tree)
    sdist = build("build_sdist", tree)
    with tarfile.open(sdist) as archive:
        archive.extractall(unpacked, filter="data")
    return tree, sdist, build("build_wheel", next(unpacked.iterdir()))


def test_the_sdist_holds_the_tree(built: tuple[Path, Path, Path]) -> None:
    tree, sdist, _ = built
    with tarfile.open(sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    assert {name.removeprefix("src/") for name in names if name.startswith("src/intaglio/")} == expected(tree)
    assert {"pyproject.toml", "README.md", "LICENSE"} <= names


def test_the_wheel_holds_the_tree(built: tuple[Path, Path, Path]) -> None:
    tree, _, wheel = built
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {name for name in names if ".dist-info/" not in name} == expected(tree)


def test_the_wheel_can_be_imported_from(built: tuple[Path, Path, Path], tmp_path: Path) -> None:
    with zipfile.ZipFile(built[2]) as archive:
        archive.extractall(tmp_path)
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import intaglio; print(intaglio.__file__)"
    # -I keeps PYTHONPATH and the working folder out, -S the installed Intaglio.
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True
    )
    assert Path(done.stdout.strip()) == tmp_path / "intaglio" / "__init__.py"


def test_the_links_are_relative_and_complete() -> None:
    links = {
        link.name: str(link.readlink()) for link in (ROOT / "src" / "intaglio").iterdir() if link.is_symlink()
    }
    assert links == {folder: f"../../{folder}" for folder in FOLDERS}
