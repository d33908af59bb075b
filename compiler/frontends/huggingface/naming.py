"""Gives a traced graph its final form: names known from the checkpoint, and weights that read it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx_ir as ir

from intaglio.compiler.frontends.huggingface.arrays import Array, lazy_tensor
from intaglio.compiler.frontends.huggingface.scopes import module_path, operator_name
from intaglio.passes.rewriting import SITE, is_op, made_by

FLOAT = ir.DataType.FLOAT
Rename = Callable[[str], str]


def shorten(prefixes: tuple[str, ...]) -> Rename:
    """Names without the first of `prefixes` that they start with, each a module path such as "model"."""

    def rename(name: str) -> str:
        for prefix in prefixes:
            if name.startswith(f"{prefix}."):
                return name.removeprefix(f"{prefix}.")
        return name

    return rename


def attach_weights(graph: ir.Graph, arrays: Mapping[str, Array], rename: Rename) -> None:
    """Let the initialisers of `graph`, named as in `arrays`, read those, with a `Cast` unless of float32.

    Entries of `arrays` that are the same object are one initialiser, called after the first of them.
    """
    firsts: dict[int, str] = {}
    for name, array in arrays.items():
        firsts.setdefault(id(array), name)
    for name in [one for one in graph.initializers if one in arrays]:
        value = graph.initializers.pop(name)
        array = arrays[name]
        wanted = rename(firsts[id(array)])
        stored = graph.initializers.get(wanted) or _initializer(graph, array, wanted)
        _use(value, stored, graph)


def _initializer(graph: ir.Graph, array: Array, name: str) -> ir.Value:
    tensor = lazy_tensor(array, name)
    value = ir.Value(
        name=name, type=ir.TensorType(array.dtype), shape=ir.Shape(array.shape), const_value=tensor
    )
    graph.register_initializer(value)
    return value


def _use(traced: ir.Value, stored: ir.Value, graph: ir.Graph) -> None:
    """Put `stored` in the place of `traced`; each reader has its own `Cast`, so that rewrites stay local."""
    for use in list(traced.uses()):
        source = stored
        if stored.dtype != FLOAT and stored.dtype is not None and stored.dtype.is_floating_point():
            cast = ir.node("Cast", [stored], {"to": int(FLOAT)})
            cast.outputs[0].type, cast.outputs[0].shape = ir.TensorType(FLOAT), stored.shape
            graph.insert_before(use.node, cast)
            source = cast.outputs[0]
        use.node.replace_input_with(use.idx, source)


def name_nodes(graph: ir.Graph, rename: Rename) -> None:
    """Name nodes after their modules; linear layers and attentions are sites, called like their module."""
    taken = {value.name or "" for value in [*graph.inputs, *graph.initializers.values()]}
    taken |= {value.name or "" for value in graph.outputs}
    for node in graph:
        site = _site(node, rename)
        name = _unique(site or _label(node, rename), taken)
        if site is not None:
            node.metadata_props[SITE] = name
        node.name = name
        for index, value in enumerate(node.outputs):
            if not value.is_graph_output():
                value.name = name if index == 0 else _unique(f"{name}.{index}", taken)


def forget_origins(graph: ir.Graph) -> None:
    """Drop what the exporter noted at nodes: it is long, and names say it now."""
    for node in graph:
        site = node.metadata_props.get(SITE)
        node.metadata_props.clear()
        if site is not None:
            node.metadata_props[SITE] = site


def stored_weight(value: ir.Value | None) -> ir.Value | None:
    """The initialiser that `value` is, behind at most a `Transpose` and a `Cast`."""
    for op_type in ("Transpose", "Cast"):
        node = made_by(value, op_type)
        value = node.inputs[0] if node is not None else value
    return value if value is not None and value.is_initializer() else None


def _site(node: ir.Node, rename: Rename) -> str | None:
    if is_op(node, "Attention"):
        return f"{rename(module_path(node))}.attention"
    if not is_op(node, "MatMul") or (weight := stored_weight(node.inputs[1])) is None:
        return None
    return rename(module_path(node)) or (weight.name or "").removesuffix(".weight")


def _label(node: ir.Node, rename: Rename) -> str:
    weight = stored_weight(node.outputs[0]) if node.op_type in ("Cast", "Transpose") else None
    if weight is not None:
        return f"{weight.name}.{'float32' if node.op_type == 'Cast' else 'transposed'}"
    module = rename(module_path(node))
    return f"{module}.{operator_name(node)}" if module else operator_name(node)


def _unique(name: str, taken: set[str]) -> str:
    candidate, count = name, 1
    while candidate in taken:
        count += 1
        candidate = f"{name}.{count}"
    taken.add(candidate)
    return candidate
