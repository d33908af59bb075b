"""The front end for GGUF files: decoders of the architectures in `families`."""

from __future__ import annotations

from pathlib import Path

from intaglio.compiler.errors import UnsupportedModelError
from intaglio.compiler.frontends.frontend import TraceOptions
from intaglio.compiler.frontends.gguf.decoder import build_decoder
from intaglio.compiler.frontends.gguf.families import FAMILIES, Family
from intaglio.compiler.frontends.gguf.layout import Layout, read_layout
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
        layout = read_layout(file, _family(file))
        graph = build_decoder(file, layout)
        tokenizer = build_tokenizer(file.metadata)
        source = Source(str(model.resolve()), len(file.data), model)
        return Traced(graph, layout.architecture, tokenizer, source, _expected(layout))


def _family(file: GgufFile) -> Family:
    architecture = file.metadata.get("general.architecture")
    family = FAMILIES.get(architecture) if isinstance(architecture, str) else None
    if family is None:
        raise UnsupportedModelError(
            f"gguf: {file.path} holds the architecture {architecture!r}; compiled are {', '.join(FAMILIES)}."
        )
    return family


def _expected(layout: Layout) -> Expected:
    family, layers = layout.family, layout.architecture.layers
    norms = 2 + 2 * family.outer_norms + 2 * family.head_norms
    return Expected(attentions=layers, rotary_embeddings=2 * layers, norms=norms * layers + 1, gated=layers)
