"""Rotary tables no longer than the cache."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from intaglio.compiler.errors import OptionError
from intaglio.passes.result import Applied, Declined, PassResult
from intaglio.passes.rewriting import is_op, site_of
from intaglio.passes.weights import tensor_of


@dataclass(frozen=True)
class CutRotaryTables:
    """`RotaryEmbedding(x, cos, sin, …)` → the same with the first `capacity` rows of both tables, lazily.

    Exceptions:
    1. A table has `capacity` rows already: it stays.
    2. A table is computed in the graph: declined.
    Raises `OptionError` where a table has fewer rows than `capacity`: positions beyond it have no angle.
    """

    capacity: int
    name: str = "cut_rotary_tables"

    def __call__(self, model: ir.Model) -> PassResult:
        """Cut every table once, however many layers share it."""
        applied, declined = [], []
        readers = {
            value: node
            for node in model.graph
            if is_op(node, "RotaryEmbedding")
            for value in node.inputs[1:3]
        }
        for value, node in readers.items():
            if value is None or value.const_value is None:
                reason = f"its table {value.name if value else ''} is computed in the graph"
                declined.append(Declined(self.name, site_of(node), reason))
            elif (rows := tensor_of(value).shape.numpy()[0]) != self.capacity:
                self._cut(value, rows)
                applied.append(Applied(self.name, value.name or "", f"{rows} → {self.capacity} rows"))
        return PassResult(model, tuple(applied), tuple(declined))

    def _cut(self, value: ir.Value, rows: int) -> None:
        whole, capacity = tensor_of(value), self.capacity
        if rows < capacity:
            raise OptionError(
                f"cut_rotary_tables: capacity {capacity} exceeds the {rows} positions of {value.name}; "
                f"ask for at most {rows}."
            )
        shape = ir.Shape([capacity, *whole.shape.numpy()[1:]])
        value.const_value = ir.LazyTensor(
            lambda: ir.Tensor(whole.numpy()[:capacity]), whole.dtype, shape, name=value.name
        )
        value.shape = shape
