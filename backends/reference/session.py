"""Interprets an IR model with torch: the oracle of every test, differentiable, in any float precision."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir
import torch
from onnx_ir.passes.common import InlinePass
from torch import Tensor

from intaglio.backends.reference.call import Call
from intaglio.backends.reference.inputs import Given, as_tensor, check_inputs
from intaglio.backends.reference.operators import OPERATORS
from intaglio.backends.reference.program import Program, prepare
from intaglio.backends.reference.support import require_support
from intaglio.backends.reference.tensors import to_torch
from intaglio.compiler.errors import ModelError, OptionError

Environment = dict[ir.Value, Tensor]
Attributes = Mapping[str, ir.Attr]


class ReferenceSession:
    """Runs `model` node by node; calls of model-local functions run their bodies.

    `dtype` stands for float32 throughout: in inputs, weights, casts and results. Nothing is changed in place
    or detached, so gradients flow from outputs to float inputs; to get those of weights, feed the weights
    to `run` by name. `Round` and the like have zero gradients. Stored weights are read when first used and
    freed after their last use; `keep_constants` keeps what depends on them alone (dequantised matrices)
    between runs: faster from the second run on, for the memory of the whole model in `dtype`.

    Raises `UnsupportedModelError`, which lists everything that cannot be run.
    """

    def __init__(
        self, model: ir.Model, *, dtype: torch.dtype = torch.float32, keep_constants: bool = False
    ) -> None:
        if not dtype.is_floating_point:
            raise OptionError(f"[reference] dtype {dtype} is not a float type; use torch.float32 or another")
        require_support(model)
        self._model = _inlined(model) if keep_constants else model
        self._dtype = dtype
        self._keeps = keep_constants
        self._program = prepare(self._model.graph, keep_constants=keep_constants)
        self._functions = {name: prepare(body) for name, body in self._model.functions.items()}
        self._kept: Environment = {}

    def run(self, inputs: Mapping[str, Given]) -> dict[str, Tensor]:
        """Outputs by name. `inputs` by name: all graph inputs, and any weights to be replaced in this run.

        Raises `OptionError` for missing, unknown or ill-shaped inputs, `ModelError` where a node fails.
        """
        environment = {**self._kept, **self._inputs(inputs)}
        outputs = self._run(self._program, environment, {})
        if self._keeps and not self._kept:
            self._kept = {value: environment[value] for value in self._program.kept}
        return {str(value.name): one for value, one in zip(self._program.outputs, outputs, strict=True)}

    def _inputs(self, inputs: Mapping[str, Given]) -> Environment:
        required = {str(value.name): value for value in self._program.inputs}
        # A weight that is kept cannot be replaced: what was computed from it would stay.
        weights = {} if self._keeps else dict(self._model.graph.initializers)
        check_inputs(inputs, required, weights)
        values = {**weights, **required}
        return {values[name]: as_tensor(values[name], one, self._dtype) for name, one in inputs.items()}

    def _run(self, program: Program, environment: Environment, attributes: Attributes) -> list[Tensor]:
        for step in program.steps:
            if step.constant and self._kept:
                continue
            inputs = tuple(None if one is None else self._fetch(environment, one) for one in step.node.inputs)
            results = self._compute(step.node, inputs, _bound(step.node, attributes))
            environment.update(zip(step.node.outputs, results, strict=False))
            for value in step.last_uses:
                environment.pop(value, None)
        return [self._fetch(environment, value) for value in program.outputs]

    def _fetch(self, environment: Environment, value: ir.Value) -> Tensor:
        if value not in environment:
            if value.const_value is None:
                raise ModelError(
                    f"[reference] {value.name!r} is used before anything gives it a value; sort the graph"
                )
            environment[value] = to_torch(value.const_value, self._dtype)
        return environment[value]

    def _compute(
        self, node: ir.Node, inputs: tuple[Tensor | None, ...], attributes: Attributes
    ) -> tuple[Tensor, ...]:
        if (program := self._functions.get(node.op_identifier())) is not None:
            return self._call(node, program, inputs, attributes)
        call = Call(node, inputs, attributes, self._dtype)
        try:
            result = OPERATORS[node.op_type].compute(call)
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            raise ModelError(_failure(node, inputs, error)) from error
        return result if isinstance(result, tuple) else (result,)

    def _call(
        self, node: ir.Node, program: Program, inputs: tuple[Tensor | None, ...], attributes: Attributes
    ) -> tuple[Tensor, ...]:
        function = self._model.functions[node.op_identifier()]
        defaults = {name: one for name, one in function.attributes.items() if one.value is not None}
        # Trailing inputs may be left out, like any input.
        given = zip(program.inputs, inputs, strict=False)
        environment = {value: one for value, one in given if one is not None}
        return tuple(self._run(program, environment, {**defaults, **attributes}))


def _inlined(model: ir.Model) -> ir.Model:
    copy = model.clone()
    InlinePass()(copy)
    return copy


def _bound(node: ir.Node, scope: Attributes) -> Attributes:
    """The node's attributes, with those of the surrounding function put in; absent ones stay absent."""
    bound = {}
    for name, attribute in node.attributes.items():
        found = scope.get(attribute.ref_attr_name or "") if attribute.is_ref() else attribute
        if found is not None:
            bound[name] = found
    return bound


def _failure(node: ir.Node, inputs: tuple[Tensor | None, ...], error: Exception) -> str:
    given = [None if one is None else f"{one.dtype}{list(one.shape)}" for one in inputs]
    return f"[reference] {node.op_type} {node.name!r} failed on {given}: {error}"
