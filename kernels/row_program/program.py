"""Row programs as data: what a kernel computes from some rows, step by step. Importing this needs no TVM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from intaglio.compiler.errors import CodegenError

if TYPE_CHECKING:
    from intaglio.kernels.instructions import Instructions
    from intaglio.kernels.tir import KernelFrame

LANES = 16  # columns of a vector
UNARY = (
    *("negate", "absolute", "exp", "log", "tanh", "logistic", "erf", "sqrt", "reciprocal", "square"),
    *("power_of_number", "relu", "gelu_erf", "gelu_tanh", "silu"),
)
BINARY = ("add", "subtract", "multiply", "divide", "maximum", "minimum")
ARGUMENTS = {
    "input": (0,),
    "vector": (0,),
    "number": (0,),
    **dict.fromkeys(UNARY, (1,)),
    **dict.fromkeys(BINARY, (2,)),
    "rms_norm": (1, 2),
    "layer_norm": (1, 2, 3),
}  # how many arguments each op takes


@dataclass(frozen=True)
class RowInput:
    """A row-shaped operand.

    `rows` says which row belongs to a token: "all" tokens have theirs, "own" is one copy per worker (row =
    worker), "shared" is row 0.
    """

    stride: int  # floats from row to row
    rows: str
    offset: int = 0  # first column
    broadcast: bool = False  # only the one column at `offset`, the same for all columns of the result


@dataclass(frozen=True)
class Step:
    """One operation; `arguments` are indices of earlier steps.

    Norms take x, then a weight and (LayerNorm) a bias where there are any; "power_of_number" raises its
    argument to `number`.
    """

    op: str  # a key of `ARGUMENTS`
    arguments: tuple[int, ...] = ()
    index: int = 0  # which input or vector
    number: float = 0.0  # of "number" and "power_of_number"; epsilon of a norm


@dataclass(frozen=True)
class RowProgram:
    """`result[row, column] = steps[-1]` for every column.

    `rows` says whose rows: "all" shares `count` rows among the workers; "own" is one token, of which every
    worker computes the whole row into its own copy (row = worker); "last" is like it, reading the last of
    `count` tokens of inputs with rows "all"; "shared" is one token whose columns the workers share (programs
    without norms only).
    Pointers: the inputs, the vectors (weights, `[columns rounded up to 16]`, padded with zeros), one scratch
    row per worker for each norm (private, `[workers, columns rounded up to 16]`), the result; all float32.
    With `offset` 0 the result's padding up to a whole vector is set to zero where the stride has room for it.
    Element-wise programs may have the result in place of an input with the same stride and offset, if that
    one is not broadcast.

    Raises:
        CodegenError: if the steps, inputs and rows contradict each other.
    """

    columns: int
    inputs: tuple[RowInput, ...]
    vectors: int
    steps: tuple[Step, ...]
    stride: int  # of result
    rows: str
    offset: int = 0  # first column in result

    def __post_init__(self) -> None:
        if problems := find_problems(self):
            raise CodegenError("row program: " + "; ".join([*problems, "please report this"]))

    @property
    def last(self) -> int:
        """Index of the step that is the result."""
        return len(self.steps) - 1

    @property
    def padded(self) -> int:
        """Columns rounded up to whole vectors."""
        return -(-self.columns // LANES) * LANES

    @property
    def norms(self) -> tuple[int, ...]:
        """Indices of the steps that are norms: each has a scratch row."""
        return tuple(i for i, step in enumerate(self.steps) if step.op in ("rms_norm", "layer_norm"))

    def needed(self, step: int, known: frozenset[int]) -> tuple[int, ...]:
        """What `step` is computed from, itself included, in order; nothing of what `known` ones come from."""
        found: set[int] = set()
        waiting = [step]
        while waiting:
            one = waiting.pop()
            if one not in found and one not in known:
                waiting += self.steps[one].arguments
            found.add(one)
        return tuple(sorted(found))

    @property
    def pointers(self) -> dict[str, str]:
        """Pointer arguments in order."""
        names = [f"input{i}" for i in range(len(self.inputs))]
        names += [f"vector{i}" for i in range(self.vectors)]
        names += [f"scratch{i}" for i in range(len(self.norms))]
        return dict.fromkeys([*names, "result"], "float32")

    def emit(self, frame: KernelFrame, instructions: Instructions) -> None:
        """Write the kernel's code into the function being built."""
        from intaglio.kernels.row_program.kernel import emit_rows  # imports TVM

        del instructions  # nothing here that LLVM does not do as well
        emit_rows(self, frame)


def find_problems(program: RowProgram) -> list[str]:
    """Everything that is wrong with a program, in words; empty if nothing is."""
    problems = [
        f"step {i}: {problem}"
        for i, step in enumerate(program.steps)
        for problem in _step_problems(program, i, step)
    ]
    problems += [
        f"input {i}: rows {one.rows!r} of stride {one.stride} from column {one.offset} on do not do"
        for i, one in enumerate(program.inputs)
        if one.rows not in ("all", "own", "shared")
        or not 0 <= one.offset <= one.stride - (1 if one.broadcast else program.columns)
    ]
    if program.rows not in ("all", "own", "shared", "last"):
        problems.append(f"there are no rows {program.rows!r}")
    if program.rows == "shared" and program.norms:
        problems.append("a norm needs whole rows, and workers share the columns")
    if not 0 <= program.offset <= program.stride - program.columns or program.columns < 1:
        problems.append(
            f"{program.columns} columns from {program.offset} on do not fit stride {program.stride}"
        )
    return problems if program.steps else [*problems, "there are no steps"]


def _step_problems(program: RowProgram, place: int, step: Step) -> list[str]:
    if step.op not in ARGUMENTS:
        return [f"there is no op {step.op!r}"]
    if len(step.arguments) not in ARGUMENTS[step.op]:
        return [f"{step.op} does not take {len(step.arguments)} arguments"]
    problems = [f"argument {i} is no earlier step" for i in step.arguments if not 0 <= i < place]
    most = {"input": len(program.inputs), "vector": program.vectors}.get(step.op, 1)
    if not 0 <= step.index < most:
        problems.append(f"there is no {step.op} {step.index}")
    return problems
