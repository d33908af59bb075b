"""The front end for GGUF files of the llama architecture."""

from __future__ import annotations

from pathlib import Path

from intaglio.compiler.errors import UnsupportedModelError
from intaglio.compiler.frontends.gguf.llama import build_llama
from intaglio.compiler.frontends.gguf.llama_layout import ARCHITECTURE, read_layout
from intaglio.compiler.frontends.gguf.reader import MAGIC, GgufFile, open_gguf
from intaglio.compiler.frontends.gguf.tokenizer import build_tokenizer
from intaglio.compiler.frontends.traced import Traced


class GgufFrontend:
    """Reads `.gguf` files, and files that start like one whatever their name."""

    name = "GGUF"
    accepts = "a .gguf file"

    def claims(self, path: Path) -> bool:
        """Whether `path` is a file that calls itself GGUF, by its name or by its first bytes."""
        if not path.is_file():
            return False
        if path.suffix.lower() == ".gguf":
            return True
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC

    def trace(self, path: Path) -> Traced:
        """The model in `path`. Raises `ModelFileError` and `UnsupportedModelError`."""
        file = open_gguf(path)
        _check_architecture(file)
        layout = read_layout(file)
        model = build_llama(file, layout)
        tokenizer = build_tokenizer(file.metadata)
        return Traced(model, layout.architecture, tokenizer, path, len(file.data))


def _check_architecture(file: GgufFile) -> None:
    architecture = file.metadata.get("general.architecture")
    if architecture != ARCHITECTURE:
        raise UnsupportedModelError(
            f"gguf: {file.path} holds the architecture {architecture!r}; compiled is {ARCHITECTURE!r}."
        )
