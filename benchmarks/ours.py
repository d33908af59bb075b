"""Intaglio as a contestant, with the figures that its ceilings are computed from; and compiling it.

    python benchmarks/ours.py MODEL FOLDER --context N [--plan PLAN] [--batch N]

compiles MODEL into FOLDER; being a process of its own, it leaves nothing running.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rivals import Stepping

import intaglio

READINGS = 3  # of a profile


class Intaglio(Stepping):
    """A compiled model."""

    def __init__(self, forms: dict[str, str], threads: int, capacity: int) -> None:
        self.compiled = intaglio.load(forms["compiled"], threads=threads)
        self.session = self.compiled.session
        if self.session.capacity < capacity:
            raise ValueError(f"{forms['compiled']}: context {self.session.capacity}, {capacity} are needed")

    def encode(self, text: str) -> list[int]:
        return list(self.compiled.tokenizer.encode(text))

    def decode(self, tokens: Sequence[int]) -> str:
        return str(self.compiled.tokenizer.decode(list(tokens)))

    def begin(self, tokens: Sequence[int]) -> int:
        self.session.reset()
        return int(self.session.choose(tokens))

    def advance(self, token: int) -> int:
        return int(self.session.choose([token]))

    def time_batch(self, prompts: Sequence[Sequence[int]], count: int) -> float:
        """Seconds of `count` steps that extend a sequence for each prompt by its likeliest token."""
        sequences = self.session.sequences
        tokens = {}
        for slot, prompt in enumerate(prompts):
            sequences.reset(slot)
            tokens[slot] = int(sequences.extend(slot, prompt).argmax())
        start = time.perf_counter()
        for _ in range(count):
            best = sequences.best_many(tokens, 1)
            tokens = {slot: int(ids[0]) for slot, (ids, _) in zip(tokens, best, strict=True)}
        return time.perf_counter() - start

    def facts(self) -> dict[str, Any]:
        """Bytes and operations of this very artefact; a multiply-add counts twice."""
        program, architecture = self.compiled.program, self.compiled.manifest.architecture
        head = architecture["vocabulary"] * architecture["hidden"]
        return {
            "bytes_per_token": program.bytes_per_token,
            "cache_bytes_per_position": program.cache_bytes_per_position,
            "operations_per_token": 2 * program.multiply_adds_per_token,
            "head_operations": 2 * head,
            "attention_operations_per_pair": attention_operations(architecture),
            "vocabulary": program.vocabulary,
            "plan": self.compiled.manifest.plan,
            "packed_bytes": program.weight_bytes,
        }

    def ceilings(self) -> dict[str, float]:
        """What the machine can do at best right now."""
        return dict(vars(self.session.measure_ceilings()))

    def quality(self, tokens: int) -> dict[str, Any]:
        """How far the predictions are from the dequantised original's."""
        return dict(self.compiled.evaluate(tokens=tokens).to_json())

    def profile(self, tokens: Sequence[int]) -> dict[str, float]:
        """Seconds by kind of site while `tokens`, one prefill chunk at most, are computed: medians."""
        kinds = {site["site"]: site["kind"] for site in self.compiled.manifest.sites}
        seconds: dict[str, list[float]] = {}
        for _ in range(READINGS):
            self.session.reset()
            totals: dict[str, float] = {}
            for site, part in self.session.profile(tokens):
                kind = "head" if site == "lm_head" else kinds.get(site, "other")
                totals[kind] = totals.get(kind, 0.0) + part
            for kind, total in totals.items():
                seconds.setdefault(kind, []).append(total)
        return {kind: statistics.median(parts) for kind, parts in seconds.items()}


def attention_operations(architecture: dict[str, Any]) -> int:
    """Of scores and mixing, for one pair of query and key, in all layers."""
    return 4 * architecture["layers"] * architecture["heads"] * architecture["head_dim"]


def compile_into(options: argparse.Namespace) -> dict[str, Any]:
    """Compile; seconds by phase and bytes."""
    start = time.perf_counter()
    workload = intaglio.Workload(min(512, options.context - 1), 1, options.batch)
    compiled = intaglio.compile(
        options.model, plan=options.plan, context=options.context, workload=workload, threads=1
    )
    compiled.save(options.folder)
    return {"seconds": time.perf_counter() - start, "phases": dict(compiled.manifest.seconds)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--context", type=int, required=True)
    parser.add_argument("--plan")
    parser.add_argument("--batch", type=int, default=1)
    options = parser.parse_args()
    with contextlib.redirect_stdout(sys.stderr):
        done = compile_into(options)
    print(json.dumps(done))


if __name__ == "__main__":
    main()
