"""Every op of the interpreter agrees with onnxruntime, or with onnx's evaluator where that has no kernel."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from intaglio.backends.reference import ReferenceSession
from intaglio.backends.reference.operators import OPERATORS
from intaglio.compiler.ir import GraphBuilder

Array = NDArray[Any]
ORT, ONNX = "onnxruntime", "onnx"


@dataclass(frozen=True)
class Case:
    """One node: arrays for its inputs (None: left out), attributes, and who is asked for the right answer."""

    op: str
    inputs: tuple[Array | None, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    outputs: int = 1
    judge: str = ORT


def floats(*shape: int, seed: int = 0, dtype: type = np.float32) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def positive(*shape: int) -> Array:
    return np.abs(floats(*shape)) + np.float32(0.1)


def integers(*shape: int, low: int = -9, high: int = 9, dtype: type = np.int64) -> Array:
    return np.random.default_rng(len(shape)).integers(low, high, shape).astype(dtype)


def numbers(*values: int) -> Array:
    return np.array(values, np.int64)


def truths(*shape: int, seed: int = 0) -> Array:
    return floats(*shape, seed=seed) > 0


HALVES = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.49, -0.0], np.float32)
UNARY = ("Abs", "Ceil", "Cos", "Erf", "Exp", "Floor", "Identity", "Neg", "Reciprocal", "Relu", "Round")
UNARY += ("Sigmoid", "Sign", "Sin", "Tanh")

ELEMENTWISE = [
    *(Case(op, (floats(3, 5, 7),)) for op in UNARY),
    *(Case(op, (positive(3, 7),)) for op in ("Log", "Sqrt")),
    *(Case(op, (floats(3, 1, 7), positive(5, 1))) for op in ("Add", "Sub", "Mul", "Div")),
    *(Case(op, (integers(3, 7), integers(7, low=1))) for op in ("Add", "Sub", "Mul", "Div", "Mod")),
    Case("Mod", (floats(3, 7), positive(7)), {"fmod": 1}),
    Case("Round", (HALVES,)),
    Case("Pow", (positive(3, 7), floats(7))),
    Case("Pow", (floats(3, 7), numbers(2).reshape(()))),
    Case("Gelu", (floats(3, 7),)),
    Case("Gelu", (floats(3, 7),), {"approximate": "tanh"}),
    Case("Swish", (floats(3, 7),), judge=ONNX),
    Case("Swish", (floats(3, 7),), {"alpha": 1.7}, judge=ONNX),
    Case("Clip", (floats(3, 7), np.float32(-0.5), np.float32(0.25))),
    Case("Clip", (floats(3, 7), None, np.float32(0.25))),
    Case("Clip", (integers(3, 7), np.int64(-2), np.int64(4))),
    Case("Clip", (floats(3, 7),)),
    Case("Max", (floats(3, 7), floats(7, seed=1), floats(1, seed=2))),
    Case("Min", (floats(3, 7), floats(7, seed=1))),
    Case("Max", (floats(3, 7),)),
    Case("Sum", (floats(3, 7), floats(7, seed=1), floats(3, 1, seed=2))),
    *(
        Case(op, (integers(3, 7), integers(7)))
        for op in ("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual")
    ),
    Case("Equal", (truths(3, 7), truths(7, seed=1))),
    *(Case(op, (truths(3, 7), truths(7, seed=1))) for op in ("And", "Or")),
    Case("Not", (truths(3, 7),)),
    Case("Where", (truths(3, 1), floats(7), floats(3, 7, seed=1))),
    Case("Softmax", (floats(3, 5, 7),)),
    Case("Softmax", (floats(3, 5, 7),), {"axis": 1}),
    Case("LogSoftmax", (floats(3, 5, 7),), {"axis": 0}),
]
PRODUCTS = [
    Case("MatMul", (floats(3, 5), floats(5, 7))),
    Case("MatMul", (floats(2, 1, 3, 5), floats(4, 5, 7))),
    Case("MatMul", (floats(5), floats(5, 7))),
    Case("MatMul", (floats(3, 5), floats(5))),
    Case("Gemm", (floats(3, 5), floats(5, 7))),
    Case(
        "Gemm", (floats(5, 3), floats(7, 5), floats(7)), {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0}
    ),
    Case("CumSum", (floats(3, 7), np.int64(1))),
    Case("CumSum", (integers(3, 7), np.int64(-2))),
]
REDUCTIONS = [
    Case(op, (x, axes), attributes)
    for op in ("ReduceMax", "ReduceMin", "ReduceSum", "ReduceMean")
    for x, axes, attributes in [
        (floats(3, 5, 7), numbers(-1), {"keepdims": 1}),
        (floats(3, 5, 7), numbers(0, 2), {"keepdims": 0}),
        (floats(3, 5, 7), None, {}),
        (floats(3, 5, 7), None, {"noop_with_empty_axes": 1}),
    ]
] + [Case("ReduceSum", (integers(3, 5), numbers(1)), {"keepdims": 0})]
SHAPES = [
    Case("Shape", (floats(3, 5, 7),)),
    Case("Shape", (floats(3, 5, 7),), {"start": 1}),
    Case("Shape", (floats(3, 5, 7),), {"start": 0, "end": -1}),
    Case("Size", (floats(3, 5, 7),)),
    Case("Range", (np.int64(3), np.int64(17), np.int64(5))),
    Case("Range", (np.float32(3), np.float32(-1), np.float32(-0.75))),
    Case("Concat", (floats(3, 5), floats(3, 1), floats(3, 7)), {"axis": -1}),
    Case("Split", (floats(3, 7), numbers(2, 4, 1)), {"axis": 1}, outputs=3),
    Case("Split", (floats(3, 7),), {"axis": -1, "num_outputs": 3}, outputs=3),
    Case("Slice", (floats(9, 7), numbers(1), numbers(-1))),
    Case("Slice", (floats(9, 7), numbers(-3, 0), numbers(2**62, 5), numbers(1, 0), numbers(1, 3))),
    Case("Slice", (floats(9, 7), numbers(-1), numbers(-(2**62)), numbers(0), numbers(-2))),
    Case("Slice", (floats(9, 7), numbers(5), numbers(2), numbers(1))),
    Case("Reshape", (floats(3, 4, 5), numbers(0, -1, 2))),
    Case("Reshape", (floats(3, 4), numbers(12))),
    Case("Flatten", (floats(3, 4, 5),), {"axis": 2}),
    Case("Flatten", (floats(3, 4, 5),), {"axis": -2}),
    Case("Transpose", (floats(3, 5, 7),), {"perm": [2, 0, 1]}),
    Case("Transpose", (floats(3, 5, 7),)),
    Case("Unsqueeze", (floats(3, 5), numbers(-1, 1))),
    Case("Squeeze", (floats(3, 1, 5, 1), numbers(-1))),
    Case("Squeeze", (floats(3, 1, 5, 1),)),
    Case("Expand", (floats(3, 1), numbers(2, 1, 7))),
    Case("Expand", (floats(3, 5), numbers(1, 5))),
    Case("Expand", (floats(2, 3, 1), numbers(7))),
    Case("Tile", (floats(3, 2), numbers(2, 3))),
    Case("TopK", (floats(3, 7), numbers(3)), outputs=2),
    Case("TopK", (integers(4, 5), numbers(2)), {"axis": 0, "largest": 0}, outputs=2),
    Case("GatherElements", (floats(3, 4), integers(2, 4, low=-3, high=3))),
    Case("ScatterElements", (floats(3, 4), numbers(1, -1).reshape(2, 1), floats(2, 1)), {"axis": 1}),
    Case(
        "ScatterElements",
        (floats(3, 4), integers(3, 6, low=-4, high=4), floats(3, 6)),
        {"axis": 1, "reduction": "add"},
    ),
    Case("Gather", (floats(9, 7), integers(3, 2, low=-9))),
    Case("Gather", (floats(9, 7), np.int64(-1)), {"axis": 1}),
    Case("Gather", (floats(3, 9, 2), integers(4, low=0)), {"axis": -2}),
    Case("ConstantOfShape", (numbers(3, 2),)),
    Case("ConstantOfShape", (numbers(3),), {"value": ir.tensor(np.array([7], np.int64))}),
    Case("Constant", (), {"value": ir.tensor(floats(3))}),
    Case("Constant", (), {"value_int": 5}),
    Case("Constant", (), {"value_ints": [5, -6]}),
    Case("Constant", (), {"value_float": 0.5}),
    Case("Constant", (), {"value_floats": [0.5, -1.5]}),
    Case("Trilu", (floats(5, 7), np.int64(-1)), {"upper": 0}),
    Case("Trilu", (floats(5, 7), np.int64(2))),
    Case("Trilu", (floats(2, 5, 5),)),
    Case("TensorScatter", (floats(3, 2, 9, 5), floats(3, 2, 4, 5, seed=1), numbers(0, 5, 2)), {"axis": 2}),
    Case("TensorScatter", (floats(3, 2, 9, 5), floats(3, 2, 4, 5, seed=1))),
    Case(
        "TensorScatter", (floats(3, 9, 5), floats(3, 4, 5), numbers(7, 0, 8)), {"axis": 1, "mode": "circular"}
    ),
]
NORMS = [
    Case("RMSNormalization", (floats(3, 5, 7), floats(7))),
    Case("RMSNormalization", (floats(3, 5, 7), floats(5, 7)), {"axis": 1, "epsilon": 0.1}),
    Case("LayerNormalization", (floats(3, 5, 7), floats(7), floats(7, seed=1)), outputs=3),
    Case("LayerNormalization", (floats(3, 5, 7), floats(5, 7)), {"axis": -2, "epsilon": 0.1}),
]
TABLES = (floats(11, 3, seed=4), floats(11, 3, seed=5))
POSITIONS = integers(2, 5, low=0)
ROTATIONS = [
    Case("RotaryEmbedding", (floats(2, 3, 5, 6), *TABLES, POSITIONS)),
    Case("RotaryEmbedding", (floats(2, 3, 5, 6), *TABLES, POSITIONS), {"interleaved": 1}),
    Case(
        "RotaryEmbedding", (floats(2, 3, 5, 10), *TABLES, POSITIONS), {"rotary_embedding_dim": 6}, judge=ONNX
    ),
    Case("RotaryEmbedding", (floats(2, 5, 24), *TABLES, POSITIONS), {"num_heads": 4}),
    Case("RotaryEmbedding", (floats(2, 3, 5, 6), floats(2, 5, 3), floats(2, 5, 3, seed=1))),
]


def blocked(op: str, values: Array, low: int, high: int, zero_type: type, judge: str = ORT) -> list[Case]:
    zeros = functools.partial(integers, low=max(low, -3), high=min(high, 4), dtype=zero_type)
    return [
        Case(op, (values, np.float32(0.3), zeros(1).reshape(())), judge=judge),
        Case(op, (values, positive(6), zeros(6)), {"axis": 1}, judge=judge),
        Case(op, (values, positive(4), zeros(4)), {"axis": 0}, judge=judge),
        Case(op, (values, positive(4, 2), zeros(4, 2)), {"axis": 1, "block_size": 3}, judge=judge),
        Case(op, (values, positive(2, 6), zeros(2, 6)), {"axis": -2, "block_size": 2}, judge=judge),
    ]


RANGES = [(ml_dtypes.uint4, 0, 16), (ml_dtypes.int4, -8, 8), (np.uint8, 0, 256), (np.int8, -128, 128)]
QUANTIZED = [
    *(
        one
        for dtype, low, high in RANGES
        for one in blocked(
            "DequantizeLinear", integers(4, 6, low=low, high=high, dtype=dtype), low, high, dtype
        )
    ),
    *(
        one
        for dtype, low, high in RANGES
        # onnxruntime cannot hand 4-bit results to numpy.
        for one in blocked("QuantizeLinear", floats(4, 6) * 10, low, high, dtype, ORT if high > 16 else ONNX)
    ),
    Case("DequantizeLinear", (integers(4, 6, dtype=np.int8), positive(4, 2)), {"axis": 1, "block_size": 3}),
    Case("DequantizeLinear", (integers(4, 7, dtype=np.int8), positive(4, 3)), {"block_size": 3}, judge=ONNX),
    Case("DequantizeLinear", (integers(4, 6, dtype=np.int8), np.float16(0.3)), {}),
    Case("QuantizeLinear", (floats(4, 6) * 200, np.float32(0.5)), {"output_dtype": int(ir.DataType.INT8)}),
    Case("QuantizeLinear", (floats(4, 6) * 200, np.float32(0.5))),
]
TYPES = (np.float64, np.float16, np.int64, np.int32, np.int8, np.bool_)
CASTS = [
    *(Case("Cast", (floats(3, 7) * 5,), {"to": int(ir.DataType.from_numpy(np.dtype(one)))}) for one in TYPES),
    Case("Cast", (integers(3, 7),), {"to": int(ir.DataType.FLOAT)}),
    Case("Cast", (truths(3, 7),), {"to": int(ir.DataType.INT64)}),
    Case("Cast", (integers(3, 7, low=0, high=16, dtype=ml_dtypes.uint4),), {"to": int(ir.DataType.FLOAT)}),
    Case("Cast", (integers(3, 7, low=0, high=16),), {"to": int(ir.DataType.UINT4)}, judge=ONNX),
    Case("Cast", (integers(3, 7, low=-8, high=8),), {"to": int(ir.DataType.INT4)}, judge=ONNX),
    Case("CastLike", (integers(3, 7), floats(1))),
    Case("CastLike", (floats(3, 7) * 5, integers(1))),
    Case("CastLike", (integers(3, 7, low=0), numbers(1).astype(ml_dtypes.uint4)), judge=ONNX),
]
Q, K, V = floats(2, 6, 5, 8), floats(2, 3, 7, 8, seed=1), floats(2, 3, 7, 4, seed=2)
FLAT = (floats(2, 5, 48), floats(2, 7, 24, seed=1), floats(2, 7, 12, seed=2))
HEADS = {"q_num_heads": 6, "kv_num_heads": 3}
MASK = truths(2, 1, 5, 7)
ROW_WITHOUT_KEYS = np.where(np.arange(5)[:, None] == 2, -np.inf, floats(5, 7)).astype(np.float32)
PAST = (floats(2, 3, 4, 8, seed=3), floats(2, 3, 4, 4, seed=4))
ATTENTION = [
    Case("Attention", (Q, K, V)),
    Case("Attention", (Q, K, V), {"scale": 0.7}),
    Case("Attention", (Q, K, V), {"softcap": 2.5}),
    Case("Attention", (Q, K, V), {"is_causal": 1}),
    Case("Attention", FLAT, HEADS),
    Case("Attention", FLAT, {**HEADS, "is_causal": 1}),
    Case("Attention", (Q, K, V, MASK)),
    Case("Attention", (Q, K, V, MASK[:1, :, :, :]), {"is_causal": 1}),
    Case("Attention", (Q, K, V, floats(5, 7))),
    Case("Attention", (Q, K, V, floats(2, 6, 5, 7)), {"softcap": 3.0}),
    Case("Attention", (Q, K, V, MASK[..., :5]), judge=ONNX),
    Case("Attention", (Q, K, V, floats(5, 4)), judge=ONNX),
    Case("Attention", (Q, K, V, ROW_WITHOUT_KEYS), judge=ONNX),
    Case("Attention", (Q, K, V, None, *PAST), {"is_causal": 1}, outputs=3),
    Case("Attention", (Q, K, V, truths(5, 11), *PAST), outputs=3),
    Case("Attention", (Q, K, V, None, None, None, numbers(5, 7)), {"is_causal": 1}),
    Case("Attention", (Q, K, V, None, None, None, numbers(6, 3))),
    Case("Attention", (Q, K, V, None, None, None, numbers(3, 7)), {"is_causal": 1}, judge=ONNX),
    Case("Attention", (Q, K, V, floats(5, 7), None, None, numbers(6, 7)), {"is_causal": 1}, judge=ONNX),
    Case("Attention", (Q, K, V), {"left_window_size": 2, "right_window_size": 1}, judge=ONNX),
    Case(
        "Attention",
        (Q, K, V, None, None, None, numbers(6, 7)),
        {"is_causal": 1, "left_window_size": 1},
        judge=ONNX,
    ),
    *(
        Case("Attention", (Q, K, V, floats(5, 7)), {"qk_matmul_output_mode": mode, "softcap": 2.0}, 4)
        for mode in range(4)
    ),
]
FAMILIES = {
    "elementwise": ELEMENTWISE,
    "products": PRODUCTS,
    "reductions": REDUCTIONS,
    "shapes": SHAPES,
    "norms": NORMS,
    "rotations": ROTATIONS,
    "quantized": QUANTIZED,
    "casts": CASTS,
    "attention": ATTENTION,
}
CASES = [
    pytest.param(case, id=f"{case.op}-{name}{index}")
    for name, cases in FAMILIES.items()
    for index, case in enumerate(cases)
]


def build(case: Case) -> tuple[ir.Model, dict[str, Array]]:
    """The node as a model. 4-bit inputs are initialisers: numpy-based runtimes cannot be fed them."""
    builder, fed, values = GraphBuilder(), {}, []
    for index, array in enumerate(case.inputs):
        dtype = None if array is None else ir.DataType.from_numpy(np.asarray(array).dtype)
        if array is None or dtype is None:
            values.append(None)
        elif dtype in (ir.DataType.INT4, ir.DataType.UINT4):
            values.append(builder.initializer(f"i{index}", np.asarray(array)))
        else:
            fed[f"i{index}"] = np.asarray(array)
            values.append(builder.input(f"i{index}", dtype, np.asarray(array).shape))
    results = builder.nodes(
        case.op, values, case.attributes, outputs=[f"o{one}" for one in range(case.outputs)]
    )
    for value in results:
        builder.output(value)
    return builder.model(), fed


def expected(case: Case, model: ir.Model, fed: Mapping[str, Array]) -> Sequence[Array]:
    proto = onnx.shape_inference.infer_shapes(ir.to_proto(model))
    if case.judge == ONNX:
        return ReferenceEvaluator(proto).run(None, dict(fed))  # type: ignore[return-value]
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, dict(fed))  # type: ignore[no-any-return]


@pytest.mark.parametrize("case", CASES)
def test_op(case: Case) -> None:
    model, fed = build(case)
    wanted = expected(case, model, fed)
    found = ReferenceSession(model).run(fed)
    assert len(found) == len(wanted) == case.outputs
    for tensor, right in zip(found.values(), wanted, strict=True):
        agrees(tensor.numpy(), np.asarray(right))


def agrees(found: Array, right: Array) -> None:
    assert found.shape == right.shape
    if right.dtype in (ml_dtypes.int4, ml_dtypes.uint4):
        right = right.astype(np.int8 if right.dtype == ml_dtypes.int4 else np.uint8)
    assert found.dtype == right.dtype
    if right.dtype.kind == "f":
        np.testing.assert_allclose(found, right, rtol=2e-5, atol=2e-6)
    else:
        np.testing.assert_array_equal(found, right)


def test_every_op_of_the_table_has_a_case() -> None:
    assert {param.values[0].op for param in CASES} == set(OPERATORS)  # type: ignore[union-attr]


CANDIDATES = [*ATTENTION[:12], *NORMS, *ROTATIONS[:2], *PRODUCTS[:6], *ELEMENTWISE[:15]]
# onnx's evaluator computes Erf, and the root of a given scale, in float32.
PRECISE = [case for case in CANDIDATES if case.op != "Erf" and "scale" not in case.attributes]


@pytest.mark.parametrize("case", PRECISE)
def test_float64_stands_for_float32_when_asked(case: Case) -> None:
    model, fed = build(case)
    wide = {name: one.astype(np.float64) if one.dtype == np.float32 else one for name, one in fed.items()}
    double, _ = build(replace(case, inputs=tuple(wide.values())))
    wanted = expected(replace(case, judge=ONNX), double, wide)
    found = ReferenceSession(model, dtype=torch.float64).run(fed)
    for tensor, right in zip(found.values(), wanted, strict=True):
        assert tensor.dtype == torch.float64
        np.testing.assert_allclose(tensor.numpy(), right, rtol=1e-12, atol=1e-13)
