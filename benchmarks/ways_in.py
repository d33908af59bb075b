"""Times the ways in, after imports: tracing 30 layers, compiling a small CNN and an MLP; prints JSON.

    python benchmarks/ways_in.py

Seconds of each, medians of `ROUNDS` after a first one that is thrown away; the first is given, too.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers

import intaglio
from intaglio.compiler.frontends.tracing import trace

ROUNDS = 3
LAYERS = 30
SIZES = {
    "vocab_size": 1024,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
}


def small_cnn() -> tuple[torch.nn.Module, torch.Tensor]:
    layers = (
        torch.nn.Conv2d(3, 16, 3, padding=1),
        torch.nn.BatchNorm2d(16),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(16, 32, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(32, 10),
    )
    return torch.nn.Sequential(*layers).eval(), torch.zeros(2, 3, 32, 32)


def small_mlp() -> tuple[torch.nn.Module, torch.Tensor]:
    layers = (torch.nn.Linear(64, 256), torch.nn.GELU(), torch.nn.Linear(256, 256), torch.nn.GELU())
    return torch.nn.Sequential(*layers, torch.nn.Linear(256, 10)).eval(), torch.zeros(2, 64)


def write_decoder(folder: Path) -> Path:
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES)).save_pretrained(folder)
    return folder


def compile_module(make: Callable[[], tuple[torch.nn.Module, torch.Tensor]]) -> Callable[[], object]:
    module, example = make()
    return lambda: intaglio.compile(module, example_inputs=(example,)).close()


def timed(action: Callable[[], object]) -> dict[str, float]:
    seconds = []
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return {"first": round(seconds[0], 3), "median": round(statistics.median(seconds[1:]), 3)}


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = write_decoder(Path(name) / "model")
        # Imports are those of the first compilation of each kind.
        compile_module(lambda: (torch.nn.Linear(2, 2).eval(), torch.zeros(1, 2)))()
        figures = {
            f"trace of a decoder with {LAYERS} layers": timed(lambda: trace(folder)),
            "compile of a small CNN": timed(compile_module(small_cnn)),
            "compile of a small MLP": timed(compile_module(small_mlp)),
        }
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
