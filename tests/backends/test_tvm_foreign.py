"""Decoders of which a part has no kernel: onnxruntime runs it amid a step, on the same buffers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch

from intaglio.backends.onnxruntime import RegionSession, write_region
from intaglio.backends.reference import ReferenceSession
from intaglio.backends.tvm import NativeSession
from intaglio.backends.tvm.lower import lower
from intaglio.backends.tvm.program import Program
from intaglio.compiler.frontends.tracing import trace
from intaglio.compiler.reference_session import GraphSession
from intaglio.cost_models import resolve_target
from intaglio.passes.fuse import fuse
from intaglio.passes.normalize import Expected, normalize
from intaglio.passes.quantize import apply_treatments
from intaglio.passes.rewriting import is_op

CAPACITY, CHUNK = 40, 7


def without_kernel(model: ir.Model) -> None:
    """Ask the second layer's attention for what kernels lack, and put a CumSum into the first MLP."""
    second = [node for node in model.graph if is_op(node, "Attention")][1]
    second.attributes["qk_matmul_output_mode"] = ir.AttrInt64("qk_matmul_output_mode", 2)
    gate = next(node for node in model.graph if node.op_type == "SwiGLU")
    value = gate.outputs[0]
    readers = tuple(value.uses())
    axis = ir.Value(name="axis", const_value=ir.tensor(np.array(2)))
    axis.shape, axis.type = ir.Shape([]), ir.TensorType(ir.DataType.INT64)
    model.graph.register_initializer(axis)
    summed = ir.node("CumSum", [value, axis], name="layers.0.mlp.sum")
    summed.outputs[0].type, summed.outputs[0].shape = value.type, value.shape
    model.graph.insert_after(gate, summed)
    for node, index in readers:
        node.replace_input_with(index, summed.outputs[0])


@pytest.fixture(scope="module")
def hybrid(
    tiny_gguf: Callable[..., Path], quick_build: Callable[..., None], tmp_path_factory: Any
) -> tuple[Program, Path, np.ndarray[Any, Any], list[int]]:
    """Program, folder, the reference backend's logits, tokens."""
    torch.set_num_threads(1)
    model = trace(tiny_gguf(quantization="F32")).model
    normalize(model, expected=Expected(attentions=2, gated=2), capacity=CAPACITY)
    without_kernel(model)
    apply_treatments(model)
    tokens = np.random.default_rng(2).integers(0, 300, 23).tolist()
    expected = GraphSession(model, ReferenceSession(model)).score(tokens)
    lowered = lower(fuse(model).model, capacity=CAPACITY, chunk=CHUNK)
    folder = tmp_path_factory.mktemp("hybrid")
    lowered.write_weights(folder / "weights.bin")
    for region, file in zip(lowered.foreign, lowered.program.foreign, strict=True):
        write_region(region.model, folder, Path(file.file).stem)
    quick_build(lowered.program, resolve_target("cpu"), folder / "program.so")
    return lowered.program, folder, expected, tokens


def opened(program: Program, folder: Path, threads: int) -> NativeSession:
    files = {"weights": folder / "weights.bin", "library": folder / "program.so"}
    regions = [RegionSession(folder / one.file, threads=threads) for one in program.foreign]
    return NativeSession(program, threads=threads, regions=regions, **files)


@pytest.mark.parametrize("threads", [1, 2])
def test_all_tables_compute_what_the_graph_says(hybrid: Any, threads: int) -> None:
    program, folder, expected, tokens = hybrid
    assert len(program.foreign) == 2
    session = opened(program, folder, threads)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(session.score(tokens), expected, atol=1e-5 * scale)
    session.reset()
    steps = [session.extend([token]) for token in tokens]
    np.testing.assert_allclose(steps, expected, atol=1e-5 * scale)
    session.reset(5)
    np.testing.assert_allclose(session.extend(tokens[5:]), expected[-1], atol=1e-5 * scale)


def test_programs_with_foreign_regions_survive_json(hybrid: Any) -> None:
    program = hybrid[0]
    assert Program.from_json(program.to_json()) == program


def test_profiles_time_the_foreign_regions_too(hybrid: Any) -> None:
    program, folder, _, tokens = hybrid
    timed = opened(program, folder, 2).profile(tokens[:CHUNK])
    assert {one.site for one in program.foreign} <= {site for site, _ in timed}
    assert all(seconds >= 0 for _, seconds in timed)
