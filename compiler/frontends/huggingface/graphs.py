"""Models of Hugging Face folders as graphs: encoders, encoder-decoders, vision, audio, padded decoders.

The model is built on the meta device and exported whole, with sizes that may change by name; attention is one
operator wherever the model asks transformers' interface for it; initialisers read the mapped checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.passes.common import RemoveUnusedNodesPass

from intaglio.compiler.errors import UnsupportedModelError
from intaglio.compiler.frontends.call_signature import CallSignature
from intaglio.compiler.frontends.frontend import TraceOptions
from intaglio.compiler.frontends.huggingface.arrays import Array, Held
from intaglio.compiler.frontends.huggingface.checkpoint import Checkpoint
from intaglio.compiler.frontends.huggingface.config import FolderConfig, causal_class
from intaglio.compiler.frontends.huggingface.decoder_sizes import longest_sequence
from intaglio.compiler.frontends.huggingface.graph_attention import attention_translations, graph_attention
from intaglio.compiler.frontends.huggingface.graph_inputs import inputs_of
from intaglio.compiler.frontends.huggingface.graph_modules import Part, class_of, part_of
from intaglio.compiler.frontends.huggingface.meta_model import build_on_meta
from intaglio.compiler.frontends.huggingface.naming import attach_weights, forget_origins, name_nodes, shorten
from intaglio.compiler.frontends.huggingface.parameters import parameters_for
from intaglio.compiler.frontends.huggingface.scopes import module_path
from intaglio.compiler.frontends.huggingface.substitutes import substitute
from intaglio.compiler.frontends.huggingface.torch_operators import define_operators
from intaglio.compiler.frontends.huggingface.translations import translations
from intaglio.compiler.frontends.torch_module.capture import capture
from intaglio.compiler.frontends.torch_module.export import translate
from intaglio.compiler.frontends.torch_module.signature import name_ports
from intaglio.compiler.frontends.traced import Source, Tokenizer, Traced
from intaglio.compiler.ir.rules import ATTENTION_KEPT
from intaglio.passes.normalize.expected import Expected
from intaglio.passes.rewriting import is_op

LONGEST = 2048  # tokens up to which masks are examined where a config does not say


def trace_graph(
    folder: FolderConfig, checkpoint: Checkpoint, options: TraceOptions, tokenizer: Tokenizer | None
) -> Traced:
    """The model of a folder, called once with inputs by name; a decoder with `options.padding` takes a mask.

    Of a model that turns sound or images into text, the encoder is compiled; the source's name says so.
    Raises `ModelFileError` where checkpoint and config do not fit, and `UnsupportedModelError` that lists
    what of the model cannot be expressed.
    """
    decoder_class = causal_class(folder.config) if options.padding else None
    if options.padding and decoder_class is None:
        raise UnsupportedModelError(f"trace: {folder.folder} is no causal language model: leave out padding.")
    model_class = decoder_class or class_of(folder)
    define_operators()
    with graph_attention(longest_sequence(folder.config) or LONGEST) as attention:
        traced = _traced_somehow(model_class, folder.config, checkpoint, attention, options.padding)
    told = f" (its {traced.part.inside.rpartition('.')[2]})" if traced.part.inside else ""
    source = Source(f"{folder.folder.resolve()}{told}", checkpoint.bytes, folder.folder)
    return Traced(traced.model, None, tokenizer, source, traced.expected, traced.call)


@dataclass(frozen=True)
class _Graph:
    """An exported part of a model."""

    part: Part
    model: ir.Model
    call: CallSignature
    expected: Expected


def _traced_somehow(
    model_class: Any, config: Any, checkpoint: Checkpoint, attention: str, padded: bool
) -> _Graph:
    """With our attention if the class asks for one; some do not, or make nothing of our masks.

    Otherwise as the class spells it out, which the model's metadata say with the reason.
    """
    reason = f"{model_class.__name__} has attention of its own"
    if model_class._supports_sdpa or model_class._supports_attention_backend:
        try:
            return _traced(model_class, config, checkpoint, attention, padded)
        except UnsupportedModelError as error:
            reason = str(error)
    traced = _traced(model_class, config, checkpoint, "eager", padded)
    traced.model.metadata_props[ATTENTION_KEPT] = f"attention is traced as it is spelled out: {reason}"
    return traced


def _traced(model_class: Any, config: Any, checkpoint: Checkpoint, attention: str, padded: bool) -> _Graph:
    try:
        whole, arrays = _built(model_class, config, checkpoint, attention)
    except ValueError as error:  # how transformers refuses a way of attention
        raise UnsupportedModelError(
            f"trace: {model_class.__name__} cannot be built:", [str(error)]
        ) from error
    part = part_of(whole, padded)
    model, call = _exported(part)
    expected = _expected(model.graph, part.module)
    _finish(model, part, whole, arrays)
    return _Graph(part, model, call, expected)


def _built(
    model_class: Any, config: Any, checkpoint: Checkpoint, attention: str
) -> tuple[Any, dict[str, Array]]:
    """The model on the meta device, and its parameters and computed buffers by name."""
    meta = build_on_meta(model_class, config, attn_implementation=attention)
    arrays = parameters_for(meta.module, checkpoint)
    if _ties_differing(meta.module, arrays):
        config = type(config).from_dict({**config.to_dict(), "tie_word_embeddings": False})
        meta = build_on_meta(model_class, config, attn_implementation=attention)
    substitute(meta.module, arrays)
    return meta.module, {**arrays, **{name: Held(numbers) for name, numbers in meta.buffers.items()}}


def _ties_differing(module: torch.nn.Module, arrays: Mapping[str, Array]) -> bool:
    """Whether parameters that are one in the module differ in the checkpoint."""
    tied: dict[int, set[int]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        tied.setdefault(id(parameter), set()).add(id(arrays[name]))
    return any(len(found) > 1 for found in tied.values())


def _exported(part: Part) -> tuple[ir.Model, CallSignature]:
    """The graph and how it is called; its results are those that people ask the model for."""
    inputs = inputs_of(part.module)
    _without_cache(part.module)
    examples = {name: one.example() for name, one in inputs.items()}
    captured = capture(part.module, (), examples, {name: one.dynamic() for name, one in inputs.items()})
    model = translate(captured, part.module, _rules())
    call = name_ports(model, captured, part.module)
    result = _wanted(call.result)
    kept = [value for value in model.graph.outputs if value.name in result.values()]
    model.graph.outputs.clear()
    model.graph.outputs.extend(kept)
    RemoveUnusedNodesPass()(model)
    return model, replace(call, result=result)


def _without_cache(module: torch.nn.Module) -> None:
    """Let no part of `module` return a cache."""
    for one in module.modules():
        config: Any = getattr(one, "config", None)
        if getattr(config, "use_cache", False):
            config.use_cache = False


def _wanted(result: Any) -> dict[str, str]:
    """Logits where there are any, else all that the model itself returns; nothing of an encoder inside it."""
    named = {name: one for name, one in result.items() if isinstance(one, str)}
    logits = {name: one for name, one in named.items() if "logits" in name}
    return logits or {name: one for name, one in named.items() if not name.startswith("encoder_")}


def _rules() -> Mapping[Callable[..., Any], Callable[..., Any]]:
    # The rule of decoders for `split` counts on axes of known length.
    of_decoders = {
        rule: one for rule, one in translations().items() if rule is not torch.ops.aten.split.Tensor
    }
    return {**of_decoders, **attention_translations()}


def _expected(graph: ir.Graph, module: torch.nn.Module) -> Expected:
    """What normalisation must find."""
    modules = dict(module.named_modules())
    executed = {module_path(node) for node in graph} & modules.keys()
    kinds = [type(modules[path]).__name__ for path in executed]
    norms = sum("LayerNorm" in one or "RMSNorm" in one for one in kinds)
    return Expected(attentions=sum(is_op(node, "Attention") for node in graph), norms=norms)


def _finish(model: ir.Model, part: Part, whole: Any, arrays: Mapping[str, Array]) -> None:
    """Names and weights."""
    own = {name: array for full, array in arrays.items() if (name := part.name(full)) is not None}
    base = part.name(f"{whole.base_model_prefix}.")
    prefixes = [one.rstrip(".") for one in (base, part.around) if one]
    rename = shorten(tuple(prefixes))
    attach_weights(model.graph, own, rename)
    name_nodes(model.graph, rename)
    forget_origins(model.graph)
    empty = [name for name, value in model.graph.initializers.items() if value.const_value is None]
    assert not empty, f"constants without values: {empty}"
