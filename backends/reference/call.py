"""One node being executed: what an operator's function sees of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor


@dataclass(frozen=True)
class Call:
    """A node's inputs and bound attributes; `working` is the type that stands for float32."""

    node: ir.Node
    inputs: tuple[Tensor | None, ...]
    attributes: Mapping[str, ir.Attr]
    working: torch.dtype

    def tensor(self, index: int) -> Tensor:
        """A required input."""
        value = self.optional(index)
        if value is None:
            raise ValueError(f"input {index} is missing")
        return value

    def optional(self, index: int) -> Tensor | None:
        """An optional input."""
        return self.inputs[index] if index < len(self.inputs) else None

    def numbers(self, index: int) -> list[int] | None:
        """The elements of an optional int64 input such as axes or a shape."""
        value = self.optional(index)
        return None if value is None else [int(one) for one in value.reshape(-1).tolist()]

    def integer(self, name: str, default: int) -> int:
        """An integer attribute."""
        attribute = self.attributes.get(name)
        return default if attribute is None else attribute.as_int()

    def real(self, name: str, default: float) -> float:
        """A float attribute: ONNX stores float32, onnx_ir does not round to it before it is saved."""
        attribute = self.attributes.get(name)
        return float(np.float32(default if attribute is None else attribute.as_float()))

    def word(self, name: str, default: str) -> str:
        """A string attribute."""
        attribute = self.attributes.get(name)
        return default if attribute is None else attribute.as_string()

    def declared_type(self, index: int) -> ir.DataType | None:
        """The element type the graph declares for an input: 4-bit codes run as 8-bit tensors."""
        value = self.node.inputs[index] if index < len(self.node.inputs) else None
        return None if value is None else value.dtype


Result = Tensor | tuple[Tensor, ...]


@dataclass(frozen=True)
class Operator:
    """How an op is computed, and which attributes that takes into account."""

    compute: Callable[[Call], Result]
    attributes: tuple[str, ...] = ()
