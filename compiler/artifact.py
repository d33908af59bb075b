"""A compiled model on disk: five files, their hashes in the first.

artifact.json    the manifest below: origin of the model, what was done to it, the files' hashes
program.json     stage tables, buffers and kernels: all but weights and code
program.so       the code, for one target
weights.bin      the packed weights, 64-byte aligned, the same for every target
tokenizer.json   the tokenizer with its chat template, or `null`
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from intaglio.compiler.account import Account
from intaglio.compiler.errors import ArtifactError, ForeignArtifactError, TamperedArtifactError
from intaglio.compiler.folders import disk_errors, replaced_folder

FORMAT = 1
MANIFEST, PROGRAM, LIBRARY, WEIGHTS, TOKENIZER = FILES = (
    "artifact.json",
    "program.json",
    "program.so",
    "weights.bin",
    "tokenizer.json",
)
HASHED = FILES[1:]


@dataclass(frozen=True)
class Source:
    """The file a model was compiled from."""

    path: str  # absolute
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What `artifact.json` holds, beside its own hash."""

    source: Source
    architecture: dict[str, Any]  # sizes of the decoder, as in `DecoderArchitecture`
    target: dict[str, Any]  # as in `Target`
    plan: dict[str, Any]  # as in `Plan.to_json`
    workload: dict[str, Any]  # as in `Workload`
    sites: tuple[dict[str, Any], ...]  # in the order in which they run
    account: Account  # what the passes did and declined
    context: int = 0  # tokens
    nodes: dict[str, str] = field(
        default_factory=dict
    )  # of the graph → the site that computes it, or nothing
    seconds: dict[str, float] = field(default_factory=dict)  # by phase of the compilation
    peak_memory_bytes: int = 0  # anonymous, beyond what the imports took
    files: dict[str, str] = field(default_factory=dict)  # name → SHA-256
    format: int = FORMAT

    def to_json(self) -> str:
        """As JSON text with the text's own hash."""
        values = dataclasses.asdict(self)
        return json.dumps({**values, "sha256": _digest_of(values)}, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Read what `to_json` wrote. Raises `ArtifactError` and `TamperedArtifactError`."""
        values = _read_object(text)
        if (version := values.get("format")) != FORMAT:
            raise ArtifactError(
                f"load: format {version!r}, this Intaglio reads {FORMAT}: compile the model again."
            )
        if values.pop("sha256", None) != _digest_of(values):
            raise TamperedArtifactError(
                f"load: {MANIFEST} was changed: its hash differs; compile the model again."
            )
        values["source"] = Source(**values["source"])
        values["account"] = Account.from_json(values["account"])
        values["sites"] = tuple(values["sites"])
        return cls(**values)


def sha256(path: Path) -> str:
    """The hash of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(folder: Path, manifest: Manifest) -> Manifest:
    """Hash the other files of `folder` into `manifest`, and write it there; the manifest written."""
    complete = dataclasses.replace(manifest, files={name: sha256(folder / name) for name in HASHED})
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


def verify(folder: Path, manifest: Manifest, names: tuple[str, ...] = HASHED) -> None:
    """Compare the files with their hashes; raises `TamperedArtifactError` for all differences at once."""
    problems = [
        problem for name in names if (problem := _difference(folder / name, manifest.files.get(name)))
    ]
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
    with replaced_folder(path, FILES, "save") as new:
        for name in FILES:
            shutil.copyfile(folder / name, new / name)


def artifact_bytes(folder: Path) -> int:
    """Size of all files."""
    with disk_errors("artifact", folder):
        return sum((folder / name).stat().st_size for name in FILES)


def _difference(path: Path, expected: str | None) -> str | None:
    try:
        found = sha256(path)
    except OSError:
        return f"{path.name} is missing or cannot be read"
    return None if found == expected else f"{path.name}: its hash differs from the recorded one"


def _digest_of(values: dict[str, Any]) -> str:
    text = json.dumps(values, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _read_object(text: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except ValueError as error:
        raise TamperedArtifactError(
            f"load: {MANIFEST} is not JSON ({error}): compile the model again."
        ) from error
    if not isinstance(values, dict):
        raise TamperedArtifactError(f"load: {MANIFEST} holds no object: compile the model again.")
    return values
