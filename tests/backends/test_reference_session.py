"""The interpreter's behaviour around the ops: functions, precision, gradients, memory, and bad input."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
import torch

from intaglio.backends.reference import ReferenceSession, session
from intaglio.compiler.errors import ModelError, OptionError, UnsupportedModelError
from intaglio.compiler.ir import (
    DOMAIN,
    GraphBuilder,
    dequantize,
    dequantize_affine,
    is_dequantized_weight,
    quantize_activation,
    swiglu,
)

FLOAT = ir.DataType.FLOAT
RANDOM = np.random.default_rng(11)


def linear(*, group: int = 32) -> ir.Model:
    """A linear layer with 4-bit codes, scales and minima, on rounded activations."""
    builder = GraphBuilder()
    x = builder.input("x", FLOAT, ["batch", 96])
    bytes_of_codes = np.random.default_rng(1).integers(0, 256, 5 * 48, dtype=np.uint8)
    packed = ir.PackedTensor(bytes_of_codes, ir.DataType.UINT4, shape=[5, 96])
    inputs = [builder.initializer("codes", packed)]
    for name in ("scale", "minimum"):
        array = np.random.default_rng(2).standard_normal((5, 3)).astype(np.float16)
        inputs.append(builder.initializer(name, array))
    weight = builder.node("DequantizeAffine", inputs, {"block_size": 32}, domain=DOMAIN, name="weight")
    turned = builder.node("Transpose", [weight], {"perm": [1, 0]}, name="turned")
    rounded = builder.node("QuantizeActivation", [x], {"group": group}, domain=DOMAIN)
    builder.output(builder.node("MatMul", [rounded, turned]), "y")
    return builder.model([dequantize_affine(), quantize_activation()])


def weight_of(model: ir.Model) -> np.ndarray:
    node = next(one for one in model.graph if one.op_type == "MatMul")
    weight = is_dequantized_weight(node.inputs[1])
    assert weight is not None
    return dequantize(weight)


def rounded(x: np.ndarray, group: int) -> np.ndarray:
    groups = x.reshape(len(x), -1, group)
    largest = np.abs(groups).max(axis=2, keepdims=True)
    return (np.rint(groups * (np.float32(127) / largest)) * (largest * np.float32(1 / 127))).reshape(x.shape)


@pytest.mark.parametrize("keep_constants", [False, True])
def test_functions_run_by_their_bodies_with_their_attributes(keep_constants: bool) -> None:
    x = RANDOM.standard_normal((3, 96)).astype(np.float32)
    for group in (32, 96):
        model = linear(group=group)
        reference = ReferenceSession(model, keep_constants=keep_constants)
        expected = rounded(x, group).astype(np.float64) @ weight_of(model).astype(np.float64).T
        for _ in range(2):
            np.testing.assert_allclose(reference.run({"x": x})["y"], expected, rtol=1e-5, atol=1e-5)


def test_nested_calls_pass_attributes_on() -> None:
    inner = quantize_activation()
    builder = GraphBuilder("Outer", constants="node")
    x = builder.input("x", FLOAT, ["batch", 12])
    passed = {"group": ir.RefAttr("group", "width", ir.AttributeType.INT)}
    builder.output(builder.node("QuantizeActivation", [x], passed, domain=DOMAIN), "result")
    outer = builder.function("Outer", integer_attributes=["width"])
    main = GraphBuilder()
    y = main.node("Outer", [main.input("x", FLOAT, [2, 12])], {"width": 4}, domain=DOMAIN)
    main.output(y, "y")
    given = RANDOM.standard_normal((2, 12)).astype(np.float32)
    result = ReferenceSession(main.model([inner, outer])).run({"x": given})["y"]
    np.testing.assert_array_equal(result, rounded(given, 4))


def test_an_attribute_that_is_not_given_takes_the_ops_default() -> None:
    body = GraphBuilder("Soft", constants="node")
    x = body.input("x", FLOAT, [3, 4])
    reference = {"axis": ir.RefAttr("axis", "axis", ir.AttributeType.INT)}
    body.output(body.node("Softmax", [x], reference), "result")
    function = body.function("Soft", integer_attributes=["axis"])
    main = GraphBuilder()
    x = main.input("x", FLOAT, [3, 4])
    for axis in ({}, {"axis": 0}):
        main.output(main.node("Soft", [x], axis, domain=DOMAIN))
    given = torch.randn(3, 4)
    last, first = ReferenceSession(main.model([function])).run({"x": given}).values()
    torch.testing.assert_close(last, torch.softmax(given, -1))
    torch.testing.assert_close(first, torch.softmax(given, 0))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_the_working_precision_stands_for_float32(dtype: torch.dtype) -> None:
    x = RANDOM.standard_normal((3, 96)).astype(np.float32)
    single = ReferenceSession(linear()).run({"x": x})["y"]
    other = ReferenceSession(linear(), dtype=dtype).run({"x": x})["y"]
    assert other.dtype == dtype
    scale = float(single.abs().max())
    error = float((other.double() - single.double()).abs().max()) / scale
    assert error < {torch.float64: 1e-6, torch.bfloat16: 0.05, torch.float16: 0.01}[dtype]


def test_gradients_of_a_float_graph_agree_with_finite_differences() -> None:
    builder = GraphBuilder()
    x = builder.input("x", FLOAT, [2, 1, 4, 6])
    cache = builder.input("cache", FLOAT, [2, 1, 9, 6])
    lengths = builder.input("lengths", ir.DataType.INT64, [2])
    scale = builder.initializer("scale", np.ones(6, np.float32))
    normal = builder.node("RMSNormalization", [x, scale])
    start = builder.node("Sub", [lengths, builder.integer(4)])
    keys = builder.node("TensorScatter", [cache, normal, start], {"axis": 2})
    inputs = [normal, keys, keys, None, None, None, lengths]
    builder.output(builder.node("Attention", inputs, {"is_causal": 1}), "y")
    reference = ReferenceSession(builder.model(), dtype=torch.float64)
    arguments = [torch.randn(*shape, dtype=torch.float64) for shape in ((2, 1, 4, 6), (2, 1, 9, 6), (6,))]
    for one in arguments:
        one.requires_grad_()

    def run(x: torch.Tensor, cache: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return reference.run({"x": x, "cache": cache, "lengths": np.array([4, 8]), "scale": scale})["y"]

    assert torch.autograd.gradcheck(run, arguments)


def test_rows_without_keys_have_finite_gradients() -> None:
    builder = GraphBuilder()
    names = ("q", "k", "v")
    q, k, v = (builder.input(name, FLOAT, [1, 1, 3, 4]) for name in names)
    lengths = builder.input("lengths", ir.DataType.INT64, [1])
    inputs = [q, k, v, None, None, None, lengths]
    builder.output(builder.node("Attention", inputs, {"is_causal": 1}), "y")
    given = {name: torch.randn(1, 1, 3, 4, requires_grad=True) for name in names}
    result = ReferenceSession(builder.model()).run({**given, "lengths": np.array([1])})["y"]
    assert torch.all(result[0, 0, :2] == 0)
    result.sum().backward()
    assert all(torch.isfinite(one.grad).all() for one in given.values() if one.grad is not None)


def test_rounding_has_zero_gradient_and_scales_have_one() -> None:
    x = torch.randn(3, 96, requires_grad=True)
    scale = torch.rand(5, 3, requires_grad=True)
    result = ReferenceSession(linear()).run({"x": x, "scale": scale})["y"]
    result.sum().backward()
    assert scale.grad is not None
    assert scale.grad.abs().min() > 0
    # Only the scale of a group, its largest element, still carries a gradient.
    assert x.grad is not None
    assert int((x.grad != 0).sum()) == 3 * 3


def test_weights_can_be_replaced_for_one_run() -> None:
    x = RANDOM.standard_normal((2, 96)).astype(np.float32)
    reference = ReferenceSession(linear())
    before = reference.run({"x": x})["y"]
    zeros = np.zeros((5, 3), np.float16)
    replaced = reference.run({"x": x, "scale": zeros, "minimum": zeros})["y"]
    assert torch.all(replaced == 0)
    torch.testing.assert_close(reference.run({"x": x})["y"], before, rtol=0, atol=0)


def test_values_are_freed_after_their_last_use(monkeypatch: pytest.MonkeyPatch) -> None:
    builder = GraphBuilder()
    value = builder.input("x", FLOAT, [7])
    for _ in range(6):
        value = builder.node("Neg", [value])
    builder.output(value, "y")
    alive, most = weakref.WeakSet[torch.Tensor](), 0
    compute = ReferenceSession._compute

    def watched(self: ReferenceSession, *arguments: object) -> tuple[torch.Tensor, ...]:
        nonlocal most
        results = compute(self, *arguments)  # type: ignore[arg-type]
        alive.update(results)
        gc.collect()
        most = max(most, len(alive))
        return results

    monkeypatch.setattr(session.ReferenceSession, "_compute", watched)
    ReferenceSession(builder.model()).run({"x": np.ones(7, np.float32)})
    assert most == 2


def test_kept_constants_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str | None] = []
    read = session.to_torch

    def counted(tensor: ir.TensorProtocol, working: torch.dtype) -> torch.Tensor:
        reads.append(tensor.name)
        return read(tensor, working)

    monkeypatch.setattr(session, "to_torch", counted)
    x = {"x": RANDOM.standard_normal((2, 96)).astype(np.float32)}
    forgetful, keeping = ReferenceSession(linear()), ReferenceSession(linear(), keep_constants=True)
    for reference, expected in ((forgetful, 6), (keeping, 3)):
        reads.clear()
        first, second = reference.run(x)["y"], reference.run(x)["y"]
        assert len(reads) == expected
        assert torch.equal(first, second)


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float64, np.float32])
def test_stored_float_types(dtype: type) -> None:
    array = RANDOM.standard_normal((3, 5)).astype(dtype)
    builder = GraphBuilder()
    weight = builder.node("Cast", [builder.initializer("weight", array)], {"to": int(FLOAT)})
    builder.output(builder.node("Mul", [builder.input("x", FLOAT, [3, 5]), weight]), "y")
    result = ReferenceSession(builder.model()).run({"x": np.ones((3, 5), np.float32)})["y"]
    np.testing.assert_array_equal(result, array.astype(np.float32))


def test_read_only_memory_is_not_written_to() -> None:
    array = np.frombuffer(np.arange(4, dtype=np.float32).tobytes(), np.float32)
    builder = GraphBuilder()
    stored = builder.initializer("stored", array)
    builder.output(builder.node("Add", [builder.input("x", FLOAT, [4]), stored]), "y")
    result = ReferenceSession(builder.model()).run({"x": np.ones(4, np.float32)})["y"]
    assert result.tolist() == [1, 2, 3, 4]


def test_everything_unsupported_is_listed_at_once() -> None:
    builder = GraphBuilder()
    x = builder.input("x", FLOAT, [1, 1, 4, 4])
    builder.input("text", ir.DataType.STRING, [1])
    pooled = builder.node("MaxPool", [x], {"kernel_shape": [2, 2]}, name="features.pool")
    foreign = builder.node("Mystery", [pooled], domain="vendor", name="features.mystery")
    soft = builder.node("Softmax", [foreign], {"axis": 1, "temperature": 2.0}, name="head.softmax")
    narrow = builder.node("Cast", [soft], {"to": int(ir.DataType.FLOAT8E4M3FN)}, name="head.narrow")
    builder.output(narrow)
    body = GraphBuilder("Body", constants="node")
    body.output(body.node("Einsum", [body.input("x", FLOAT, [3])], {"equation": "i->i"}, name="sum"))
    with pytest.raises(UnsupportedModelError) as caught:
        ReferenceSession(builder.model([body.function("Body")]))
    assert caught.value.problems == (
        "graph: 'text' is of element type STRING",
        "graph: op MaxPool at 'features.pool'",
        "graph: op vendor.Mystery at 'features.mystery'",
        "graph: Softmax at 'head.softmax': attribute 'temperature'",
        "graph: Cast at 'head.narrow': to=FLOAT8E4M3FN",
        "function Body: op Einsum at 'sum'",
    )


def test_codes_of_an_undeclared_type_are_refused() -> None:
    body = GraphBuilder("Round", constants="node")
    values = [ir.Value(name=name) for name in ("x", "scale", "zero")]
    body.graph.inputs.extend(values)
    body.output(body.node("QuantizeLinear", values, name="codes"), "result")
    main = GraphBuilder()
    main.output(main.input("x", FLOAT, [3]))
    with pytest.raises(UnsupportedModelError, match="QuantizeLinear at 'codes': the type of the codes"):
        ReferenceSession(main.model([body.function("Round")]))


BAD_INPUTS: list[tuple[dict[str, np.ndarray], str]] = [
    ({}, "input 'x' is missing"),
    ({"x": np.ones((2, 96), np.float32), "y": np.ones(1)}, "'y' is not an input"),
    ({"x": np.ones((2, 95), np.float32)}, r"'x' has shape \[2, 95\]"),
    ({"x": np.ones(96, np.float32)}, r"'x' has shape \[96\]"),
    ({"x": np.ones((2, 96), np.float32), "scale": np.ones((5, 2), np.float16)}, "'scale' has shape"),
]


@pytest.mark.parametrize(("inputs", "message"), BAD_INPUTS)
def test_bad_inputs_are_named(inputs: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        ReferenceSession(linear()).run(inputs)


def test_sizes_of_one_name_must_agree() -> None:
    builder = GraphBuilder()
    values = [builder.input(name, FLOAT, ["batch", "length"]) for name in ("a", "b")]
    builder.output(builder.node("Add", values))
    given = {"a": np.ones((1, 3), np.float32), "b": np.ones((2, 3), np.float32)}
    with pytest.raises(OptionError, match="'batch' is 1 in 'a' and 2 in 'b'"):
        ReferenceSession(builder.model()).run(given)


def test_kept_weights_cannot_be_replaced() -> None:
    inputs = {"x": np.ones((2, 96), np.float32), "scale": np.ones((5, 3), np.float16)}
    with pytest.raises(OptionError, match="'scale' is not an input"):
        ReferenceSession(linear(), keep_constants=True).run(inputs)


def test_an_integer_precision_is_refused() -> None:
    with pytest.raises(OptionError, match=r"torch\.int32 is not a float type"):
        ReferenceSession(linear(), dtype=torch.int32)


def failing(op: str, *shapes: list[int], **attributes: int) -> Callable[[], object]:
    builder = GraphBuilder()
    inputs = [builder.input(f"i{index}", FLOAT, shape) for index, shape in enumerate(shapes)]
    builder.output(builder.node(op, inputs, attributes, name="layers.3.broken"))
    given = {f"i{index}": np.ones(shape, np.float32) for index, shape in enumerate(shapes)}
    return lambda: ReferenceSession(builder.model()).run(given)


@pytest.mark.parametrize(
    "run",
    [
        failing("MatMul", [2, 3], [4, 5]),
        failing("Add", [3]),
        failing("TensorScatter", [1, 4, 2], [1, 5, 2]),
        failing("Attention", [1, 4, 6], [1, 4, 6], [1, 4, 6], q_num_heads=4, kv_num_heads=3),
        failing("Attention", [1, 4, 6], [1, 4, 6], [1, 4, 6]),
    ],
    ids=["shapes", "missing input", "cache too short", "heads", "no heads"],
)
def test_a_failing_node_is_named_with_its_inputs(run: Callable[[], object]) -> None:
    with pytest.raises(
        ModelError, match=r"\[reference\] \w+ 'layers\.3\.broken' failed on \['torch\.float32"
    ):
        run()


def test_a_graph_out_of_order_is_named() -> None:
    builder = GraphBuilder()
    x = builder.input("x", FLOAT, [3])
    later = ir.Value(name="later")
    builder.output(builder.node("Add", [x, later]))
    builder.graph.append(ir.Node("", "Neg", [x], outputs=[later], name="negation"))
    with pytest.raises(ModelError, match="'later' is used before anything gives it a value"):
        ReferenceSession(builder.model()).run({"x": np.ones(3, np.float32)})


def test_the_model_is_left_as_it_was() -> None:
    model = linear()
    before = str(model)
    ReferenceSession(model, keep_constants=True).run({"x": np.ones((1, 96), np.float32)})
    assert str(model) == before
    assert swiglu().identifier() not in model.functions
