"""Attention over whole sequences, float32: scores of a tile of queries with all keys, softmax, sum of values.

1. a unit of work is one head of one sequence, or a part of its queries; its keys are transposed once, so that
   sixteen of them share a vector and scores need no horizontal sums;
2. a tile of queries multiplies pairs of key vectors in registers; its scores stay in the first-level cache;
3. the weights are left as e^(score - largest): their sum divides the result at the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from intaglio.compiler.errors import CodegenError

if TYPE_CHECKING:
    from intaglio.kernels.instructions import Instructions
    from intaglio.kernels.tir import KernelFrame

LANES = 16
MASKS = {"": None, "bool": "uint8", "float": "float32"}
UNITS = 8  # at least, where there are so many tiles of queries
LARGEST_TILE = 6  # queries


@dataclass(frozen=True)
class Layout:
    """Element `[sequence, head, row, column]` lies at `offset + Σ index · stride`; columns are neighbours."""

    sequence: int
    head: int
    row: int
    offset: int = 0


@dataclass(frozen=True)
class WholeAttention:
    """`result = softmax(scale · query · keyᵀ + mask) · value`, head by head; queries share heads of keys.

    Pointers: query, key, value, mask where there is one (bool as bytes, or float32; a hidden key's score
    counts as -3e38, so that a query whose keys are all hidden takes their mean), scratch (private,
    `scratch_floats` for each worker), result. Rows of values and results are accessed in whole vectors.

    Raises:
        CodegenError: if sizes contradict each other.
    """

    sequences: int
    heads: int
    kv_heads: int
    queries: int
    keys: int
    head_dim: int
    value_dim: int  # a multiple of 16
    scale: float
    query: Layout
    key: Layout
    value: Layout
    result: Layout
    mask: str = ""  # "", "bool" or "float"
    mask_layout: Layout = Layout(0, 0, 0)  # strides are 0 where it is the same for all
    causal: bool = False  # query i sees keys 0 … i

    def __post_init__(self) -> None:
        if problems := find_problems(self):
            raise CodegenError("attention: " + "; ".join([*problems, "please report this"]))

    @property
    def key_vectors(self) -> int:
        """Vectors of keys, the last one padded; an even number."""
        return -(-self.keys // (2 * LANES)) * 2

    @property
    def scratch_floats(self) -> int:
        """For the transposed keys of a head, and the scores of a tile."""
        return self.key_vectors * LANES * (self.head_dim + LARGEST_TILE)

    @property
    def pointers(self) -> dict[str, str]:
        """Pointer arguments in order."""
        names = dict.fromkeys(("query", "key", "value"), "float32")
        mask = MASKS[self.mask]
        masks = {} if mask is None else {"mask": mask}
        return {**names, **masks, "scratch": "float32", "result": "float32"}

    def emit(self, frame: KernelFrame, instructions: Instructions) -> None:
        """Write the kernel's code into the function being built."""
        from intaglio.kernels.attention_whole.code import Code  # imports TVM

        Code(self, frame, instructions).emit()


def find_problems(kernel: WholeAttention) -> list[str]:
    """Everything that is wrong with an attention, in words; empty if nothing is."""
    sizes = (kernel.sequences, kernel.heads, kernel.kv_heads, kernel.queries, kernel.keys, kernel.head_dim)
    if min(*sizes, kernel.value_dim) < 1:
        return ["sizes are at least 1"]
    problems = []
    if kernel.heads % kernel.kv_heads:
        problems.append(f"{kernel.heads} heads do not share {kernel.kv_heads} heads of keys")
    if kernel.value_dim % LANES:
        problems.append(f"values of {kernel.value_dim} are no whole vectors")
    if kernel.mask not in MASKS:
        problems.append(f"there is no mask of type {kernel.mask!r}")
    return problems
