"""Initialisers over a module's own memory, each once."""

from __future__ import annotations

import onnx_ir as ir
import torch
from onnx_ir.passes.common import RemoveUnusedNodesPass

_VIEWS = {torch.bfloat16: torch.int16}  # types that numpy does not know, as which of its own


def share_weights(model: ir.Model, module: torch.nn.Module) -> None:
    """Drop unused initialisers and copies of tied weights; the rest become arrays over the module's memory.

    A tied weight has the first of its names in the module.
    """
    RemoveUnusedNodesPass()(model)
    first_names = _first_names(module)
    for name, value in tuple(model.graph.initializers.items()):
        value.const_value = _array(value.const_value)
        first = first_names.get(name, name)
        if first != name:
            _merge(model.graph, value, first)


def _first_names(module: torch.nn.Module) -> dict[str, str]:
    """For each parameter and buffer, the first name of the same tensor."""
    firsts: dict[int, str] = {}
    named = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    return {name: firsts.setdefault(id(tensor), name) for name, tensor in named}


def _merge(graph: ir.Graph, value: ir.Value, name: str) -> None:
    """Let the initialiser called `name` take the place of `value`."""
    del graph.initializers[value.name or ""]
    kept = graph.initializers.get(name)
    if kept is not None:
        value.replace_all_uses_with(kept, replace_graph_outputs=True)
        return
    value.name = name
    graph.initializers[name] = value  # `register_initializer` takes none without values


def _array(stored: ir.TensorProtocol | None) -> ir.TensorProtocol | None:
    """`stored` as an array over the same memory; nothing for a tensor without values."""
    raw = getattr(stored, "raw", None)
    if stored is None or not isinstance(raw, torch.Tensor):
        return stored
    if raw.is_meta:
        return None
    tensor = raw.detach().cpu()
    view = tensor.view(_VIEWS.get(tensor.dtype, tensor.dtype)).numpy()
    return ir.Tensor(view.view(stored.dtype.numpy()), stored.dtype, name=stored.name)
