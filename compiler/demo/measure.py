"""Runs one contestant in a process of its own: speed, memory, a greedy continuation, logits.

    python -m intaglio.compiler.demo.measure < request.json > figures.json

The logits of the evaluation windows go to the file that the request names, `[windows, length, vocabulary]`.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from intaglio.compiler.demo.contestants import Setting, scoring_session, timed_session
from intaglio.compiler.errors import CodegenError
from intaglio.compiler.session import DecoderSession

SHORT_PROMPT = 32  # tokens before the decoding


@dataclass(frozen=True)
class Request:
    """What to measure."""

    contestant: str
    gguf: str
    artifact: str
    capacity: int
    threads: int
    prefill: int
    decode: int
    rounds: int
    prompt: list[int]  # to continue greedily
    continuation: int  # tokens
    windows: list[list[int]]  # to score, all of one length
    logits: str  # where to

    @property
    def setting(self) -> Setting:
        """What the contestant is opened with."""
        return Setting(Path(self.gguf), Path(self.artifact), self.capacity, self.threads)


@dataclass(frozen=True)
class Figures:
    """What was measured."""

    prefill_tokens_per_second: float
    decode_tokens_per_second: float
    memory_bytes: int  # resident after the runs, beyond what the imports took
    open_seconds: float
    continuation: list[int]
    gaps: list[float]  # between the two largest logits, for each token of the continuation
    seconds: float  # of everything


def measure(request: Request) -> Figures:
    """Open the contestant and run it."""
    begin = time.perf_counter()
    import_all(request.contestant)
    before, start = psutil.Process().memory_info().rss, time.perf_counter()
    session = timed_session(request.contestant, request.setting)
    opened = time.perf_counter() - start
    speeds = [_speeds(session, request, index) for index in range(request.rounds + 1)][1:]
    memory = psutil.Process().memory_info().rss - before
    tokens, gaps = continue_greedily(session, request.prompt, request.continuation)
    scoring = scoring_session(request.contestant, request.setting, session)
    _write_logits(scoring, request)
    prefill, decode = (statistics.median(one[part] for one in speeds) for part in range(2))
    return Figures(prefill, decode, memory, opened, tokens, gaps, time.perf_counter() - begin)


def import_all(contestant: str) -> None:
    """Bring the runtime in before memory is looked at."""
    if contestant == "torch":
        import transformers.models.llama.modeling_llama  # noqa: F401
    elif contestant == "onnxruntime":
        import intaglio.backends.onnxruntime
        import intaglio.compiler.frontends
    else:
        import intaglio.backends.tvm  # noqa: F401


def continue_greedily(
    session: DecoderSession, prompt: Sequence[int], count: int
) -> tuple[list[int], list[float]]:
    """`count` likeliest tokens after `prompt`, and by how much each was ahead."""
    session.reset()
    logits, tokens, gaps = session.extend(prompt), list[int](), list[float]()
    for _ in range(count):
        second, first = np.partition(logits, -2)[-2:]
        tokens.append(int(logits.argmax()))
        gaps.append(float(first - second))
        logits = session.extend(tokens[-1:])
    return tokens, gaps


def run_apart(request: Request) -> Figures:
    """`measure` in a process of its own. Raises `CodegenError` with what it printed where it fails."""
    command = [sys.executable, "-P", "-m", "intaglio.compiler.demo.measure"]
    done = subprocess.run(
        command, input=json.dumps(asdict(request)), text=True, capture_output=True, check=False
    )
    if done.returncode:
        raise CodegenError(f"demo: {request.contestant} failed: {done.stderr.strip()[-2000:]}")
    return Figures(**json.loads(done.stdout))


def _speeds(session: DecoderSession, request: Request, index: int) -> tuple[float, float]:
    """Tokens per second: of a prompt of its own, and of decoding after 32 tokens."""
    prompt = np.random.default_rng(index).integers(session.vocabulary, size=request.prefill).tolist()
    session.reset()
    start = time.perf_counter()
    session.extend(prompt).argmax()
    prefill = time.perf_counter() - start
    session.reset()
    token = int(session.extend(prompt[-SHORT_PROMPT:]).argmax())
    start = time.perf_counter()
    for _ in range(request.decode):
        token = int(session.extend([token]).argmax())
    return request.prefill / prefill, request.decode / (time.perf_counter() - start)


def _write_logits(session: DecoderSession, request: Request) -> None:
    shape = (len(request.windows), len(request.windows[0]), session.vocabulary)
    kept = np.lib.format.open_memmap(request.logits, "w+", np.float32, shape)
    for index, window in enumerate(request.windows):
        session.reset()
        kept[index] = session.score(window)
    kept.flush()


def main() -> None:
    """Read a request, print the figures."""
    request = Request(**json.load(sys.stdin))
    # Libraries print what they like; standard output is for the figures.
    with contextlib.redirect_stdout(sys.stderr):
        figures: dict[str, Any] = asdict(measure(request))
    json.dump(figures, sys.stdout)


if __name__ == "__main__":
    main()
