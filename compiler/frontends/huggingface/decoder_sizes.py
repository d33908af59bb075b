"""What a config and a module tree say of a decoder: its sizes, and what normalisation will find in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx_ir as ir
import torch
from transformers.pytorch_utils import Conv1D

from intaglio.compiler.frontends.traced import DecoderArchitecture
from intaglio.passes.normalize.expected import Expected
from intaglio.passes.rewriting import is_op

GATES = ("silu", "swish", "gelu", "gelu_new", "gelu_pytorch_tanh")  # of which gated MLPs are canonical ops
_JOINED, _SEPARATE = "gate_up_proj", ("gate_proj", "up_proj")


def architecture_of(config: Any, module: torch.nn.Module, tied: bool) -> DecoderArchitecture:
    """The sizes; `module` has a head that tells the vocabulary."""
    heads = config.num_attention_heads
    hidden = config.hidden_size
    head: Any = module.get_output_embeddings()  # type: ignore[operator]
    return DecoderArchitecture(
        layers=config.num_hidden_layers,
        hidden=hidden,
        feed_forward=_first(config, "intermediate_size", "ffn_dim", "n_inner") or 4 * hidden,
        heads=heads,
        kv_heads=_first(config, "num_key_value_heads") or heads,
        head_dim=_first(config, "head_dim") or hidden // heads,
        vocabulary=head.weight.shape[0],
        context=longest_sequence(config),
        tied_embedding=tied,
        family=config.model_type,
    )


def longest_sequence(config: Any) -> int:
    """Tokens that the positions of the model are good for.

    Rotary embeddings of the types "dynamic" and "longrope" use other frequencies for longer sequences; they
    are compiled with those that they have up to the length of their pre-training.
    """
    longest = _first(config, "max_position_embeddings", "n_positions") or 0
    lengths = [longest]
    changing = (one for one in rotary_parameters(config) if one.get("rope_type") in ("dynamic", "longrope"))
    lengths += [int(one.get("original_max_position_embeddings") or longest) for one in changing]
    return min(lengths)


def rotary_parameters(config: Any) -> Iterator[dict[str, Any]]:
    """The parameters of each kind of rotary embedding."""
    parameters = getattr(config, "rope_parameters", None) or {}
    if any(isinstance(one, dict) for one in parameters.values()):
        yield from (one for one in parameters.values() if isinstance(one, dict))
    else:
        yield dict(parameters)


def expected_of(graph: ir.Graph, module: torch.nn.Module, executed: set[str]) -> Expected:
    """What normalisation must find; `executed` are the paths of modules that made nodes."""
    attentions = [node for node in graph if is_op(node, "Attention")]
    turned = sum(_is_turned(node.inputs[place]) for node in attentions for place in (0, 1))
    modules = dict(module.named_modules())
    norms = sum("Norm" in type(modules[path]).__name__ for path in executed if path in modules)
    gated = sum(_is_gated(one) for one in modules.values()) if _has_known_gate(module) else 0
    return Expected(len(attentions), turned, norms, gated)


def _is_turned(value: ir.Value | None) -> bool:
    """Whether a query or key depends on a cosine nearer than on any linear layer."""
    pending, seen = [value], set()
    while pending:
        node = one.producer() if (one := pending.pop()) is not None else None
        if node is None or node in seen or is_op(node, "MatMul"):
            continue
        if is_op(node, "Cos"):
            return True
        seen.add(node)
        pending += node.inputs
    return False


def _has_known_gate(module: Any) -> bool:
    names = (getattr(module.config, name, None) for name in ("hidden_act", "hidden_activation"))
    return next((name for name in names if name), GATES[0]) in GATES


def _is_gated(module: torch.nn.Module) -> bool:
    children = dict(module.named_children())
    names = set(children)
    linear = [one for name, one in children.items() if name in (_JOINED, *_SEPARATE)]
    if not linear or not all(isinstance(one, torch.nn.Linear | Conv1D) for one in linear):
        return False
    return _JOINED in names or names.issuperset(_SEPARATE)


def _first(config: Any, *names: str) -> int | None:
    return next((value for name in names if (value := getattr(config, name, None))), None)
