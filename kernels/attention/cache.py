"""The static KV cache's layout, and the step of prefill that writes to it.

Keys are `[kv_heads, capacity / 16, head_dim, 16]`: a vector holds one component of 16 positions, so that the
scores of 16 positions are sums of vectors times scalars and need no horizontal additions. Values are
`[kv_heads, capacity, head_dim]`. Both are float32.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm.tirx.script.builder import ir as T

from intaglio.kernels import tir
from intaglio.kernels.attention.heads import Heads
from intaglio.kernels.attention.preparation import Preparation
from intaglio.kernels.instructions import Instructions
from intaglio.kernels.tir import Expression, KernelFrame


@dataclass(frozen=True)
class RotateAndCache:
    """Prepare and scale the queries of `count` tokens in place; cache their keys and values.

    For prefill: bias, norm and rotation as `heads` has them. Pointers: projection float32 `[count, stride]`,
    then `Heads.cache_pointers`. Keys and values in the projection stay as they were.
    """

    heads: Heads

    @property
    def pointers(self) -> dict[str, str]:
        """Pointer arguments in order."""
        return {"projection": "float32", **self.heads.cache_pointers}

    def emit(self, frame: KernelFrame, instructions: Instructions) -> None:
        """Write the kernel's code into the function being built."""
        del instructions  # bound by memory
        preparation = Preparation(self.heads, frame)
        frame.each_own(frame.count, lambda row: self.row(preparation, frame.position, row))

    def row(self, preparation: Preparation, first_position: Expression, row: Expression) -> None:
        """One token."""
        position = tir.bind(first_position + row)
        with T.serial(self.heads.kv_heads) as kv_head:
            preparation.append(row, kv_head, position)
        with T.serial(self.heads.heads) as head:
            offset = tir.bind(head * tir.int32(self.heads.head_dim))
            # All before any is written: otherwise every table entry is read after a store that may alias it.
            prepared: list[tuple[int, Expression]] = []
            preparation.query(
                row, head, position, lambda at, vector, _lanes: prepared.append((at, tir.bind(vector)))
            )
            for at, vector in prepared:
                tir.store(preparation.projection, [row, offset + tir.int32(at)], vector)
