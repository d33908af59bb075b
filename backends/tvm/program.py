"""Programs as data: stage tables over named buffers, everything but the weights and the code.

A program is a list of stages that all workers run in step. It names kernels by index, so one shared object
serves every program, and it names buffers, whose addresses are filled in when the program is loaded.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from intaglio.backends.tvm.validation import problems_of
from intaglio.compiler.errors import ArtifactError

ALIGNMENT = 64  # bytes: TVM assumes it of every pointer
ROW = 32  # int64 per stage in a table as the code reads it: kernel, barrier, guard, count, pointers
POINTERS = 4  # where the pointers begin
SPACES = ("weights", "state", "workspace", "private", "tokens", "logits", "maxima")


@dataclass(frozen=True)
class Buffer:
    """A stretch of memory.

    Spaces: "weights" (the arena file), "state" (lives between calls), "workspace" (within a call), "private"
    (workspace, `bytes` for each worker), "tokens" (the call's input), "logits" (its output) and "maxima" (of
    blocks of logits). Buffers of "workspace" and "private" may share bytes where they are not in use at the
    same time.
    """

    name: str
    space: str
    bytes: int
    offset: int = 0  # in its space; of private buffers, for one worker


@dataclass(frozen=True)
class KernelCode:
    """A kernel by class name and parameters; see `intaglio.kernels.catalogue`."""

    name: str
    parameters: dict[str, Any]

    def __post_init__(self) -> None:
        # As JSON gives them back: lists for tuples, so that a program read is equal to the one written.
        object.__setattr__(self, "parameters", json.loads(json.dumps(self.parameters)))


@dataclass(frozen=True)
class Guard:
    """A float in a buffer; where it is zero, a stage is skipped together with its barrier."""

    buffer: int
    offset: int  # floats


@dataclass(frozen=True)
class Stage:
    """One kernel over some buffers, by their indices."""

    kernel: int
    buffers: tuple[int, ...]
    barrier: bool  # whether all workers wait for each other afterwards
    site: str  # of the model, for profiles
    guard: Guard | None = None
    count: int = 0  # rows that the kernel is told of; 0: the tokens of the call


@dataclass(frozen=True)
class Exchange:
    """Rows that go from a buffer into a foreign region, or back."""

    name: str  # of the region's input or output
    buffer: int
    stride: int  # floats from row to row
    offset: int  # of the first column
    shape: tuple[int, ...]  # of a row
    single: bool  # one row, whatever the number of tokens


@dataclass(frozen=True)
class ForeignCall:
    """A run of region `region` in onnxruntime, ahead of stage `before`."""

    region: int
    before: int
    inputs: tuple[Exchange, ...]
    outputs: tuple[Exchange, ...]


@dataclass(frozen=True)
class ForeignFile:
    """A region's file in the artefact, and the inputs that its outputs `….updated` replace."""

    file: str
    caches: tuple[str, ...]
    site: str


@dataclass(frozen=True)
class StageTable:
    """One entry point: what runs for a call of at most `tokens` tokens."""

    name: str
    tokens: int
    stages: tuple[Stage, ...]
    foreign: tuple[ForeignCall, ...] = ()


@dataclass(frozen=True)
class Program:
    """All entry points of a compiled decoder."""

    capacity: int  # positions of the KV cache that may be used, by each sequence
    vocabulary: int
    kernels: tuple[KernelCode, ...]
    buffers: tuple[Buffer, ...]
    tables: tuple[StageTable, ...]
    weight_bytes: int  # the arena file's size
    bytes_per_token: int  # packed weight bytes that one decode step reads
    cache_bytes_per_position: int  # of keys and values of one token, all layers
    multiply_adds_per_token: int  # of the linear layers in one decode step
    foreign: tuple[ForeignFile, ...] = ()  # regions that onnxruntime runs
    batch: int = 1  # sequences that the cache holds; buffers of "state" have so many equal parts

    def table(self, name: str) -> StageTable:
        """The entry point called `name`."""
        return next(table for table in self.tables if table.name == name)

    def table_for(self, tokens: int) -> StageTable:
        """The entry point for the next of `tokens` tokens of which only the last one's logits are wanted."""
        known = [one for one in self.tables if one.name in ("decode", "short", "prefill")]
        known.sort(key=lambda one: one.tokens)
        return next((one for one in known if one.tokens >= tokens), known[-1])

    def table_for_scores(self, tokens: int) -> StageTable:
        """The entry point for the logits of all of `tokens` tokens: drafts, or texts like prompts."""
        score = self.table("score")
        review = next((one for one in self.tables if one.name == "review"), score)
        return score if tokens <= score.tokens else review

    def space_bytes(self, space: str) -> int:
        """Size of a space, for one worker where it is private."""
        return max(
            (buffer.offset + buffer.bytes for buffer in self.buffers if buffer.space == space), default=0
        )

    def space_sizes(self, workers: int) -> dict[str, int]:
        """Bytes of every space, as a session of `workers` workers allocates them."""
        sizes = {space: self.space_bytes(space) for space in SPACES}
        return {**sizes, "weights": self.weight_bytes, "private": workers * sizes["private"]}

    def to_json(self) -> str:
        """As JSON text."""
        return json.dumps(dataclasses.asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Program:
        """From JSON text; raises `ArtifactError` for anything else, and for numbers that lead astray."""
        try:
            program = cls._read(json.loads(text))
            problems = list(problems_of(program))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArtifactError(
                f"program: not a program of this version ({error!r}); compile again"
            ) from error
        if problems:
            raise ArtifactError("\n  - ".join(["program: it is corrupt; compile again", *problems]))
        return program

    @classmethod
    def _read(cls, values: Any) -> Program:
        values["kernels"] = tuple(KernelCode(**one) for one in values["kernels"])
        values["buffers"] = tuple(Buffer(**one) for one in values["buffers"])
        values["tables"] = tuple(_table(one) for one in values["tables"])
        values["foreign"] = tuple(
            ForeignFile(**{**one, "caches": tuple(one["caches"])}) for one in values["foreign"]
        )
        values["batch"] = int(values["batch"])
        return cls(**values)


def _table(values: dict[str, Any]) -> StageTable:
    stages = tuple(_stage(one) for one in values["stages"])
    foreign = tuple(_call(one) for one in values["foreign"])
    return StageTable(values["name"], values["tokens"], stages, foreign)


def _stage(values: dict[str, Any]) -> Stage:
    guard = None if values["guard"] is None else Guard(**values["guard"])
    return Stage(**{**values, "buffers": tuple(values["buffers"]), "guard": guard})


def _call(values: dict[str, Any]) -> ForeignCall:
    inputs, outputs = (
        tuple(Exchange(**{**one, "shape": tuple(one["shape"])}) for one in values[side])
        for side in ("inputs", "outputs")
    )
    return ForeignCall(values["region"], values["before"], inputs, outputs)


def align(size: int) -> int:
    """`size` rounded up to the alignment of buffers."""
    return -(-size // ALIGNMENT) * ALIGNMENT
