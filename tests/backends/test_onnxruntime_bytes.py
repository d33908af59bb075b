"""Products of bytes: what onnxruntime is given, what it runs, and that it computes what the graph says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from intaglio.backends.onnxruntime import OnnxRuntimeSession, RegionSession, product_forms, write_region
from intaglio.compiler.ir import GraphBuilder
from intaglio.passes.quantize.formats import WeightFormat
from intaglio.passes.quantize.round_dynamically import RoundDynamically
from intaglio.passes.quantize.round_weights import RoundWeights

RANDOM = np.random.default_rng(4)
ROWS, INPUTS, OUTPUTS = 5, 37, 11


def layer(form: WeightFormat) -> ir.Model:
    """`y = x · Wᵀ`, rounded to bytes in every call."""
    builder = GraphBuilder()
    x = builder.input("x", ir.DataType.FLOAT, ["rows", INPUTS])
    weight = builder.initializer("w", RANDOM.standard_normal((OUTPUTS, INPUTS)).astype(np.float32))
    turned = builder.node("Transpose", [weight], {"perm": [1, 0]}, dtype=ir.DataType.FLOAT)
    shape = ["rows", OUTPUTS]
    builder.output(builder.node("MatMul", [x, turned], name="y", dtype=ir.DataType.FLOAT, shape=shape))
    model = builder.model()
    RoundWeights({"y": form})(model)
    RoundDynamically(frozenset({"y"}))(model)
    return model


def ran(path: Path, folder: Path, x: np.ndarray) -> list[str]:
    """The kernels that onnxruntime ran."""
    options = onnxruntime.SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, str(folder / "profile")
    session = onnxruntime.InferenceSession(path, options)
    session.run(None, {"x": x})
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return [one["args"]["op_name"] for one in events if one["name"].endswith("_kernel_time")]


def test_bytes_are_multiplied_as_bytes(tmp_path: Path) -> None:
    model = layer(WeightFormat(8, None))
    x = RANDOM.standard_normal((ROWS, INPUTS)).astype(np.float32)
    wanted = OnnxRuntimeSession(model, threads=1).run({"x": x})["y"]
    (form,) = product_forms(model).values()
    assert form.startswith("MatMulIntegerToFloat")
    write_region(model, tmp_path, "region")
    found = RegionSession(tmp_path / "region.onnx", threads=1).run({"x": x})["y"]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
    kernels = ran(tmp_path / "region.onnx", tmp_path, x)
    assert {"MatMulIntegerToFloat", "DynamicQuantizeMatMul"} & set(kernels)
    assert "MatMul" not in kernels


@pytest.mark.parametrize("form", [WeightFormat(8, None, "asymmetric"), WeightFormat(4, None)])
def test_other_weights_are_stored_in_floating_point(form: WeightFormat, tmp_path: Path) -> None:
    model = layer(form)
    x = RANDOM.standard_normal((ROWS, INPUTS)).astype(np.float32)
    wanted = OnnxRuntimeSession(model, threads=1).run({"x": x})["y"]
    (told,) = product_forms(model).values()
    assert "Integer" not in told
    write_region(model, tmp_path, "region")
    found = RegionSession(tmp_path / "region.onnx", threads=1).run({"x": x})["y"]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
