"""What the index arithmetic of a decoder computes: found out by computing it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from intaglio.compiler.ir.extract import extract

PROBES = ((3, 0), (1, 7), (4, 11))  # (tokens of a call, tokens in the cache before it)


@dataclass
class Positions:
    """Values computed from `input_ids` and `position` alone, by what they are for every call."""

    graph: ir.Graph
    known: dict[ir.Value, int | None] = field(default_factory=dict)

    def are_tokens(self, value: ir.Value) -> bool:
        """Whether `value` is the tokens themselves."""
        return value.is_graph_input() and value.name == "input_ids"

    def offset_of(self, value: ir.Value) -> int | None:
        """`c` where `value` is `position + 0, 1, … + c` for the tokens of a call; else `None`."""
        if value not in self.known:
            self.known[value] = self._offset(value)
        return self.known[value]

    def is_length(self, value: ir.Value) -> bool:
        """Whether `value` is the number of tokens in the cache after a call."""
        for tokens, position in PROBES:
            found = self._computed(value, tokens, position)
            if found is None or found.tolist() != [position + tokens]:
                return False
        return True

    def is_position(self, value: ir.Value) -> bool:
        """Whether `value` is the number of tokens in the cache before a call."""
        return value.is_graph_input() and value.name == "position"

    def _offset(self, value: ir.Value) -> int | None:
        found = set()
        for tokens, position in PROBES:
            row = self._computed(value, tokens, position)
            if row is None or row.size != tokens:
                return None
            found |= set((row.reshape(-1) - np.arange(tokens) - position).tolist())
        return int(found.pop()) if len(found) == 1 else None

    def _computed(self, value: ir.Value, tokens: int, position: int) -> NDArray[np.int64] | None:
        inputs = {"input_ids": np.zeros((1, tokens), np.int64), "position": np.array([position])}
        given = [one for one in self.graph.inputs if one.name in inputs]
        if value.producer() is None:
            return inputs.get(str(value.name))
        model = extract(self.graph, given, [value])
        if model is None:
            return None
        session = ReferenceEvaluator(ir.to_proto(model))
        fed = {str(one.name): inputs[str(one.name)] for one in model.graph.inputs}
        return np.asarray(next(iter(session.run(None, fed))), np.int64)
