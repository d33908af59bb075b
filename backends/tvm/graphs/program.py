"""Programs of graphs as data: a stage table for each shape of call, over buffers of fixed sizes."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from intaglio.backends.tvm.program import Buffer, KernelCode, Stage
from intaglio.compiler.errors import ArtifactError


@dataclass(frozen=True)
class Port:
    """A tensor in a buffer that comes from outside or goes there."""

    name: str
    buffer: int
    dtype: str  # as numpy calls it
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # elements
    offset: int  # elements
    plain: bool  # row-major from the buffer's beginning on


@dataclass(frozen=True)
class RegionCall:
    """A run of a part of the graph in onnxruntime, ahead of stage `before`."""

    file: str
    before: int
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    site: str


@dataclass(frozen=True)
class GraphTable:
    """What runs for calls whose inputs have the shapes of `inputs`, and the values of `fixed`."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    fixed: dict[str, Any]  # inputs that were compiled in: whole numbers without axes
    stages: tuple[Stage, ...]
    regions: tuple[RegionCall, ...] = ()


@dataclass(frozen=True)
class GraphProgram:
    """All tables of a compiled graph; they share kernels, weights and workspace."""

    kernels: tuple[KernelCode, ...]
    buffers: tuple[Buffer, ...]
    tables: tuple[GraphTable, ...]
    weight_bytes: int  # the arena file's size

    def space_bytes(self, space: str) -> int:
        """Size of a space, without the private ones."""
        ends = (one.offset + one.bytes for one in self.buffers if one.space == space)
        return max(ends, default=0)

    def to_json(self) -> str:
        """As JSON text."""
        return json.dumps(dataclasses.asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> GraphProgram:
        """From JSON text; raises `ArtifactError` for anything else."""
        try:
            values = json.loads(text)
            return cls(
                tuple(KernelCode(**one) for one in values["kernels"]),
                tuple(Buffer(**one) for one in values["buffers"]),
                tuple(_table(one) for one in values["tables"]),
                values["weight_bytes"],
            )
        except (ValueError, KeyError, TypeError) as error:
            raise ArtifactError(
                f"program: not a program of this version ({error!r}); compile again"
            ) from error


def _table(values: dict[str, Any]) -> GraphTable:
    regions = tuple(
        RegionCall(one["file"], one["before"], _ports(one["inputs"]), _ports(one["outputs"]), one["site"])
        for one in values["regions"]
    )
    stages = tuple(Stage(**{**one, "buffers": tuple(one["buffers"])}) for one in values["stages"])
    return GraphTable(_ports(values["inputs"]), _ports(values["outputs"]), values["fixed"], stages, regions)


def _ports(values: list[dict[str, Any]]) -> tuple[Port, ...]:
    return tuple(
        Port(**{**one, "shape": tuple(one["shape"]), "strides": tuple(one["strides"])}) for one in values
    )
