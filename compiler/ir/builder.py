"""A thin, typed builder of ONNX graphs: values in, values out, names unique and readable.

>>> builder = GraphBuilder("main")
>>> x = builder.input("x", ir.DataType.FLOAT, ["batch", 4])
>>> weight = builder.initializer("layers.0.weight", np.ones((4, 2), np.float32))
>>> y = builder.node("MatMul", [x, weight], name="layers.0.projection")
>>> builder.output(y)
>>> model = builder.model()
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from intaglio.compiler.ir.functions import DOMAIN, DOMAIN_VERSION, OPSET

Attribute = int | float | str | Sequence[int] | Sequence[float] | ir.TensorProtocol | ir.Attr
Dimension = int | str | None

IR_VERSION = 13


class GraphBuilder:
    """Appends nodes to a graph: a new one, or an existing one (`extend`).

    `constants` says whether small constants become initialisers (shared by content) or `Constant` nodes,
    which function bodies need.
    """

    def __init__(
        self, name: str = "main", *, constants: Literal["initializer", "node"] = "initializer"
    ) -> None:
        self.graph = ir.Graph([], [], nodes=[], opset_imports={"": OPSET}, name=name)
        self._constants = constants
        self._before: ir.Node | None = None
        self._names: set[str] = set()

    @classmethod
    def extend(cls, graph: ir.Graph, *, before: ir.Node | None = None) -> GraphBuilder:
        """A builder that adds to `graph`: in front of `before`, or at its end."""
        builder = cls()
        builder.graph = graph
        builder._before = before
        builder._names = set(_names_in(graph))
        return builder

    def input(self, name: str, dtype: ir.DataType, shape: Iterable[Dimension]) -> ir.Value:
        """A new graph input; `shape` holds sizes or names of sizes."""
        value = self._value(name, dtype, shape)
        self.graph.inputs.append(value)
        return value

    def initializer(
        self, name: str, tensor: ir.TensorProtocol | NDArray[np.generic], dtype: ir.DataType | None = None
    ) -> ir.Value:
        """A new initialiser from any onnx_ir tensor (lazy, packed, external) or an array; no copy is made.

        `dtype` is for arrays whose element type numpy cannot name, such as uint16 bits of bfloat16.
        """
        if isinstance(tensor, np.ndarray):
            tensor = ir.Tensor(tensor, dtype)
        value = self._value(name, tensor.dtype, _dimensions(tensor.shape))
        tensor.name = value.name
        value.const_value = tensor
        self.graph.register_initializer(value)
        return value

    def integers(self, numbers: Sequence[int]) -> ir.Value:
        """An int64 constant `[len(numbers)]`: axes, a shape, split sizes."""
        return self.constant(np.array(numbers, np.int64))

    def integer(self, number: int) -> ir.Value:
        """An int64 scalar constant."""
        return self.constant(np.array(number, np.int64))

    def constant(self, array: NDArray[np.generic]) -> ir.Value:
        """A small constant; one of equal content is made only once per graph."""
        if self._constants == "node":
            return self.node("Constant", [], {"value": ir.tensor(array)})
        name = f"constant.{array.dtype}.{'x'.join(map(str, array.shape))}[{_content(array)}]"
        if (found := self.graph.initializers.get(name)) is not None:
            return found
        return self.initializer(name, array)

    def node(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Attribute] | None = None,
        *,
        domain: str = "",
        overload: str = "",
        name: str | None = None,
        dtype: ir.DataType | None = None,
        shape: Iterable[Dimension] | None = None,
    ) -> ir.Value:
        """Add a node of one output, and return that; `name` names both (default: the op and a number).

        `dtype` and `shape` describe the output where the caller knows them.
        """
        value = self._value(name or op_type, dtype, shape)
        self._add(op_type, inputs, attributes, domain, overload, [value], value.name)
        return value

    def nodes(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Attribute] | None = None,
        *,
        outputs: int | Sequence[str],
        domain: str = "",
        overload: str = "",
        name: str | None = None,
    ) -> tuple[ir.Value, ...]:
        """Add a node of several outputs: so many, or of these names."""
        stem = name or op_type
        names = [f"{stem}.{index}" for index in range(outputs)] if isinstance(outputs, int) else outputs
        values = [self._value(one, None, None) for one in names]
        self._add(op_type, inputs, attributes, domain, overload, values, self._unique(f"{stem}.node"))
        return tuple(values)

    def output(self, value: ir.Value, name: str | None = None) -> None:
        """Make `value` a graph output, renamed to `name` if given (which must be free)."""
        if name is not None and name != value.name:
            value.name = self._unique(name)
        self.graph.outputs.append(value)

    def model(self, functions: Sequence[ir.Function] = ()) -> ir.Model:
        """The graph as a model that holds `functions`."""
        for function in functions:
            self.graph.opset_imports.setdefault(function.domain, DOMAIN_VERSION)
        return ir.Model(self.graph, ir_version=IR_VERSION, producer_name=DOMAIN, functions=functions)

    def function(
        self, name: str, *, overload: str = "", integer_attributes: Sequence[str] = ()
    ) -> ir.Function:
        """The graph as the body of a function of domain `intaglio`; it must hold no initialisers."""
        assert not self.graph.initializers, "a function body holds no initialisers: constants='node'"
        attributes = [ir.Attr(one, ir.AttributeType.INT, None) for one in integer_attributes]
        return ir.Function(DOMAIN, name, overload, graph=self.graph, attributes=attributes)

    def _add(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Attribute] | None,
        domain: str,
        overload: str,
        outputs: Sequence[ir.Value],
        name: str | None,
    ) -> None:
        converted = ir.convenience.convert_attributes(dict(attributes or {}))
        node = ir.Node(domain, op_type, inputs, converted, overload=overload, outputs=outputs, name=name)
        if domain:
            self.graph.opset_imports.setdefault(domain, DOMAIN_VERSION)
        if self._before is None:
            self.graph.append(node)
        else:
            self.graph.insert_before(self._before, node)

    def _value(self, name: str, dtype: ir.DataType | None, shape: Iterable[Dimension] | None) -> ir.Value:
        kind = None if dtype is None else ir.TensorType(dtype)
        size = None if shape is None else ir.Shape(shape)
        return ir.Value(name=self._unique(name), type=kind, shape=size)

    def _unique(self, name: str) -> str:
        candidate, count = name, 1
        while candidate in self._names:
            count += 1
            candidate = f"{name}.{count}"
        self._names.add(candidate)
        return candidate


def _names_in(graph: ir.Graph) -> Iterable[str]:
    for value in [*graph.inputs, *graph.initializers.values()]:
        yield value.name or ""
    for node in graph:
        yield node.name or ""
        yield from (value.name or "" for value in node.outputs)


def _dimensions(shape: ir.ShapeProtocol) -> list[Dimension]:
    return [one if isinstance(one, int) else one.value for one in shape]


def _content(array: NDArray[np.generic]) -> str:
    return ",".join(map(str, array.reshape(-1).tolist()))
