"""A causal language model of a Hugging Face folder as a graph, layer by layer, without its weights in memory.

The model is built on the meta device; one layer of each kind is exported, with attention as one operator; the
graph is repeated for all layers; initialisers read the checkpoint's mapped files (docs/architecture.md).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch

from intaglio.compiler.errors import UnsupportedModelError
from intaglio.compiler.frontends.huggingface.arrays import Array, Held
from intaglio.compiler.frontends.huggingface.causal_attention import traced_attention
from intaglio.compiler.frontends.huggingface.checkpoint import Checkpoint
from intaglio.compiler.frontends.huggingface.config import FolderConfig
from intaglio.compiler.frontends.huggingface.decoder_sizes import (
    architecture_of,
    expected_of,
    longest_sequence,
)
from intaglio.compiler.frontends.huggingface.layer_stack import NotStackable, stack
from intaglio.compiler.frontends.huggingface.layers import (
    LayerIndexUsed,
    Layers,
    find_layers,
    only_representatives,
)
from intaglio.compiler.frontends.huggingface.meta_model import build_on_meta
from intaglio.compiler.frontends.huggingface.naming import (
    attach_weights,
    forget_origins,
    name_nodes,
    shorten,
)
from intaglio.compiler.frontends.huggingface.parameters import parameters_for
from intaglio.compiler.frontends.huggingface.scopes import module_path
from intaglio.compiler.frontends.huggingface.substitutes import substitute
from intaglio.compiler.frontends.huggingface.tidy import tidy
from intaglio.compiler.frontends.huggingface.translations import translations
from intaglio.compiler.frontends.huggingface.wrapper import EXAMPLE, SIZES, WRAPPED, Logits
from intaglio.compiler.frontends.torch_module.export import export_module
from intaglio.compiler.frontends.traced import Source, Tokenizer, Traced
from intaglio.passes.rewriting import is_op

RECURRENT = ("Conv", "ConvTranspose", "CumSum", "Scan", "Loop", "LSTM", "GRU", "RNN")  # mix tokens


def trace_decoder(
    folder: FolderConfig, model_class: Any, checkpoint: Checkpoint, tokenizer: Tokenizer | None
) -> Traced:
    """The decoder of a folder.

    Raises `ModelFileError` where checkpoint and config do not fit, `UnsupportedModelError` that lists what of
    the model cannot be expressed.
    """
    with traced_attention(longest_sequence(folder.config)) as attention:
        decoder = _Decoder.build(folder.config, model_class, checkpoint, attention)
        model = decoder.export()
    architecture = architecture_of(decoder.config, decoder.module, decoder.tied)
    _check_cacheable(model.graph, architecture.layers, model_class.__name__)
    expected = expected_of(model.graph, decoder.module, decoder.executed(model.graph))
    decoder.finish(model)
    source = Source(str(folder.folder.resolve()), checkpoint.bytes, folder.folder)
    return Traced(model, architecture, tokenizer, source, expected)


@dataclass(frozen=True)
class _Decoder:
    """A model on the meta device and the weights that belong to it."""

    config: Any
    module: Any
    arrays: Mapping[str, Array]  # parameters and computed buffers, by their names in `module`
    layers: Layers | None

    @staticmethod
    def build(config: Any, model_class: Any, checkpoint: Checkpoint, attention: str) -> _Decoder:
        meta = build_on_meta(model_class, config, attn_implementation=attention)
        arrays = parameters_for(meta.module, checkpoint)
        if _ties_differing(meta.module, arrays):
            config = type(config).from_dict({**config.to_dict(), "tie_word_embeddings": False})
            meta = build_on_meta(model_class, config, attn_implementation=attention)
        module: Any = meta.module
        substitute(module, arrays)
        _keep_frequencies(module)
        buffers = {name: Held(numbers) for name, numbers in meta.buffers.items()}
        layers = find_layers(module, module.config.num_hidden_layers)
        return _Decoder(module.config, module, {**arrays, **buffers}, layers)

    @property
    def tied(self) -> bool:
        """Whether the head is the embedding."""
        return self.module.get_output_embeddings().weight is self.module.get_input_embeddings().weight

    def export(self) -> ir.Model:
        """The graph of all layers, its initialisers named as in the module."""
        if self.layers is None:
            return self._exported(Layers("", ()))
        try:
            return self._exported(self.layers)
        except NotStackable:
            return self._exported(self.layers.all_different)
        except UnsupportedModelError as error:
            if isinstance(_root(error), LayerIndexUsed):
                return self._exported(self.layers.all_different)
            message = f"decoder: {type(self.module).__name__} cannot be traced:"
            raise UnsupportedModelError(message, error.problems) from error

    def _exported(self, layers: Layers) -> ir.Model:
        wrapper = Logits(self.module, takes_positions=_takes(self.module, "position_ids")).eval()
        tokens = torch.zeros(EXAMPLE, dtype=torch.int64, device="meta")
        with only_representatives(self.module, self.config, layers):
            model = export_module(wrapper, (tokens,), None, {"input_ids": SIZES}, translations())
        tidy(model, keep=f"{WRAPPED}.")
        if len(layers.representatives) < len(layers.kinds):
            stack(model, layers, f"{WRAPPED}.{layers.path}", self._weights(model.graph))
        return model

    def _weights(self, graph: ir.Graph) -> list[ir.Value]:
        """Parameters of the model, as opposed to constants and computed buffers."""
        names = {f"{WRAPPED}.{name}" for name, array in self.arrays.items() if not isinstance(array, Held)}
        return [value for name, value in graph.initializers.items() if name in names]

    def executed(self, graph: ir.Graph) -> set[str]:
        """Paths of the modules that made nodes."""
        return {module_path(node).removeprefix(f"{WRAPPED}.") for node in graph}

    def finish(self, model: ir.Model) -> None:
        """Names and weights."""
        arrays = {f"{WRAPPED}.{name}": array for name, array in self.arrays.items()}
        rename = shorten(self._prefixes)
        (logits,) = model.graph.outputs
        logits.name = "logits"
        attach_weights(model.graph, arrays, rename)
        name_nodes(model.graph, rename)
        forget_origins(model.graph)

    @property
    def _prefixes(self) -> tuple[str, ...]:
        """What is left out of names: where the layers are, the base model, the wrapper."""
        around = self.layers.path.rpartition(".")[0] if self.layers is not None else ""
        paths = dict.fromkeys([around, self.module.base_model_prefix, ""])
        return tuple(f"{WRAPPED}.{path}".rstrip(".") for path in paths)


def _check_cacheable(graph: ir.Graph, layers: int, name: str) -> None:
    """Refuse models that look at earlier tokens by other means than one attention per layer."""
    found = sum(is_op(node, "Attention") for node in graph)
    problems = [] if found == layers else [f"{found} attentions in {layers} layers"]
    others = sorted({node.op_type for node in graph if node.op_type in RECURRENT})
    problems += [f"{op_type} over the sequence, whose state no cache holds" for op_type in others]
    if problems:
        raise UnsupportedModelError(f"decoder: {name} cannot be given a cache of keys and values:", problems)


def _ties_differing(module: Any, arrays: Mapping[str, Array]) -> bool:
    """Whether head and embedding are tied in the module, and differ in the checkpoint."""
    tied: dict[int, set[int]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        tied.setdefault(id(parameter), set()).add(id(arrays[name]))
    return any(len(found) > 1 for found in tied.values())


def _keep_frequencies(module: torch.nn.Module) -> None:
    """Let rotary embeddings keep their frequencies, however long the sequence (see `longest_sequence`)."""
    for one in module.modules():
        kind = getattr(one, "rope_type", None)
        if isinstance(kind, str | dict):
            usual: Any = "default" if isinstance(kind, str) else dict.fromkeys(kind, "default")
            one.rope_type = usual


def _takes(module: torch.nn.Module, name: str) -> bool:
    return name in inspect.signature(module.forward).parameters


def _root(error: BaseException) -> BaseException:
    """What caused `error` in the end."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error
