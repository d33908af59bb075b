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
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from intaglio.compiler.account import Account
from intaglio.compiler.errors import ArtifactError, TamperedArtifactError

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
    threads: int = 0  # that it was compiled for; of a graph, 0
    ports: dict[str, Any] = field(default_factory=dict)  # of a graph, as in `GraphPorts`
    padding: bool = False  # as compiled
    partition: dict[str, Any] = field(default_factory=dict)  # of a graph: what was measured of each candidate
    nodes: dict[str, str] = field(
        default_factory=dict
    )  # of the graph → the site that computes it, or nothing
    operators: dict[str, str] = field(default_factory=dict)  # of a graph: node → its operator
    seconds: dict[str, float] = field(default_factory=dict)  # by phase of the compilation
    batch_cost: dict[str, float] = field(default_factory=dict)  # of a decoder: rows → cost over that of one
    one_row_seconds: float = 0.0  # of a decoder: what one row cost then
    batch_cost_threads: int = 0  # with so many threads
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
        values = read_object(text)
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


def _digest_of(values: dict[str, Any]) -> str:
    text = json.dumps(values, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def read_object(text: str) -> dict[str, Any]:
    """The JSON object in `text`. Raises `TamperedArtifactError`."""
    try:
        values = json.loads(text)
    except ValueError as error:
        raise TamperedArtifactError(
            f"load: {MANIFEST} is not JSON ({error}): compile the model again."
        ) from error
    if not isinstance(values, dict):
        raise TamperedArtifactError(f"load: {MANIFEST} holds no object: compile the model again.")
    return values
