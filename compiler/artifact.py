"""Artefact folders: written, copied, checked against the hashes in their manifest."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Collection
from pathlib import Path, PurePath

from intaglio.compiler.errors import ArtifactError, ForeignArtifactError, TamperedArtifactError
from intaglio.compiler.folders import disk_errors, replaced_folder
from intaglio.compiler.manifest import MANIFEST, REQUIRED, Manifest, read_object


def sha256(path: Path) -> str:
    """The hash of a file, read in pieces; of a folder, that of the names and hashes of the files right in it.

    Hidden files do not count.
    """
    if path.is_dir():
        inside = sorted(one for one in path.iterdir() if one.is_file() and not one.name.startswith("."))
        return hashlib.sha256("\n".join(f"{one.name}\0{sha256(one)}" for one in inside).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(folder: Path, manifest: Manifest) -> Manifest:
    """Hash the other files of `folder` into `manifest`, and write it there; the manifest written."""
    inside = sorted(one for one in folder.rglob("*") if one.is_file() and one != folder / MANIFEST)
    files = {one.relative_to(folder).as_posix(): sha256(one) for one in inside}
    complete = dataclasses.replace(manifest, files=files)
    (folder / MANIFEST).write_text(complete.to_json(), encoding="utf-8")
    return complete


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the artefact in `folder`. Raises `ArtifactError` where there is none."""
    try:
        return Manifest.from_json((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(
            f"load: {folder} is no compiled model ({MANIFEST} cannot be read): "
            "give a folder that `intaglio compile` or `save` wrote."
        ) from error


def verify(folder: Path, manifest: Manifest, names: Collection[str] | None = None) -> None:
    """Compare the files (only those called `names`, if given) with their hashes.

    Raises `TamperedArtifactError` for all differences at once.
    """
    checked = names if names is not None else dict.fromkeys([*REQUIRED[manifest.kind], *manifest.files])
    problems = [problem for name in checked if (problem := _difference(folder, name, manifest))]
    if problems:
        raise TamperedArtifactError(
            "\n  - ".join([f"load: {folder} was changed; compile the model again", *problems])
        )


def refuse_foreign(manifest: Manifest, missing: tuple[str, ...]) -> None:
    """Raise `ForeignArtifactError` if this machine lacks what the code needs."""
    if missing:
        raise ForeignArtifactError(
            f"load: compiled for {manifest.target['name']} ({manifest.target['cpu']}), and this machine "
            f"lacks {', '.join(missing)}: load with recompile=True to build the code for this machine."
        )


def copy_artifact(folder: Path, path: Path) -> None:
    """Write a copy of the artefact in `folder` to `path`, all at once. Raises `ArtifactError`."""
    names = (MANIFEST, *read_manifest(folder).files)
    with replaced_folder(path, {*replaceable(path), *names}, "save") as new:
        for name in names:
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, new / name)


def replaceable(path: Path) -> tuple[str, ...]:
    """Names of the files in `path` that a compiled model there, of any version, consists of."""
    try:
        files = read_object((path / MANIFEST).read_text(encoding="utf-8")).get("files")
    except (OSError, UnicodeDecodeError, ArtifactError):
        return ()
    return (MANIFEST, *files) if isinstance(files, dict) else ()


def artifact_bytes(folder: Path) -> int:
    """Size of all files."""
    with disk_errors("artifact", folder):
        return sum(one.stat().st_size for one in folder.rglob("*") if one.is_file())


def _difference(folder: Path, name: str, manifest: Manifest) -> str | None:
    if name not in manifest.files:
        return f"{name} is not listed in {MANIFEST}"
    if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
        return f"{name!r} lies outside the folder"
    try:
        found = sha256(folder / name)
    except OSError:
        return f"{name} is missing or cannot be read"
    return None if found == manifest.files[name] else f"{name}: its hash differs from the recorded one"
