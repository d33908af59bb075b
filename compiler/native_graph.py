"""The native program of a graph: built for the shapes of example calls, and opened as a way to run it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import onnx_ir as ir

from intaglio.backends.onnxruntime import bind_region, write_region
from intaglio.backends.tvm import build_library
from intaglio.backends.tvm.graph_session import GraphSession
from intaglio.backends.tvm.graphs import GraphProgram, LoweredGraph, key_of, lower_graph
from intaglio.compiler.array_exchange import Array
from intaglio.compiler.manifest import LIBRARY, PROGRAM, WEIGHTS, Manifest
from intaglio.compiler.partition_timing import Call
from intaglio.cost_models import Target
from intaglio.passes.fix_shapes import fixed_model

ONE_THREAD = ", one thread"  # at the end of a candidate's name


def threads_for(manifest: Manifest, threads: int) -> int:
    """How many of `threads` the kept program runs on: short ones are faster on one."""
    return 1 if str(manifest.partition["kept"]).endswith(ONE_THREAD) else threads


def build_native(
    model: ir.Model,
    calls: Sequence[Call],
    target: Target,
    folder: Path,
    without: frozenset[str] = frozenset(),
) -> LoweredGraph:
    """Write program, weights, code and regions for `calls` to `folder`; kinds in `without` get no kernels.

    Raises `UnsupportedModelError` where sizes depend on values, `CodegenError` and `TargetError`.
    """
    keys = [key_of(one) for one in calls]
    different = [one for index, one in enumerate(keys) if one not in keys[:index]]
    fixed = [(fixed_model(model, one.shapes, one.fixed), one) for one in different]
    lowered = lower_graph(fixed, without=without)
    folder.mkdir(parents=True, exist_ok=True)
    build_library(lowered.program, target, folder / LIBRARY)
    lowered.write_weights(folder / WEIGHTS)
    for region in lowered.regions:
        write_region(region.model, folder, Path(region.file).stem)
    (folder / PROGRAM).write_text(lowered.program.to_json(), encoding="utf-8")
    return lowered


def open_native(folder: Path, threads: int) -> GraphSession:
    """The program in `folder`, running on `threads` threads."""
    return GraphSession(
        GraphProgram.from_json((folder / PROGRAM).read_text(encoding="utf-8")),
        folder=folder,
        weights=folder / WEIGHTS,
        library=folder / LIBRARY,
        threads=threads,
        regions=functools.partial(bind_region, threads=threads),
    )


def native_run(folder: Path, threads: int) -> Callable[[Call], Mapping[str, Array]]:
    """Calls of the program in `folder`."""
    return open_native(folder, threads).run
