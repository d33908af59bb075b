"""Each invariant fires on a graph that breaks it, and all are listed at once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from intaglio.compiler.errors import InvariantError
from intaglio.compiler.ir import (
    DOMAIN,
    GRAPH_INVARIANTS,
    INVARIANTS,
    OPSET_KEPT,
    GraphBuilder,
    check,
    dequantize_affine,
    swiglu,
)

FLOAT = ir.DataType.FLOAT


def sound() -> ir.Model:
    builder = GraphBuilder()
    x = builder.input("x", FLOAT, ["batch", 64])
    codes = builder.initializer("codes", np.zeros((5, 64), np.uint8))
    blocks = [builder.initializer(name, np.ones((5, 2), np.float16)) for name in ("scale", "minimum")]
    weight = builder.node("DequantizeAffine", [codes, *blocks], {"block_size": 32}, domain=DOMAIN, name="w")
    turned = builder.node("Transpose", [weight], {"perm": [1, 0]}, name="turned")
    y = builder.node("MatMul", [x, turned], name="y")
    builder.output(builder.node("SwiGLU", [y, y], domain=DOMAIN, name="gated"))
    return builder.model([dequantize_affine(), swiglu()])


def node(model: ir.Model, name: str) -> ir.Node:
    return next(one for one in model.graph if one.name == name)


def old_opset(model: ir.Model) -> None:
    model.opset_imports[""] = 24


def used_before_defined(model: ir.Model) -> None:
    last = node(model, "gated")
    model.graph.remove(last)
    model.graph.insert_before(node(model, "y"), last)


def foreign_value(model: ir.Model) -> None:
    node(model, "y").replace_input_with(0, ir.Value(name="stray"))


def unproduced_output(model: ir.Model) -> None:
    model.graph.outputs.append(ir.Value(name="nowhere"))


def dead_node(model: ir.Model) -> None:
    model.graph.append(ir.Node("", "Abs", [model.graph.inputs[0]], name="dead"))


def hollow_initializer(model: ir.Model) -> None:
    model.graph.initializers["scale"].const_value = None


def mislabelled_initializer(model: ir.Model) -> None:
    model.graph.initializers["codes"].shape = ir.Shape([5, 32])


def initializer_in_function(model: ir.Model) -> None:
    value = ir.Value(name="hidden", const_value=ir.tensor([1.0], name="hidden"))
    model.functions[(DOMAIN, "SwiGLU", "")].graph.register_initializer(value)


def repeated_value_name(model: ir.Model) -> None:
    node(model, "turned").outputs[0].name = "w"


def repeated_node_name(model: ir.Model) -> None:
    node(model, "turned").name = "w"


def undefined_overload(model: ir.Model) -> None:
    node(model, "gated").overload = "beef"


def undefined_function(model: ir.Model) -> None:
    del model.functions[(DOMAIN, "SwiGLU", "")]


def domain_not_imported(model: ir.Model) -> None:
    del model.opset_imports[DOMAIN]


def missing_argument(model: ir.Model) -> None:
    node(model, "gated").resize_inputs(1)


def missing_attribute(model: ir.Model) -> None:
    del node(model, "w").attributes["block_size"]


def unknown_attribute(model: ir.Model) -> None:
    node(model, "gated").attributes["group"] = ir.AttrInt64("group", 32)


def subgraph(model: ir.Model) -> None:
    branch = ir.Graph([], [], nodes=[], name="branch")
    node(model, "y").attributes["body"] = ir.AttrGraph("body", branch)


def ragged_blocks(model: ir.Model) -> None:
    node(model, "w").attributes["block_size"] = ir.AttrInt64("block_size", 48)


def short_scale(model: ir.Model) -> None:
    scale = model.graph.initializers["scale"]
    scale.const_value, scale.shape = ir.tensor(np.ones((5, 1), np.float16)), ir.Shape([5, 1])


BREAKS = [
    (old_opset, "opset 25 or later: the model imports opset 24"),
    (used_before_defined, "SwiGLU 'gated' uses 'y', which is not defined before it"),
    (foreign_value, "MatMul 'y' uses 'stray'"),
    (unproduced_output, "nothing produces output 'nowhere'"),
    (dead_node, "nothing uses the outputs of Abs 'dead'"),
    (hollow_initializer, "initialiser 'scale' has no value"),
    (mislabelled_initializer, r"initialiser 'codes' is declared \[5,32\]"),
    (initializer_in_function, "function SwiGLU: initialiser 'hidden'"),
    (repeated_value_name, "2 values are named 'w'"),
    (repeated_node_name, "2 nodes are named 'w'"),
    (undefined_overload, "SwiGLU 'gated' calls an undefined function of overload 'beef'"),
    (undefined_function, "SwiGLU 'gated' calls an undefined function"),
    (domain_not_imported, "domain 'intaglio' of SwiGLU 'gated' is not imported"),
    (missing_argument, "SwiGLU 'gated' passes 1→1 values, the function has 2→1"),
    (missing_attribute, "DequantizeAffine 'w' lacks attribute 'block_size'"),
    (unknown_attribute, "SwiGLU 'gated' has attribute 'group'"),
    (subgraph, "MatMul 'y' holds a subgraph"),
    (ragged_blocks, "cuts 64 columns into blocks of 48"),
    (short_scale, r"needs blocks \[5, 2\], 'scale' is \[5, 1\]"),
]


def test_a_sound_model_passes() -> None:
    check(sound())


@pytest.mark.parametrize(("spoil", "message"), BREAKS, ids=[one.__name__ for one, _ in BREAKS])
def test_a_broken_model_is_named(spoil: Callable[[ir.Model], None], message: str) -> None:
    model = sound()
    spoil(model)
    with pytest.raises(InvariantError, match=message):
        check(model)


def test_every_broken_invariant_is_listed() -> None:
    model = sound()
    old_opset(model)
    dead_node(model)
    undefined_overload(model)
    with pytest.raises(InvariantError) as caught:
        check(model)
    assert all(part in str(caught.value) for part in ("3 broken", "opset 24", "'dead'", "'beef'"))


def test_every_invariant_has_a_test_that_breaks_it() -> None:
    broken = set()
    for spoil, _ in BREAKS:
        model = sound()
        spoil(model)
        broken |= {one.name for one in INVARIANTS if list(one.violations(model))}
    assert broken == {one.name for one in INVARIANTS}


def branching() -> ir.Model:
    """A graph of no decoder: `If` over values around it, a function of others, an op of onnxruntime's."""
    text = """
        <ir_version: 10, opset_import: ["": 25, "com.microsoft": 1, "local": 1]>
        test (float[n] x, bool c) => (y) {
            a = Abs(x)
            b = If (c) <
                then_branch = yes () => (p) { p = Add(a, x) },
                else_branch = no () => (q) { q = local.either(a) }
            >
            y = com.microsoft.QuickGelu(b)
        }
        <domain: "local", opset_import: ["": 25]> either <scale>(v, w) => (r) { r = Neg(v) }
    """
    model = ir.from_onnx_text(text)
    for index, one in enumerate(ir.traversal.RecursiveGraphIterator(model.graph)):
        one.name = f"{one.op_type}.{index}"
    for function in model.functions.values():
        function[0].name = "negative"
    return model


