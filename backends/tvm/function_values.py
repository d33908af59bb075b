"""Looking from a function's body at what its call gives it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import onnx_ir as ir

from intaglio.compiler.ir import DequantizedWeight, constant_of, is_dequantized_weight, producer_of


class Unreadable(Exception):
    """Why a call cannot be lowered."""


@dataclass(frozen=True)
class Body:
    """A call's function, and a way out of it: its inputs → what the call gives."""

    call: ir.Node
    function: ir.Function
    outer: Mapping[ir.Value, ir.Value | None]

    @staticmethod
    def of(call: ir.Node, function: ir.Function) -> Body:
        """The body that `call` runs."""
        return Body(call, function, dict(zip(function.inputs, call.inputs, strict=True)))

    @property
    def site(self) -> str:
        """The site that the call stands for."""
        return self.call.metadata_props.get("intaglio.site", self.call.name or self.call.op_type)

    def only(self, op_type: str) -> ir.Node:
        """The one standard op of this type."""
        found = [node for node in self.function if node.op_type == op_type and not node.domain]
        if len(found) != 1:
            raise Unreadable(f"it has {len(found)} {op_type} nodes where the kernels know one")
        return found[0]

    def fed(self, value: ir.Value | None) -> ir.Value:
        """What the call gives for `value`."""
        found = None if value is None else self.outer.get(value)
        if found is None:
            name = value.name if value is not None else "an input"
            raise Unreadable(f"{name} is computed in a way that the kernels do not know")
        return found

    def stored(self, value: ir.Value | None) -> ir.Value:
        """The stored tensor behind `value`, widened by a `Cast` or not."""
        cast = producer_of(value, "Cast")
        found = self.fed(value if cast is None else cast.inputs[0])
        if constant_of(found) is None:
            raise Unreadable(f"{found.name} is not a stored weight")
        return found

    def constant(self, value: ir.Value | None) -> ir.TensorProtocol | None:
        """The constant behind `value`, of the body or of the call; `None` for anything computed."""
        if value is None:
            return None
        inner = constant_of(value)
        return inner if inner is not None else constant_of(self.outer.get(value))

    def integers(self, value: ir.Value | None) -> list[int] | None:
        """The numbers of an integer constant."""
        tensor = self.constant(value)
        return None if tensor is None else [int(one) for one in tensor.numpy().reshape(-1)]

    def number(self, value: ir.Value | None) -> float | None:
        """The number of a constant with one element."""
        tensor = self.constant(value)
        return float(tensor.numpy().reshape(-1)[0]) if tensor is not None and tensor.size == 1 else None

    def weight(self, value: ir.Value | None) -> DequantizedWeight:
        """The stored matrix behind `value`, its parts being those of the call."""
        inner = is_dequantized_weight(value, inputs=True)
        if inner is None:
            raise Unreadable("its weight is stored in a way that the kernels do not know")

        def part(one: ir.Value | None) -> ir.Value | None:
            return None if one is None else self.stored(one)

        return replace(
            inner,
            codes=self.stored(inner.codes),
            scale=part(inner.scale),
            zero_point=part(inner.zero_point),
            minimum=part(inner.minimum),
        )
