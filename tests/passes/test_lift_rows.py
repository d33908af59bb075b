"""Work on flattened rows, done with the leading axes in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from intaglio.compiler.ir.invariants import check
from intaglio.passes.normalize.infer_shapes import InferShapes
from intaglio.passes.normalize.lift_rows import LiftRows
from intaglio.passes.normalize.recognize_linears import RecognizeLinears

RANDOM = np.random.default_rng(1)
WEIGHTS: dict[str, Any] = {
    "rows": np.array([-1, 8]),
    "back": np.array([2, -1, 8]),
    "back3": np.array([2, -1, 3]),
    "copied": np.array([0, 2, 4]),
    "w": RANDOM.standard_normal((8, 3)).astype(np.float32),
    "s": RANDOM.standard_normal((8, 8)).astype(np.float32),
    "b": RANDOM.standard_normal(3).astype(np.float32),
    "g": np.ones(8, np.float32),
    "c": np.array(0.5, np.float32),
    "wide": np.ones((1, 8), np.float32),
}
CASES = {
    "a Gemm": (
        "r = Reshape(x, rows)  g1 = Gemm(r, w, b)  y = Reshape(g1, back3)",
        "[2, sequence, 3] y",
        "Transpose MatMul Add",
    ),
    "a chain with a norm and a residual": (
        "r = Reshape(x, rows)  n = LayerNormalization(r, g)  m = MatMul(n, s)  k = Relu(m)  "
        "h = Mul(c, k)  t = Add(r, h)  y = Reshape(t, back)",
        "[2, sequence, 8] y",
        "LayerNormalization Transpose MatMul Relu Mul Add",
    ),
    "heads joined on the way": (
        "q = Transpose<perm = [0, 2, 1, 3]>(z)  r = Reshape(q, rows)  m = MatMul(r, w)  "
        "y = Reshape(m, back3)",
        "[2, sequence, 3] y",
        "Transpose Reshape Transpose MatMul",
    ),
    "somebody reads the rows": (
        "r = Reshape(x, rows)  m = MatMul(r, s)  k = Relu(m)  t = Reshape(k, back)  "
        "q = Softmax<axis = 0>(k)  u = Reshape(q, back)  y = Add(t, u)",
        "[2, sequence, 8] y",
        "Transpose MatMul Relu Reshape Softmax Reshape Add",
    ),
    "another shape at the end": (
        "r = Reshape(x, rows)  k = Relu(r)  y = Reshape(k, copied)",
        "[r, 2, 4] y",
        "Reshape Relu Reshape",
    ),
}


def built(parse: Callable[..., ir.Model], body: str, output: str) -> ir.Model:
    used = {
        name: one for name, one in WEIGHTS.items() if any(f"{a}{name}{z}" in body for a in "( " for z in ",)")
    }
    inputs = "float[2, sequence, 8] x, float[2, 2, sequence, 4] z"
    model = parse(f"g ({inputs}) => (float{output}) {{ {body} }}", **used)
    InferShapes()(model)
    for node in model.graph:  # onnx does not see that the size left open is the one flattened before
        if node.op_type == "Reshape" and node.outputs[0].name != "r" and "copied" not in body:
            node.outputs[0].shape = ir.Shape([2, "sequence", node.outputs[0].shape[2]])
    RecognizeLinears()(model)
    return model


@pytest.mark.parametrize(("body", "output", "ops"), CASES.values(), ids=CASES.keys())
def test_rows_get_their_leading_axes_back(
    parse: Callable[..., ir.Model],
    run: Callable[..., dict[str, np.ndarray]],
    body: str,
    output: str,
    ops: str,
) -> None:
    model = built(parse, body, output)
    x = RANDOM.standard_normal((2, 5, 8)).astype(np.float32)
    given = {"x": x, "z": RANDOM.standard_normal((2, 2, 5, 4)).astype(np.float32)}
    expected = run(model, **given)["y"]
    LiftRows()(model)
    check(model)
    assert [node.op_type for node in model.graph if node.op_type != "Constant"] == ops.split()
    assert [one.name for one in model.graph.outputs] == ["y"]
    np.testing.assert_allclose(run(model, **given)["y"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "body",
    [
        "r = Reshape(x, rows)  k = Add(r, wide)  y = Reshape(k, back)",  # a constant of two axes
        "r = Reshape(x, rows)  k = Softmax<axis = 0>(r)  y = Reshape(k, back)",  # across rows
    ],
)
def test_what_does_not_work_row_by_row_stays(
    parse: Callable[..., ir.Model], lines: Callable[[ir.Model], list[str]], body: str
) -> None:
    model = built(parse, body, "[2, sequence, 8] y")
    before = lines(model)
    assert not LiftRows()(model).modified
    assert lines(model) == before
