"""The front end for folders with a `config.json` and safetensors."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from intaglio.compiler.errors import ModelError, ModelFileError, OptionError, UnsupportedModelError
from intaglio.compiler.frontends.frontend import TraceOptions
from intaglio.compiler.frontends.traced import Traced

MARKS = ("config.json", "model.safetensors", "model.safetensors.index.json")


class HuggingfaceFrontend:
    """Reads folders as `save_pretrained` of transformers writes them."""

    name = "Hugging Face"
    accepts = "a folder with a config.json and safetensors"
    options = frozenset({"padding", "example_inputs"})  # the latter for what comes after tracing

    def claims(self, model: object) -> bool:
        """Whether `model` is a folder that holds a config or weights under their usual names."""
        return isinstance(model, Path) and any((model / mark).is_file() for mark in MARKS)

    def trace(self, model: Path, options: TraceOptions) -> Traced:
        """The model in the folder: a decoder, or with `padding`, and of any other kind, a graph.

        Raises `ModelFileError` or `UnsupportedModelError` that lists what is wrong with config, weights and
        tokenizer at once, `OptionError` where transformers is not installed.
        """
        _require_transformers()
        # transformers takes seconds to import
        from intaglio.compiler.frontends.huggingface.checkpoint import Checkpoint
        from intaglio.compiler.frontends.huggingface.config import causal_class, read_config
        from intaglio.compiler.frontends.huggingface.decoder_trace import trace_decoder
        from intaglio.compiler.frontends.huggingface.graphs import trace_graph
        from intaglio.compiler.frontends.huggingface.tokenizer import load_tokenizer

        folder, checkpoint, tokenizer = _all(model, (read_config, Checkpoint.open, load_tokenizer))
        decoder_class = None if options.padding else causal_class(folder.config)
        if decoder_class is None:
            return trace_graph(folder, checkpoint, options, tokenizer)
        return trace_decoder(folder, decoder_class, checkpoint, tokenizer)


def _require_transformers() -> None:
    if importlib.util.find_spec("transformers") is None:
        raise OptionError(
            "huggingface: reading a folder needs transformers: install it, or intaglio with the extra `hf`."
        )


def _all(folder: Path, readers: tuple[Callable[[Path], Any], ...]) -> list[Any]:
    """What `readers` make of `folder`; their errors are raised as one."""
    results, errors = [], []
    for read in readers:
        try:
            results.append(read(folder))
        except ModelError as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        broken = any(isinstance(error, ModelFileError) for error in errors)
        message, told = f"huggingface: {folder} cannot be used:", [str(error) for error in errors]
        if broken:
            raise ModelFileError("\n  - ".join([message, *told]))
        raise UnsupportedModelError(message, told)
    return results
