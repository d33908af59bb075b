"""A compiled model: call it, generate with it, measure it, ask it, save it, export it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from intaglio.compiler.artifact import TOKENIZER, Manifest, artifact_bytes, copy_artifact
from intaglio.compiler.errors import OptionError
from intaglio.compiler.folders import disk_errors
from intaglio.compiler.generation import (
    Generation,
    GenerationOptions,
    Generator,
    Prompt,
    TextStream,
    prompt_tokens,
)
from intaglio.compiler.sampling import SamplingOptions
from intaglio.compiler.workload import Workload

if TYPE_CHECKING:
    from intaglio.backends.tvm import NativeSession, Program
    from intaglio.compiler.benchmark import Benchmark
    from intaglio.compiler.evaluate import Evaluation
    from intaglio.compiler.explain import Explanation
    from intaglio.compiler.frontends.traced import Tokenizer
    from intaglio.compiler.progress import ProgressListener
    from intaglio.compiler.report import Report


class CompiledModel:
    """What `intaglio.compile` and `intaglio.load` return. It holds one sequence: use it from one thread."""

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        program: Program,
        session: NativeSession,
        threads: int,
        holder: tempfile.TemporaryDirectory[str] | None = None,
    ) -> None:
        self.folder, self.manifest, self.program, self.threads = folder, manifest, program, threads
        self._session, self._holder = session, holder
        with disk_errors("load", folder):
            self._tokenizer_json = (folder / TOKENIZER).read_text(encoding="utf-8")
        self._uses = 0

    @cached_property
    def tokenizer(self) -> Tokenizer | None:
        """The model's tokenizer, if it brought one."""
        if self._tokenizer_json == "null":
            return None
        from intaglio.compiler.frontends.tokenizer import tokenizer_from_json

        return tokenizer_from_json(self._tokenizer_json)

    @property
    def session(self) -> NativeSession:
        """The running decoder; whoever asks for it ends the streams of others."""
        self._uses += 1
        return self._session

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the compiled sites, in the order in which they run."""
        return tuple(dict.fromkeys(str(site["site"]) for site in self.manifest.sites))

    @property
    def artifact_bytes(self) -> int:
        """Size of all files of the artefact."""
        return artifact_bytes(self.folder)

    def __call__(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Logits `[len(tokens), vocabulary]` after each token. Raises `OptionError`, `ContextLengthError`."""
        session = self.session
        checked = prompt_tokens(tokens, None, session.vocabulary)
        session.reset()
        logits: NDArray[np.float32] = session.score(checked)
        return logits

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
        """Continue `prompt`: a text, chat messages (`[{"role": "user", "content": …}]`), or token ids.

        `stream` is called with each piece of text. The other options are those of `SamplingOptions` and
        `GenerationOptions`. Raises `OptionError` for bad options, `ContextLengthError` for too long a prompt.
        """
        sampling = SamplingOptions(temperature, top_k, top_p, repetition_penalty, seed)
        options = GenerationOptions(
            max_new_tokens, sampling, (stop,) if isinstance(stop, str) else tuple(stop)
        )
        pieces = self.stream(prompt, options)
        for piece in pieces:
            if stream is not None:
                stream(piece)
        return pieces.result

    def stream(self, prompt: Prompt, options: GenerationOptions | None = None) -> TextStream:
        """An iterator over the pieces of the continuation, as they come; its `result` is the whole."""
        session = self.session
        mine = self._uses
        tokens = prompt_tokens(prompt, self.tokenizer, session.vocabulary)
        generator = Generator(session, self.tokenizer, lambda: self._uses == mine)
        return generator.stream(tokens, options or GenerationOptions())

    def bench(self, prefill: int | None = None, decode: int | None = None, rounds: int = 5) -> Benchmark:
        """Measure speed, and how near it comes to the ceilings; lengths left out: the workload's."""
        from intaglio.compiler.benchmark import BenchOptions, measure

        workload = Workload.from_json(self.manifest.workload)
        options = BenchOptions(
            workload.prefill if prefill is None else prefill,
            workload.decode if decode is None else decode,
            rounds,
        )
        return measure(self.session, self.program, self.manifest.architecture, self.threads, options)

    def evaluate(
        self,
        text: str | None = None,
        *,
        against: str | Path | None = None,
        tokens: int | None = None,
        progress: ProgressListener | None = None,
    ) -> Evaluation:
        """Compare with the dequantised original, run by the reference backend.

        Args:
            text: to predict; left out, the English in Python's `pydoc_data.topics`.
            against: the original model's file; left out, the one it was compiled from.
            tokens: at most so many of `text`; left out, all of it, or 4096 of the default text.
            progress: told of each window of text as it begins.

        Raises:
            OptionError: for too short a text; ArtifactError: where the original is not there any more.
        """
        from intaglio.compiler.evaluate import evaluate
        from intaglio.compiler.export import source_of

        path = source_of(self.manifest, "evaluate") if against is None else Path(against)
        return evaluate(self.session, self.tokenizer, path, text, tokens, progress)

    def explain(self, name: str) -> Explanation:
        """What was done to the site or node `name`, or declined there. Raises `OptionError` for others."""
        from intaglio.compiler.explain import explain

        return explain(self.manifest, name)

    @property
    def report(self) -> Report:
        """The whole account: origin, sites with bytes and times (measured now), passes, times."""
        from intaglio.compiler.report import make_report

        return make_report(self.manifest, self.program, self.session, self.artifact_bytes)

    def save(self, path: str | Path) -> Path:
        """Write the artefact to the folder `path`, all at once, over an older one there; its absolute path.

        Raises `ArtifactError` where something else is at `path` or the disk is full; nothing changes then.
        """
        place = Path(path).absolute()
        copy_artifact(self.folder, place)
        return place

    def export(self, path: str | Path, format: str = "onnx", *, round_activations: bool = False) -> Path:
        """Write the graph, exact on the model's own grid, to the folder `path`; the path of `model.onnx`.

        `round_activations` keeps the nodes that round activations to int8, as the compiled model does. The
        graph is traced again from the source file: raises `ArtifactError` where that is gone or has changed.
        """
        if format != "onnx":
            raise OptionError(f"export: format {format!r} is unknown: use 'onnx'.")
        from intaglio.compiler.export import export_onnx

        return export_onnx(self.manifest, Path(path).absolute(), round_activations=round_activations)

    def close(self) -> None:
        """Stop its threads and remove temporary files; it cannot run any more."""
        self._session.close()
        if self._holder is not None:
            self._holder.cleanup()

    def __enter__(self) -> CompiledModel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
