"""What is lowered to onnxruntime's own operators computes what the graph says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from intaglio.backends.onnxruntime import (
    OnnxRuntimeSession,
    RegionSession,
    product_forms,
    raise_region,
    write_region,
)
from intaglio.compiler.ir import GraphBuilder
from intaglio.passes.quantize import Treatment, apply_treatments

RANDOM = np.random.default_rng(0)
FLOAT, FLOAT16 = ir.DataType.FLOAT, ir.DataType.FLOAT16


def layer(rows: int, columns: int, treatment: str, rank: int = 2) -> ir.Model:
    """`y = x · Wᵀ` after a treatment; its node is called `layer`."""
    builder = GraphBuilder()
    x = builder.input("x", FLOAT, [*["batch", "sequence"][: rank - 1], columns])
    weight = builder.initializer("weight", RANDOM.standard_normal((rows, columns)).astype(np.float32))
    transposed = builder.node("Transpose", [weight], {"perm": [1, 0]})
    builder.output(builder.node("MatMul", [x, transposed], name="layer", dtype=FLOAT, shape=None))
    model = builder.model()
    assert apply_treatments(model, {"layer": Treatment.parse(treatment)}).declined == ()
    return model


def lowered(model: ir.Model, folder: Path, inputs: Mapping[str, np.ndarray]) -> tuple[np.ndarray, list[str]]:
    """(the region's first output, its operators)."""
    write_region(model, folder, "region")
    results = RegionSession(folder / "region.onnx", threads=1).run(inputs)
    operators = [node.op_type for node in ir.load(folder / "region.onnx").graph]
    return next(iter(results.values())), operators


def exact(model: ir.Model, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    return next(iter(OnnxRuntimeSession(model, threads=1).run(inputs).values()))


def close(found: np.ndarray, wanted: np.ndarray) -> bool:
    return float(np.abs(found - wanted).max()) <= 3e-6 * float(np.abs(wanted).max())


@pytest.mark.parametrize("rows", [1, 5, 64])
@pytest.mark.parametrize(
    ("treatment", "operators"),
    [
        ("keep:a16", ["MatMul"]),
        ("bf16", ["MatMul"]),
        ("int4-g32", ["MatMulNBits"]),
        ("int4-g32:a16", ["MatMulNBits"]),
        ("int4-channel", ["MatMulNBits"]),
        ("int4-channel-asymmetric:a16", ["MatMulNBits"]),
        ("int4-g64-asymmetric:a8g16", ["MatMulNBits"]),
        ("int8-g32-asymmetric", ["MatMulNBits"]),
        ("int8-channel", ["MatMulNBits"]),
        ("int8-g32:a16", ["MatMul"]),
        ("int8-channel:a8g192", ["QuantizeActivation", "MatMul"]),
        ("int8-g64:a8g8", ["QuantizeActivation", "MatMul"]),
        ("int4-g64:a8g8", ["QuantizeActivation", "MatMulNBits"]),
        ("int4-g32-minimum", ["QuantizeActivation", "MatMul"]),
    ],
)
def test_a_layer_stays_what_it_is(treatment: str, operators: list[str], rows: int, tmp_path: Path) -> None:
    model = layer(67, 192, treatment)
    inputs = {"x": RANDOM.standard_normal((rows, 192)).astype(np.float32)}
    inputs["x"][0, 32:64] = 0  # a group of zeros
    found, used = lowered(model, tmp_path, inputs)
    assert close(found, exact(model, inputs))
    assert used == operators
    (form,) = product_forms(model).values()
    assert form.split(",")[0] == operators[-1]
    raised = raise_region(tmp_path / "region.onnx", round_activations=True)
    assert close(exact(raised, inputs), found)


def test_whole_sequences_are_multiplied_alike(tmp_path: Path) -> None:
    model = layer(48, 64, "int8-g32", rank=3)
    inputs = {"x": RANDOM.standard_normal((2, 9, 64)).astype(np.float32)}
    found, _ = lowered(model, tmp_path, inputs)
    assert found.shape == (2, 9, 48)
    assert close(found, exact(model, inputs))


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_make_no_difference(threads: int, tmp_path: Path) -> None:
    model = layer(256, 512, "int4-g32")
    inputs = {"x": RANDOM.standard_normal((40, 512)).astype(np.float32)}
    write_region(model, tmp_path, "region")
    (found,) = RegionSession(tmp_path / "region.onnx", threads=threads).run(inputs).values()
    assert close(found, exact(model, inputs))


def codes_of(dtype: ir.DataType, shape: tuple[int, int]) -> ir.TensorProtocol:
    signed, bits = dtype.name.startswith("INT"), dtype.bitwidth
    low = -(1 << (bits - 1)) if signed else 0
    codes = RANDOM.integers(low, low + (1 << bits), shape)
    return ir.Tensor(codes.astype(dtype.numpy()), dtype)


@pytest.mark.parametrize("with_points", [False, True])
@pytest.mark.parametrize("dtype", [ir.DataType.INT4, ir.DataType.UINT4, ir.DataType.INT8, ir.DataType.UINT8])
@pytest.mark.parametrize(("columns", "block"), [(96, 32), (48, 16), (64, 64), (40, 8)])
def test_blocks_of_any_code_are_looked_up_and_multiplied(
    dtype: ir.DataType, with_points: bool, columns: int, block: int, tmp_path: Path
) -> None:
    """A tied table: looked up by `ids`, and multiplied with; odd numbers of blocks among them."""
    builder, blocks = GraphBuilder(), (21, columns // block)
    x = builder.input("x", FLOAT, ["batch", columns])
    ids = builder.input("ids", ir.DataType.INT64, ["batch"])
    scale = RANDOM.uniform(0.01, 0.1, blocks).astype(np.float16)
    wide = builder.node("Cast", [builder.initializer("scale", scale)], {"to": int(FLOAT)})
    inputs = [builder.initializer("codes", codes_of(dtype, (21, columns))), wide]
    if with_points:
        inputs.append(builder.initializer("points", codes_of(dtype, blocks)))
    table = builder.node(
        "DequantizeLinear", inputs, {"axis": 1, "block_size": block}, dtype=FLOAT, shape=[21, columns]
    )
    rows = builder.node("Gather", [table, ids], name="lookup")
    transposed = builder.node("Transpose", [table], {"perm": [1, 0]})
    total = builder.node("Add", [x, rows], name="total")
    builder.output(
        builder.node("MatMul", [total, transposed], name="layer", dtype=FLOAT, shape=["batch", 21])
    )
    model = builder.model()
    fed = {"x": RANDOM.standard_normal((4, columns)).astype(np.float32), "ids": np.array([0, 20, 7, -1])}
    found, used = lowered(model, tmp_path, fed)
    assert close(found, exact(model, fed))
    fits = dtype.bitwidth == 4 and block != 8
    assert ("GatherBlockQuantized" in used, "MatMulNBits" in used) == (fits, fits)
    assert "DequantizeLinear" not in used
    raised = raise_region(tmp_path / "region.onnx", round_activations=False)
    assert {node.domain for node in raised.graph} == {""}
    assert close(exact(raised, fed), found)


def test_narrow_tables_are_cast_after_the_lookup(tmp_path: Path) -> None:
    builder = GraphBuilder()
    ids = builder.input("ids", ir.DataType.INT64, ["batch"])
    table = RANDOM.standard_normal((300, 64)).astype(ml_dtypes.bfloat16)
    wide = builder.node("Cast", [builder.initializer("table", table)], {"to": int(FLOAT)})
    builder.output(builder.node("Gather", [wide, ids], name="y", dtype=FLOAT, shape=["batch", 64]))
    found, used = lowered(builder.model(), tmp_path, {"ids": np.array([299, 3])})
    np.testing.assert_array_equal(found, table[[299, 3]].astype(np.float32))
    assert used == ["Gather", "Cast"]
    assert (tmp_path / "region.weights").stat().st_size == table.nbytes


def test_float16_layers_stay_float16(tmp_path: Path) -> None:
    builder = GraphBuilder()
    x = builder.input("x", FLOAT16, ["batch", 64])
    weight = builder.initializer("weight", RANDOM.standard_normal((48, 64)).astype(np.float16))
    transposed = builder.node("Transpose", [weight], {"perm": [1, 0]})
    builder.output(builder.node("MatMul", [x, transposed], name="layer", dtype=FLOAT16, shape=["batch", 48]))
    inputs = {"x": RANDOM.standard_normal((3, 64)).astype(np.float16)}
    found, used = lowered(builder.model(), tmp_path, inputs)
    assert (found.dtype, used) == (np.float16, ["MatMul"])
    assert (tmp_path / "region.weights").stat().st_size == 48 * 64 * 2
    np.testing.assert_allclose(found, exact(builder.model(), inputs), rtol=2e-3, atol=2e-2)


def test_a_float_table_that_is_tied_is_stored_once(tmp_path: Path) -> None:
    builder = GraphBuilder()
    ids = builder.input("ids", ir.DataType.INT64, ["batch"])
    table = builder.initializer("table", RANDOM.standard_normal((300, 64)).astype(np.float32))
    rows = builder.node("Gather", [table, ids], name="lookup")
    transposed = builder.node("Transpose", [table], {"perm": [1, 0]})
    builder.output(
        builder.node("MatMul", [rows, transposed], name="layer", dtype=FLOAT, shape=["batch", 300])
    )
    model, inputs = builder.model(), {"ids": np.array([299, 3])}
    found, _ = lowered(model, tmp_path, inputs)
    assert close(found, exact(model, inputs))
    assert (tmp_path / "region.weights").stat().st_size == 300 * 64 * 4
