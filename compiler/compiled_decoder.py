"""A compiled language model: it continues texts over a KV cache."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from intaglio.compiler.compiled_model import DEFAULT_ROUNDS, CompiledModel, Inputs
from intaglio.compiler.continuation import Generation, GenerationOptions
from intaglio.compiler.errors import OptionError
from intaglio.compiler.generation import Generator, Prompt, TextStream, prompt_tokens
from intaglio.compiler.manifest import Manifest
from intaglio.compiler.sampling import SamplingOptions
from intaglio.compiler.workload import Workload

if TYPE_CHECKING:
    from intaglio.backends.tvm import NativeSession, Program
    from intaglio.compiler.benchmark import Benchmark
    from intaglio.compiler.evaluate import Evaluation
    from intaglio.compiler.progress import ProgressListener
    from intaglio.compiler.report import Report


class CompiledDecoder(CompiledModel):
    """A causal language model. It holds one sequence, or the batch it was compiled for: use it from one
    thread."""

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        program: Program,
        session: NativeSession,
        threads: int,
        holder: tempfile.TemporaryDirectory[str] | None = None,
    ) -> None:
        super().__init__(folder, manifest, threads, holder)
        self._program, self._session = program, session
        self._uses = 0

    @property
    def program(self) -> Program:
        """The stage tables."""
        return self._program

    @property
    def session(self) -> NativeSession:
        """The running decoder; whoever asks for it ends the streams of others."""
        self._uses += 1
        return self._session

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
        options = _options(max_new_tokens, sampling, stop)
        pieces = self.stream(prompt, options)
        for piece in pieces:
            if stream is not None:
                stream(piece)
        return pieces.result

    def generate_many(
        self,
        prompts: Sequence[Prompt],
        max_new_tokens: int | None = None,
        *,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        repetition_penalty: float = 1.0,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
        stream: Callable[[int, str], object] | None = None,
    ) -> list[Generation]:
        """Continue several prompts together, each as `generate` would: more than the batch wait their turn.

        Every text has a sampler of its own, which begins with the same `seed`. `stream` is called with the
        number of a prompt and each piece of its text. Raises as `generate`, and `OptionError` where the model
        was compiled for single sequences.
        """
        from intaglio.compiler.batch_generation import BatchGenerator

        if isinstance(prompts, str):
            raise OptionError("generate_many: one text was given: give a list of prompts, or use generate.")
        sampling = SamplingOptions(temperature, top_k, top_p, repetition_penalty, seed)
        options = _options(max_new_tokens, sampling, stop)
        session = self.session.sequences
        tokens = [prompt_tokens(one, self.tokenizer, session.vocabulary) for one in prompts]
        return BatchGenerator(session, self.tokenizer).generate(tokens, options, stream)

    def stream(self, prompt: Prompt, options: GenerationOptions | None = None) -> TextStream:
        """An iterator over the pieces of the continuation, as they come; its `result` is the whole."""
        session = self.session
        mine = self._uses
        tokens = prompt_tokens(prompt, self.tokenizer, session.vocabulary)
        generator = Generator(session, self.tokenizer, lambda: self._uses == mine)
        return generator.stream(tokens, options or GenerationOptions())

    def bench(
        self,
        prefill: int | None = None,
        decode: int | None = None,
        rounds: int = DEFAULT_ROUNDS,
        *,
        inputs: Inputs | None = None,
    ) -> Benchmark:
        """Measure speed, and how near it comes to the ceilings; lengths left out: the workload's."""
        from intaglio.compiler.benchmark import BenchOptions, measure

        if inputs is not None:
            raise OptionError("bench: inputs has no effect on language models: give prefill and decode.")

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

    @property
    def report(self) -> Report:
        """The whole account: origin, sites with bytes and times (measured now), passes, times."""
        from intaglio.compiler.report_decoder import make_report

        return make_report(self.manifest, self.program, self.session, self.artifact_bytes)

    def _export(self, path: Path, round_activations: bool) -> Path:
        from intaglio.compiler.export import export_onnx

        return export_onnx(self.manifest, path, round_activations=round_activations)

    def _close(self) -> None:
        self._session.close()


def _options(
    max_new_tokens: int | None, sampling: SamplingOptions, stop: str | Sequence[str]
) -> GenerationOptions:
    return GenerationOptions(max_new_tokens, sampling, (stop,) if isinstance(stop, str) else tuple(stop))
