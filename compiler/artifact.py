"""A compiled model on disk: a manifest, and the files that it lists with their hashes.

artifact.json    the manifest below: origin of the model, what was done to it, the files' hashes
tokenizer.json   the tokenizer with its chat template, or `null`

of a decoder besides:
program.json     stage tables, buffers and kernels: all but weights and code
program.so       the code, for one target
weights.bin      the packed weights, 64-byte aligned, the same for every target
region-N.onnx    what onnxruntime runs of it, if anything, with region-N.weights

of a graph besides:
region.onnx      the graph as onnxruntime runs it
region.weights   its larger tensors, each at a page of its own, if there are any
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, Final, Literal

from intaglio.compiler.account import Account
from intaglio.compiler.errors import ArtifactError, ForeignArtifactError, TamperedArtifactError
from intaglio.compiler.folders import disk_errors, replaced_folder

FORMAT = 2
Kind = Literal["decoder", "graph"]
MANIFEST, TOKENIZER = "artifact.json", "tokenizer.json"
PROGRAM, LIBRARY, WEIGHTS = "program.json", "program.so", "weights.bin"
REGION = "region.onnx"
REQUIRED: Final[Mapping[Kind, tuple[str, ...]]] = {
    "decoder": (PROGRAM, LIBRARY, WEIGHTS, TOKENIZER),
    "graph": (REGION, TOKENIZER),
}


@dataclass(frozen=True)
class Source:
    """What a model was compiled from: a file, a folder, or an object in memory."""

    path: str | None  # absolute; of an object in memory, none
    bytes: int  # of the files, or of the parameters
    sha256: str | None  # of an object in memory, none
    description: str = ""  # of an object in memory

    @property
    def name(self) -> str:
        """For people: the last part of the path, or what the object is."""
        return self.description if self.path is None else Path(self.path).name


@dataclass(frozen=True)
class Manifest:
    """What `artifact.json` holds, beside its own hash."""

    source: Source
    architecture: dict[str, Any]  # sizes of the decoder, as in `DecoderArchitecture`; of a graph, empty
    target: dict[str, Any]  # as in `Target`
    plan: dict[str, Any]  # as in `Plan.to_json`
    workload: dict[str, Any]  # as in `Workload`; of a graph, empty
    sites: tuple[dict[str, Any], ...]  # in the order in which they run
    account: Account  # what the passes did and declined
    kind: Kind = "decoder"
    context: int = 0  # tokens; of a graph, 0
    ports: dict[str, Any] = field(default_factory=dict)  # of a graph, as in `GraphPorts`
    padding: bool = False  # as compiled
    nodes: dict[str, str] = field(
        default_factory=dict
    )  # of the graph → the site that computes it, or nothing
    operators: dict[str, str] = field(default_factory=dict)  # of a graph: node → its operator
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
        files = _read_object((path / MANIFEST).read_text(encoding="utf-8")).get("files")
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
