"""The step of prefill that prepares queries and fills the cache; its layout is in `storage`."""

from __future__ import annotations

from dataclasses import dataclass

from tvm.tirx.script.builder import ir as T

from intaglio.kernels import tir
from intaglio.kernels.attention.heads import Heads
from intaglio.kernels.attention.preparation import Preparation
from intaglio.kernels.instructions import Instructions
from intaglio.kernels.tir import LANES, Expression, KernelFrame, tirx


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
        # By blocks of the cache, since a word of it may hold several positions.
        first = tir.bind(tirx.floordiv(frame.position, tir.int32(LANES)))
        end = tir.bind(frame.position + frame.count)
        blocks = tirx.floordiv(end + tir.int32(LANES - 1), tir.int32(LANES)) - first

        def block(index: Expression) -> None:
            start = (first + index) * tir.int32(LANES)
            own = tir.bind(tirx.Max(start, frame.position))
            with T.serial(tirx.Min(start + tir.int32(LANES), end) - own) as step:
                self.row(preparation, own - frame.position + step, tir.bind(own + step))

        frame.each_own(blocks, block)

    def row(self, preparation: Preparation, row: Expression, position: Expression) -> None:
        """One token."""
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
