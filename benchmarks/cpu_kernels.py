"""Where a decoder's time goes, kernel by kernel, and how far each is from its floor; prints Markdown.

    python benchmarks/cpu_kernels.py COMPILED --threads 1 --contexts 32,2048 --prompts 512

What runs between two barriers is timed as one: `QuantizeActivation, QuantizedMatrixVector` is a rounding and
the product after it. The same sites of all layers are added up; times are medians over `--rounds` steps, or
an eighth as many prompts.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cpu_llm import lengths
from llm_tables import CEILINGS
from ours import attention_operations
from paired import markdown

import intaglio

LAYER = re.compile(r"layers\.\d+\.")
PREPARING = {"RowProgram", "QuantizeActivation"}  # kernels that come before a product
Key = tuple[str, str]  # site without its layer's number, kernels


@dataclass(frozen=True)
class Work:
    """What a key has to read or multiply in one step or prompt, all layers together."""

    read_bytes: float = 0.0
    byte_operations: float = 0.0  # a multiply-add counts twice
    bfloat16_operations: float = 0.0

    def seconds(self, ceilings: Mapping[str, float]) -> float:
        """At best; 0 for what neither reads memory nor multiplies to speak of."""
        return (
            self.read_bytes / ceilings["read_bytes_per_second"]
            + self.byte_operations / ceilings["int8_operations_per_second"]
            + self.bfloat16_operations / ceilings["bf16_operations_per_second"]
        )


def intervals(program: Any, name: str) -> list[Key]:
    """What runs between the barriers of a table, in order."""
    found, kernels = [], []
    for stage in program.table(name).stages:
        kernels.append(program.kernels[stage.kernel].name)
        if stage.barrier:
            found.append((LAYER.sub("", stage.site), ", ".join(kernels)))
            kernels = []
    return found


def totals(keys: Sequence[Key], timed: Sequence[tuple[str, float]]) -> dict[Key, float]:
    """Seconds by key of one run. Raises `ValueError` for a table of which parts were skipped."""
    sums: dict[Key, float] = {}
    for key, (_, seconds) in zip(keys, timed, strict=True):
        sums[key] = sums.get(key, 0.0) + seconds
    return sums


def medians(runs: Sequence[Mapping[Key, float]]) -> dict[Key, float]:
    """Over runs, which have the same keys."""
    return {key: statistics.median(one[key] for one in runs) for key in runs[0]}


def decode_work(manifest: Any, program: Any, position: int, keys: Sequence[Key]) -> dict[Key, Work]:
    """Of one token after `position` others."""
    found = {}
    for key in dict.fromkeys(keys):
        if "DecodeAttention" in key[1]:
            found[key] = Work(read_bytes=float(position * program.cache_bytes_per_position))
        elif multiplies(manifest, key):
            found[key] = read_once(manifest, key)
    return found


def prompt_work(manifest: Any, tokens: int, keys: Sequence[Key]) -> dict[Key, Work]:
    """Of a prompt of `tokens`; the head is computed for the last one."""
    found = {}
    pairs = tokens * (tokens + 1) / 2
    for key in dict.fromkeys(keys):
        if "PrefillAttention" in key[1]:
            found[key] = Work(bfloat16_operations=attention_operations(manifest.architecture) * pairs)
        elif multiplies(manifest, key) and "MatrixVector" in key[1]:
            found[key] = read_once(manifest, key)
        elif multiplies(manifest, key):
            weights = sum(2.0 * one["shape"][0] * one["shape"][1] for one in sites_of(manifest, key[0]))
            found[key] = Work(byte_operations=weights * tokens)
    return found


def multiplies(manifest: Any, key: Key) -> bool:
    """Whether the linear layer's product is part of it: the rounding before may stand by itself."""
    linear = any(one["kind"] == "linear" for one in sites_of(manifest, key[0]))
    return linear and not set(key[1].split(", ")) <= PREPARING


def read_once(manifest: Any, key: Key) -> Work:
    """All weights of the sites, for one token."""
    return Work(read_bytes=float(sum(one["bytes"] for one in sites_of(manifest, key[0]))))


def sites_of(manifest: Any, role: str) -> Iterator[Mapping[str, Any]]:
    """Those of all layers."""
    return (one for one in manifest.sites if LAYER.sub("", one["site"]) == role)


def table(times: Mapping[Key, float], work: Mapping[Key, Work], ceilings: Mapping[str, float]) -> str:
    """Slowest first, with the floor where there is one."""
    rows = []
    whole = sum(times.values())
    for key, seconds in sorted(times.items(), key=lambda item: -item[1]):
        floor = work.get(key, Work()).seconds(ceilings)
        least = [f"{floor * 1e6:.0f}", f"{floor / seconds:.0%}"] if floor else ["–", "–"]
        rows.append([*key, f"{seconds * 1e6:.0f}", f"{seconds / whole:.0%}", *least])
    floor = sum(one.seconds(ceilings) for one in work.values())
    rows.append(["all", "", f"{whole * 1e6:.0f}", "100%", f"{floor * 1e6:.0f}", f"{floor / whole:.0%}"])
    return markdown(["site", "kernels", "µs", "of all", "floor, µs", "floor / time"], rows)


def measure(compiled: Any, options: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """Title and table of each context and prompt."""
    session, program, manifest = compiled.session, compiled.program, compiled.manifest
    random = np.random.default_rng(0)
    for context in options.contexts:
        session.reset()
        session.extend(random.integers(program.vocabulary, size=context).tolist())
        keys, runs = intervals(program, "decode"), []
        for _ in range(options.rounds):
            token = int(random.integers(program.vocabulary))
            runs.append(totals(keys, session.profile([token])))
        work = decode_work(manifest, program, context + options.rounds // 2, keys)
        yield f"decode after {context}", table(medians(runs), work, ceilings_of(session))
    for tokens in options.prompts:
        keys, runs = intervals(program, "prefill"), []
        for _ in range(max(3, options.rounds // 8)):
            session.reset()
            prompt = random.integers(program.vocabulary, size=tokens).tolist()
            runs.append(totals(keys, session.profile(prompt)))
        work = prompt_work(manifest, tokens, keys)
        yield f"prefill {tokens}", table(medians(runs), work, ceilings_of(session))


def ceilings_of(session: Any) -> dict[str, float]:
    """The best of three readings."""
    found = session.measure_ceilings()
    for _ in range(2):
        found = found.best_of(session.measure_ceilings())
    return dict(vars(found))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("compiled", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--contexts", type=lengths, default=(32, 2048))
    parser.add_argument("--prompts", type=lengths, default=(512,), help="at most one chunk each")
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    with intaglio.load(options.compiled, threads=options.threads) as compiled:
        found = ceilings_of(compiled.session)
        units = (f"{found[name] / 1e9:.0f} {unit}" for name, unit in CEILINGS.items())
        print(f"{options.threads} thread{'s' if options.threads > 1 else ''}: {', '.join(units)}.")
        for title, text in measure(compiled, options):
            print(f"\n## {title}\n\n{text}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
