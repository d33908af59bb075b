"""A compiled model: call it, generate with it, measure it, ask it, save it, export it."""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from intaglio.compiler.artifact import artifact_bytes, copy_artifact
from intaglio.compiler.errors import OptionError
from intaglio.compiler.folders import disk_errors
from intaglio.compiler.manifest import TOKENIZER, Manifest

if TYPE_CHECKING:
    from intaglio.backends.tvm import NativeSession, Program
    from intaglio.compiler.continuation import Generation, GenerationOptions
    from intaglio.compiler.evaluate import Evaluation
    from intaglio.compiler.explain import Explanation
    from intaglio.compiler.frontends.traced import Tokenizer
    from intaglio.compiler.generation import Prompt, TextStream
    from intaglio.compiler.progress import ProgressListener
    from intaglio.compiler.report import Report

DEFAULT_ROUNDS = 5

# Arguments of a call, or inputs by name.
Inputs = Sequence[Any] | Mapping[str, Any]


class CompiledModel(ABC):
    """What `intaglio.compile` and `intaglio.load` return: a language model that generates, or a graph.

    Both are called, measured, asked, saved and exported alike. What only language models can do raises
    `OptionError` on graphs.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        threads: int,
        holder: tempfile.TemporaryDirectory[str] | None = None,
    ) -> None:
        self.folder, self.manifest, self.threads, self._holder = folder, manifest, threads, holder
        with disk_errors("load", folder):
            self._tokenizer_json = (folder / TOKENIZER).read_text(encoding="utf-8")

    @cached_property
    def tokenizer(self) -> Tokenizer | None:
        """The model's tokenizer, if it brought one."""
        if self._tokenizer_json == "null":
            return None
        from intaglio.compiler.frontends.tokenizer import tokenizer_from_json

        return tokenizer_from_json(self._tokenizer_json)

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the compiled sites, in the order in which they run."""
        return tuple(dict.fromkeys(str(site["site"]) for site in self.manifest.sites))

    @property
    def artifact_bytes(self) -> int:
        """Size of all files of the artefact."""
        return artifact_bytes(self.folder)

    @abstractmethod
    def __call__(self, /, *arguments: Any, **keywords: Any) -> Any:
        """Of a language model: logits `[len(tokens), vocabulary]` after each of the token ids given.

        Of a graph: its results. Raises `OptionError` for arguments that do not fit.
        """

    @abstractmethod
    def bench(
        self,
        prefill: int | None = None,
        decode: int | None = None,
        rounds: int = DEFAULT_ROUNDS,
        *,
        inputs: Inputs | None = None,
    ) -> Any:
        """Measure speed: of a language model with lengths in tokens, of a graph on `inputs`."""

    @property
    @abstractmethod
    def report(self) -> Report:
        """The whole account: origin, sites with bytes, passes, times."""

    @abstractmethod
    def generate(
        self,
        prompt: Prompt,
        max_new_tokens: int | None = None,
        *,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        repetition_penalty: float = 1.0,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
        stream: Callable[[str], object] | None = None,
    ) -> Generation:
        """Continue a text; language models only."""

    @abstractmethod
    def stream(self, prompt: Prompt, options: GenerationOptions | None = None) -> TextStream:
        """Continue a text piece by piece; language models only."""

    @abstractmethod
    def evaluate(
        self,
        text: str | None = None,
        *,
        against: str | Path | None = None,
        tokens: int | None = None,
        progress: ProgressListener | None = None,
    ) -> Evaluation:
        """Compare predictions with the original's; language models only."""

    @property
    @abstractmethod
    def session(self) -> NativeSession:
        """The running decoder; language models only."""

    @property
    @abstractmethod
    def program(self) -> Program:
        """The decoder's stage tables; language models only."""

    def explain(self, name: str) -> Explanation:
        """What was done to the site or node `name`, or declined there. Raises `OptionError` for others."""
        from intaglio.compiler.explain import explain

        return explain(self.manifest, name)

    def save(self, path: str | Path) -> Path:
        """Write the artefact to the folder `path`, all at once, over an older one there; its absolute path.

        Raises `ArtifactError` where something else is at `path` or the disk is full; nothing changes then.
        """
        place = Path(path).absolute()
        copy_artifact(self.folder, place)
        return place

    def export(self, path: str | Path, format: str = "onnx", *, round_activations: bool = False) -> Path:
        """Write the graph, exact on the model's own grid, to the folder `path`; the path of `model.onnx`.

        `round_activations` keeps the nodes that round activations to int8, as the compiled model does. A
        decoder's graph is traced again from its source: raises `ArtifactError` where that is gone or has
        changed. A graph is made from the artefact alone.
        """
        if format != "onnx":
            raise OptionError(f"export: format {format!r} is unknown: use 'onnx'.")
        return self._export(Path(path).absolute(), round_activations)

    def close(self) -> None:
        """Stop its threads and remove temporary files; it cannot run any more."""
        self._close()
        if self._holder is not None:
            self._holder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def _export(self, path: Path, round_activations: bool) -> Path: ...

    @abstractmethod
    def _close(self) -> None: ...
