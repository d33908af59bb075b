"""Writing a folder all at once: either all of it is there afterwards, or nothing has changed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from intaglio.compiler.errors import ArtifactError

SHOWN = 5  # names in a message


@contextmanager
def replaced_folder(path: Path, names: Collection[str], operation: str) -> Iterator[Path]:
    """Give a folder beside `path` to fill with files called `names`; afterwards it takes the place of `path`.

    A folder at `path` is replaced if it is empty or holds only such files; anything else is left alone and
    refused. On any error the new folder is removed. Raises `ArtifactError`, for a full disk too.
    """
    refuse_others(path, names, operation)
    with disk_errors(operation, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
    try:
        with disk_errors(operation, path):
            yield new
            new.chmod(0o755)  # mkdtemp lets only its owner in
            flush(new)
            _swap(new, path)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def refuse_others(path: Path, names: Collection[str], operation: str) -> None:
    """Raise `ArtifactError` if there is something at `path` that `operation` did not write."""
    if not path.exists() and not path.is_symlink():
        return
    if not path.is_dir() or path.is_symlink():
        raise ArtifactError(f"{operation}: {path} is no folder: choose another path, or remove it.")
    others = sorted(_others(path, names))
    if others:
        shown = ", ".join(others[:SHOWN]) + (" …" if len(others) > SHOWN else "")
        raise ArtifactError(
            f"{operation}: {path} holds other files ({shown}): choose another folder, or empty it."
        )


def _others(path: Path, names: Collection[str]) -> Iterator[str]:
    """What there is in `path` beside the files `names`; folders that hold none of them are taken whole."""
    folders = {name.partition("/")[0] for name in names if "/" in name}
    for one in path.iterdir():
        if one.name in folders and one.is_dir() and not one.is_symlink():
            inside = (file.relative_to(path).as_posix() for file in one.rglob("*") if not file.is_dir())
            yield from (name for name in inside if name not in names)
        elif one.name not in names:
            yield one.name


@contextmanager
def disk_errors(operation: str, path: Path) -> Iterator[None]:
    """Turn the system's errors (disk full, no permission) into `ArtifactError`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise ArtifactError(
            f"{operation}: {path} cannot be written ({reason}): nothing was left behind; "
            "free space or choose another place."
        ) from error


def flush(folder: Path) -> None:
    """Have the files in `folder` written to the disk: a rename must not overtake them."""
    for file in folder.rglob("*"):
        if file.is_dir():
            continue
        with file.open("rb") as opened:
            os.fsync(opened.fileno())


def _swap(new: Path, path: Path) -> None:
    """Put `new` at `path`; what was there goes first, and comes back if that fails."""
    if not path.exists():
        new.rename(path)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".old", dir=path.parent))
    path.rename(old)
    try:
        new.rename(path)
    except OSError:
        old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)