def inner(model: ir.Model) -> ir.Node:
    """The node of the branch that is taken."""
    (branch,) = [one for one in model.graph if one.op_type == "If"]
    return branch.attributes["then_branch"].as_graph()[0]


def inner_foreign_value(model: ir.Model) -> None:
    inner(model).replace_input_with(0, ir.Value(name="stray"))


def inner_value_from_later(model: ir.Model) -> None:
    inner(model).replace_input_with(0, model.graph.outputs[0])


def inner_output_from_outside(model: ir.Model) -> None:
    graph = inner(model).graph
    assert isinstance(graph, ir.Graph)
    graph.outputs[0] = model.graph[0].outputs[0]


def unknown_operator(model: ir.Model) -> None:
    model.graph[-1].op_type = "QuickGulp"


def runtime_domain_not_imported(model: ir.Model) -> None:
    del model.opset_imports["com.microsoft"]


def opset_of_a_graph(model: ir.Model) -> None:
    model.opset_imports[""] = 17


def our_function_misused(model: ir.Model) -> None:
    model.functions[(DOMAIN, "SwiGLU", "")] = swiglu()
    model.opset_imports[DOMAIN] = 1
    model.graph[-1].domain, model.graph[-1].op_type = DOMAIN, "SwiGLU"


GRAPH_BREAKS = [
    (inner_foreign_value, r"graph / If 'If.1': Add 'Add.2' uses 'stray'"),
    (inner_value_from_later, r"graph / If 'If.1': Add 'Add.2' uses 'y', which is not defined before it"),
    (inner_output_from_outside, "graph / If 'If.1': nothing produces output 'a'"),
    (unknown_operator, "calls com.microsoft.QuickGulp, which neither the model nor onnxruntime defines"),
    (runtime_domain_not_imported, "domain 'com.microsoft' of QuickGelu 'QuickGelu.4' is not imported"),
    (opset_of_a_graph, "the model imports opset 17"),
    (our_function_misused, "passes 1→1 values, the function has 2→1"),
]


def test_graphs_may_branch_and_call_onnxruntime() -> None:
    model = branching()
    check(model, decoder=False)
    with pytest.raises(InvariantError) as caught:
        check(model)
    parts = ("holds a subgraph", "QuickGelu.4' calls an undefined function", "lacks attribute 'scale'")
    assert all(part in str(caught.value) for part in parts)


def test_a_graph_may_keep_its_opset_with_a_reason() -> None:
    model = branching()
    model.opset_imports[""] = 17
    model.metadata_props[OPSET_KEPT] = "RoiAlign 'r' of opset 17: onnxruntime has no kernel"
    check(model, decoder=False)


@pytest.mark.parametrize(("spoil", "message"), GRAPH_BREAKS, ids=[one.__name__ for one, _ in GRAPH_BREAKS])
def test_a_broken_graph_is_named(spoil: Callable[[ir.Model], None], message: str) -> None:
    model = branching()
    spoil(model)
    with pytest.raises(InvariantError, match=message):
        check(model, decoder=False)


def test_every_invariant_of_graphs_has_a_test_that_breaks_it() -> None:
    spoilt = [(branching, spoil) for spoil, _ in GRAPH_BREAKS] + [(sound, spoil) for spoil, _ in BREAKS]
    broken = set()
    for build, spoil in spoilt:
        model = build()
        spoil(model)
        broken |= {one.name for one in GRAPH_INVARIANTS if list(one.violations(model))}
    assert broken == {one.name for one in GRAPH_INVARIANTS}
