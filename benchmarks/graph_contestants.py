"""Graphs as contestants: onnxruntime on the original file, and ours; and compiling ours.

    python benchmarks/graph_contestants.py MODEL.onnx FOLDER --calls CALLS --threads N [--quality Q]

compiles MODEL into FOLDER for inputs like the first of CALLS; with a quality, what is rounded is calibrated
on the first 24. Being a process of its own, it leaves nothing running.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from graph_cases import CALIBRATION

Arrays = Mapping[str, np.ndarray]
WARM = 2  # calls before each timing: others have used the caches


def read_calls(folder: str | Path) -> list[Arrays]:
    """The calls that `graph_cases.py` wrote, in order."""
    files = sorted(Path(folder).glob("call-*.npz"), key=lambda file: int(file.stem.partition("-")[2]))
    return [dict(np.load(file)) for file in files]


class Graph:
    """Something that is called with arrays by name."""

    run: Callable[[Arrays], Mapping[str, np.ndarray]]

    def __init__(self, calls: str) -> None:
        self.calls = read_calls(calls)

    def outputs(self, folder: str) -> int:
        """Write the outputs of all calls as `outputs-0.npz`, …; their number."""
        for number, call in enumerate(self.calls):
            np.savez(Path(folder) / f"outputs-{number}.npz", **self.run(call))
        return len(self.calls)

    def time_calls(self, seconds: float) -> float:
        """Seconds of a call on the first inputs, on average over about `seconds`."""
        call, run = self.calls[0], self.run
        start = time.perf_counter()
        for _ in range(WARM):
            run(call)
        count = max(1, round(seconds * WARM / (time.perf_counter() - start)))
        start = time.perf_counter()
        for _ in range(count):
            run(call)
        return (time.perf_counter() - start) / count


class OnnxRuntime(Graph):
    """The original file in float32, with onnxruntime's usual options."""

    def __init__(self, path: str, calls: str, threads: int) -> None:
        import onnxruntime

        super().__init__(calls)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        names = [one.name for one in session.get_outputs()]
        taken = {one.name for one in session.get_inputs()}
        self.calls = [{name: one for name, one in call.items() if name in taken} for call in self.calls]
        self.run = lambda call: dict(zip(names, session.run(names, call), strict=True))


class Compiled(Graph):
    """Ours, called as anyone would."""

    def __init__(self, path: str, calls: str, threads: int) -> None:
        import intaglio

        super().__init__(calls)
        self.compiled = intaglio.load(path, threads=threads)
        taken = set(self.compiled.ports.inputs)
        self.calls = [{name: one for name, one in call.items() if name in taken} for call in self.calls]
        self.run = self.compiled

    def account(self) -> dict[str, Any]:
        """How it runs, as its manifest says."""
        return {"partition": self.compiled.manifest.partition}


CONTESTANTS = {"onnxruntime": OnnxRuntime, "compiled": Compiled}


def compile_into(options: argparse.Namespace) -> dict[str, float]:
    """Compile; seconds."""
    import intaglio

    calls = read_calls(options.calls)
    start = time.perf_counter()
    rounding = {}
    if options.quality is not None:
        rounding = {"quality": options.quality, "calibration": calls[:CALIBRATION]}
    compiled = intaglio.compile(options.model, example_inputs=calls[0], threads=options.threads, **rounding)
    compiled.save(options.folder)
    return {"seconds": time.perf_counter() - start}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--calls", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--quality", type=float)
    options = parser.parse_args()
    with contextlib.redirect_stdout(sys.stderr):
        done = compile_into(options)
    print(json.dumps(done))


if __name__ == "__main__":
    main()
