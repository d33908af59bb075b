"""Masks of attention: which are causal, which are boolean, and what is left as an input of `Attention`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from intaglio.compiler.ir.builder import GraphBuilder
from intaglio.passes.normalize.attention_scores import NO_WEIGHT, Mask
from intaglio.passes.normalize.causal_masks import is_causal_constant, is_causal_triangle, is_computed_causal
from intaglio.passes.normalize.polynomials import operands, polynomial
from intaglio.passes.rewriting import constant, insert, is_op, made_by, scalar, sizes

BOOL = ir.DataType.BOOL
MOVING = ("Unsqueeze", "Squeeze", "Expand", "Reshape", "Transpose", "Slice", "Identity")
LARGEST = 1 << 26  # elements of a constant mask that is looked at
QUERIES = 2  # axis of a query [batch, heads, sequence, head_dim]


@dataclass(frozen=True)
class Masking:
    """What the masks of one attention amount to."""

    causal: bool
    mask: ir.Value | None  # broadcastable to [batch, heads, queries, keys]


@dataclass
class MaskWriter:
    """Rewrites masks ahead of `before`, for queries `[batch, heads, sequence, head_dim]`."""

    before: ir.Node
    query: ir.Value

    def masking(self, masks: Sequence[Mask]) -> Masking:
        """Causal ones as a flag, what is `True` or a very low number as booleans, the rest added."""
        causal, kept, added = False, list[ir.Value](), list[ir.Value]()
        for mask in [part for one in masks for part in _parts(one)]:
            if mask.kind == "added" and _is_causal_added(mask.value):
                causal = True
                continue
            boolean = self._boolean(mask)
            if boolean is None:
                added.append(mask.value)
                continue
            for part in _conjuncts(boolean):
                is_causal = _is_causal(part)
                causal = causal or is_causal
                kept += [] if is_causal else [part]
        return Masking(causal, self._combined(list(dict.fromkeys(kept)), added))

    def _boolean(self, mask: Mask) -> ir.Value | None:
        if mask.kind == "kept":
            return mask.value
        return self._not(mask.value) if mask.kind == "dropped" else self._kept_by(mask.value)

    def _kept_by(self, added: ir.Value) -> ir.Value | None:
        """Where an added mask keeps scores, if it is made of a boolean; integers are taken to be 0 and 1."""
        node = added.producer()
        if node is None or node.domain:
            return None
        if is_op(node, "Where"):
            taken, other = scalar(node.inputs[1]), scalar(node.inputs[2])
            return self._chosen(node.inputs[0], taken, other)
        if node.op_type in MOVING or (is_op(node, "Cast") and _is_float(node.inputs[0])):
            inner = self._kept_by(node.inputs[0]) if node.inputs[0] is not None else None
            return None if inner is None else self._moved(node, inner)
        return self._of_arithmetic(added)

    def _chosen(
        self, condition: ir.Value | None, taken: float | None, other: float | None
    ) -> ir.Value | None:
        if condition is None or taken is None or other is None:
            return None
        if taken == 0.0 and other <= NO_WEIGHT:
            return condition
        return self._not(condition) if other == 0.0 and taken <= NO_WEIGHT else None

    def _of_arithmetic(self, added: ir.Value) -> ir.Value | None:
        """`(1 - m) · low` keeps where `m` is, `m · low` where it is not."""
        for one in operands(added):
            cast = made_by(one, "Cast")
            source = cast.inputs[0] if cast is not None else None
            found = polynomial(added, [one])
            if source is None or found is None or _is_float(source):
                continue
            base, slope = found.get((0,), 0.0), found.get((1,), 0.0)
            if base <= NO_WEIGHT and slope == -base and len(found) == 2:
                return self._as_bool(source)
            if slope <= NO_WEIGHT and base == 0.0:
                return self._not(self._as_bool(source))
        return None

    def _moved(self, node: ir.Node, inner: ir.Value) -> ir.Value:
        if is_op(node, "Cast"):
            return inner
        copy = insert(self.before, node.op_type, [inner, *node.inputs[1:]])
        copy.attributes.update(node.attributes)
        return _typed(copy.outputs[0], sizes(node.outputs[0]))

    def _as_bool(self, value: ir.Value) -> ir.Value:
        if value.dtype == BOOL:
            return value
        node = insert(self.before, "Cast", [value], {"to": int(BOOL)})
        return _typed(node.outputs[0], sizes(value))

    def _not(self, value: ir.Value) -> ir.Value:
        inverse = made_by(value, "Not")
        if inverse is not None and inverse.inputs[0] is not None:
            return inverse.inputs[0]
        return _typed(insert(self.before, "Not", [value]).outputs[0], sizes(value))

    def _combined(self, kept: list[ir.Value], added: list[ir.Value]) -> ir.Value | None:
        mask = self._joined("And", kept)
        bias = self._joined("Add", added)
        if bias is None:
            return None if mask is None else self._for_all_queries(mask)
        if mask is not None:
            low = np.array(-np.inf, np.float32)
            fill = insert(self.before, "Constant", [], {"value": ir.tensor(low)}).outputs[0]
            chosen = insert(self.before, "Where", [mask, bias, self._like(fill, bias)]).outputs[0]
            chosen.type = bias.type
            bias = chosen
        return self._for_all_queries(bias)

    def _like(self, fill: ir.Value, bias: ir.Value) -> ir.Value:
        if bias.dtype in (None, ir.DataType.FLOAT):
            return fill
        return insert(self.before, "Cast", [fill], {"to": int(bias.dtype)}).outputs[0]

    def _joined(self, op_type: str, values: list[ir.Value]) -> ir.Value | None:
        joined = values[0] if values else None
        for one in values[1:]:
            node = insert(self.before, op_type, [joined, one])
            node.outputs[0].type = one.type
            joined = node.outputs[0]
        return joined

    def _for_all_queries(self, mask: ir.Value) -> ir.Value:
        """The mask with an axis of queries as long as they are: runtimes do not broadcast that one."""
        shape, queries = sizes(mask), sizes(self.query)
        axis = shape[-2] if shape is not None and len(shape) > 1 else None
        if axis is not None and queries is not None and axis == queries[QUERIES]:
            return mask
        graph = self.before.graph
        assert isinstance(graph, ir.Graph), "only nodes of a graph are rewritten"
        builder = GraphBuilder.extend(graph, before=self.before)
        size = builder.node("Shape", [self.query], {"start": QUERIES, "end": QUERIES + 1})
        target = builder.node("Concat", [size, builder.integers([1])], {"axis": 0})
        spread = builder.node("Expand", [mask, target])
        spread.type = mask.type
        return spread


def _parts(mask: Mask) -> Iterator[Mask]:
    """The terms of a mask that is a sum."""
    total = made_by(mask.value, "Add") if mask.kind == "added" else None
    if total is None or any(scalar(one) is not None for one in total.inputs):
        yield mask
        return
    for one in total.inputs:
        assert one is not None, "a required input of a standard op"
        yield from _parts(Mask(one, "added"))


def _conjuncts(value: ir.Value) -> Iterator[ir.Value]:
    """The terms of a boolean that is a conjunction, as long as all can stand for the whole."""
    both = made_by(value, "And")
    if both is None:
        yield value
        return
    for one in both.inputs:
        assert one is not None, "a required input of a standard op"
        known = constant(one, limit=1)
        if known is None or not known.all():
            yield from _conjuncts(one)


def _is_causal(value: ir.Value) -> bool:
    array = constant(value, limit=LARGEST)
    return is_causal_constant(array) if array is not None else is_computed_causal(value)


def _is_causal_added(value: ir.Value) -> bool:
    array = constant(value, limit=LARGEST)
    return is_causal_constant(array) if array is not None else is_causal_triangle(value)


def _is_float(value: ir.Value | None) -> bool:
    return value is not None and value.dtype is not None and value.dtype.is_floating_point()


def _typed(value: ir.Value, shape: list[int | str | None] | None) -> ir.Value:
    value.type, value.shape = ir.TensorType(BOOL), None if shape is None else ir.Shape(shape)
    return value
