"""Times a compiled model and the rivals in turns; prints JSON, and a table on standard error.

    python benchmarks/compare.py DIR --python PEERS/bin/python --prefill 512 --decode 128 --threads 2

Each round runs every contestant once, each in its own process, the order turned by one from round to round,
so that a slow minute of the machine falls on all. A ratio is the median of the rounds' own ratios.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from peers import PeerError, add_options, default_gguf, prepare, run_rival

OURS = "intaglio"
FIGURES = ("prefill", "decode_after_32", "decode_after_prefill")
ROUNDS_INSIDE = 3  # of one contestant's process

Rates = dict[str, float]  # figure → tokens per second


def run_ours(options: argparse.Namespace) -> Rates:
    """The tokens per second that `intaglio bench` reports."""
    command = [str(Path(sys.executable).parent / "intaglio"), "bench", str(options.directory), "--json"]
    for name in ("prefill", "decode", "threads"):
        command += [f"--{name}", str(getattr(options, name))]
    command += ["--rounds", str(ROUNDS_INSIDE)]
    done = subprocess.run(command, text=True, capture_output=True, check=False)
    if done.returncode:
        raise PeerError(f"intaglio bench: exit status {done.returncode}\n{done.stderr[-2000:]}")
    report = json.loads(done.stdout)
    reported = ("prefill", "decode", "decode_after_prefill")
    return {
        figure: report[f"{name}_tokens_per_second"] for figure, name in zip(FIGURES, reported, strict=True)
    }


def run_theirs(options: argparse.Namespace, rival: str, forms: dict[str, str]) -> Rates:
    sizes = {name: getattr(options, name) for name in ("prefill", "decode", "threads")}
    answer = run_rival(options.python, rival, forms, **sizes, rounds=ROUNDS_INSIDE)
    decoded = answer["decode_tokens_per_second"]
    return {"prefill": answer["prefill_tokens_per_second"]["median"]} | {
        name: decoded[name]["median"] for name in FIGURES[1:]
    }


def play(contestants: Mapping[str, Callable[[], Rates]], rounds: int) -> dict[str, list[Rates]]:
    """Every contestant's rates, round by round."""
    rates: dict[str, list[Rates]] = {name: [] for name in contestants}
    names = list(contestants)
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            rates[name].append(contestants[name]())
            print(f"round {turn + 1}/{rounds} {name}", file=sys.stderr)
    return rates


def summarise(ours: list[Rates], theirs: list[Rates]) -> dict[str, Any]:
    """Per figure: median, min and max of the rounds, and how many times faster we are."""
    return {figure: summarise_figure(ours, theirs, figure) for figure in FIGURES}


def summarise_figure(ours: list[Rates], theirs: list[Rates], figure: str) -> dict[str, float]:
    rates = [rate[figure] for rate in theirs]
    ratios = [mine[figure] / rate for mine, rate in zip(ours, rates, strict=True)]
    spread = {"median": statistics.median(rates), "min": min(rates), "max": max(rates)}
    return {**spread, "ratio": statistics.median(ratios)}


def table(summary: dict[str, Any]) -> str:
    """Markdown: tokens per second, with our speed over theirs in brackets."""
    lines = ["| | prefill | decode after 32 | decode after the prefill |", "|---|---|---|---|"]
    for name, figures in summary.items():
        cells = (f"{figures[f]['median']:.0f} ({figures[f]['ratio']:.2f} ×)" for f in FIGURES)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path, help="a compiled model")
    add_options(parser, rounds=5)
    options = parser.parse_args()
    try:
        forms = prepare(options.python, options.gguf or default_gguf(), options.cache)
        contestants: dict[str, Callable[[], Rates]] = {OURS: partial(run_ours, options)}
        for rival in options.rivals:
            contestants[rival] = partial(run_theirs, options, rival, forms)
        rates = play(contestants, options.rounds)
    except PeerError as error:
        print(error, file=sys.stderr)
        return 1
    summary = {name: summarise(rates[OURS], of_one) for name, of_one in rates.items()}
    print(table(summary), file=sys.stderr)
    print(json.dumps({"summary": summary, "rounds": rates}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
