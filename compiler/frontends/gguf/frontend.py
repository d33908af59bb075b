"""The front end for GGUF files of the llama architecture."""

from __future__ import annotations

from pathlib import Path

from intaglio.compiler.errors import UnsupportedModelError
from intaglio.compiler.frontends.frontend import TraceOptions
from intaglio.compiler.frontends.gguf.llama import build_llama
from intaglio.compiler.frontends.gguf.llama_layout import ARCHITECTURE, read_layout
from intaglio.compiler.frontends.gguf.reader import MAGIC, GgufFile, open_gguf
from intaglio.compiler.frontends.gguf.tokenizer import build_tokenizer
from intaglio.compiler.frontends.traced import Source, Traced
from intaglio.passes.normalize.expected import Expected


class GgufFrontend:
    """Reads `.gguf` files, and files that start like one whatever their name."""

    name = "GGUF"
    accepts = "a .gguf file"
    options: frozenset[str] = frozenset()

    def claims(self, model: object) -> bool:
        """Whether `model` is a file that calls itself GGUF, by its name or by its first bytes."""
        if not isinstance(model, Path) or not model.is_file():
            return False
        if model.suffix.lower() == ".gguf":
            return True
        with model.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC

    def trace(self, model: Path, options: TraceOptions) -> Traced:
        """The model in the file. Raises `ModelFileError` and `UnsupportedModelError`."""
        del options  # none has a meaning here
        file = open_gguf(model)
        _check_architecture(file)
        layout = read_layout(file)
        graph = build_llama(file, layout)
        tokenizer = build_tokenizer(file.metadata)
        layers = layout.architecture.layers
        expected = Expected(layers, 2 * layers, 2 * layers + 1, layers)
        source = Source(str(model.resolve()), len(file.data), model)
        return Traced(graph, layout.architecture, tokenizer, source, expected)


def _check_architecture(file: GgufFile) -> None:
    architecture = file.metadata.get("general.architecture")
    if architecture != ARCHITECTURE:
        raise UnsupportedModelError(
            f"gguf: {file.path} holds the architecture {architecture!r}; compiled is {ARCHITECTURE!r}."
        )
