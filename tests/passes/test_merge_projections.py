"""Merged projections: exact in every format, lazy, and declined where formats differ."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from intaglio.passes.linears import find_linears
from intaglio.passes.normalize.merge_projections import MergeProjections
from intaglio.passes.tensors import join_rows, pack_codes

GATE_UP = """g (float[b, s, {k}] x) => (float[b, s, 3] gate_proj, float[b, s, 5] up_proj) {{
  {gate}  gt = Transpose<perm = [1, 0]>(gw)  gate_proj = MatMul(x, gt)
  {up}  ut = Transpose<perm = [1, 0]>(uw)  up_proj = MatMul({x}, ut)
}}"""
CHAINS = {
    "float": "{0}w = Identity({0}c)",
    "half": "{0}w = Cast<to = 1>({0}c)",
    "blocks": "{0}f = Cast<to = 1>({0}s)  {0}w = DequantizeLinear<axis = 1, block_size = 4>({0}c, {0}f)",
    "zero points": "{0}f = Cast<to = 1>({0}s) "
    "{0}w = DequantizeLinear<axis = 1, block_size = 4>({0}c, {0}f, {0}z)",
    "minima": "{0}w = intaglio.DequantizeAffine<block_size = 4>({0}c, {0}s, {0}m)",
}


def weights(kind: str, letter: str, rows: int, columns: int = 8) -> dict[str, object]:
    random = np.random.default_rng(rows)
    half = random.uniform(0.1, 1, (2, rows, columns // 4)).astype(np.float16)
    codes = random.integers(0, 16, (rows, columns))
    stored: dict[str, object] = {
        "float": random.standard_normal((rows, columns), np.float32),
        "half": random.standard_normal((rows, columns)).astype(np.float16),
        "blocks": (codes * 8).astype(np.int8),
        "zero points": pack_codes(codes, ir.DataType.UINT4),
        "minima": pack_codes(codes, ir.DataType.UINT4),
    }
    parts = {"c": stored[kind], "s": half[0], "m": half[1], "z": pack_codes(codes[:, :2], ir.DataType.UINT4)}
    return {
        f"{letter}{part}": one
        for part, one in parts.items()
        if f"{letter}{part}" in CHAINS[kind].format(letter)
    }


def gate_and_up(parse: Callable[..., ir.Model], kind: str = "minima", other: str | None = None) -> ir.Model:
    gate, up = CHAINS[kind].format("g"), CHAINS[other or kind].format("u")
    text = GATE_UP.format(k=8, gate=gate, up=up, x="x")
    if kind == "float":
        text = (
            text.replace("gw = Identity(gc)", "")
            .replace("uw = Identity(uc)", "")
            .replace("gw", "gc")
            .replace("uw", "uc")
        )
    return parse(text, **weights(kind, "g", 3), **weights(other or kind, "u", 5))


@pytest.mark.parametrize("kind", CHAINS)
def test_a_merged_layer_gives_the_same_bits(
    parse: Callable[..., ir.Model], run: Callable[..., dict[str, np.ndarray]], kind: str
) -> None:
    x = np.random.default_rng(0).standard_normal((1, 2, 8), np.float32)
    model = gate_and_up(parse, kind)
    before = [one.weight.numpy() for one in find_linears(model)]
    expected = run(model, x=x)
    result = MergeProjections(expected=1)(model)
    (merged,) = find_linears(model)
    assert (merged.site, result.declined) == ("gate_up_proj", ())
    assert merged.weight.format in result.applied[0].detail
    np.testing.assert_array_equal(merged.weight.numpy(), np.concatenate(before))
    for name, one in run(model, x=x).items():
        np.testing.assert_allclose(one, expected[name], rtol=1e-6, atol=1e-6)


def test_the_graph_after_merging(
    parse: Callable[..., ir.Model], lines: Callable[[ir.Model], list[str]]
) -> None:
    model = gate_and_up(parse)
    MergeProjections()(model)
    name = "gate_up_proj"
    stored = ", ".join(f"{name}.weight.{part}" for part in ("codes", "scale", "minimum"))
    assert lines(model) == [
        f"{name}.weight = intaglio.DequantizeAffine({stored}) block_size=4",
        f"{name}.transposed = Transpose({name}.weight) perm=[1, 0]",
        f"{name} = MatMul(x, {name}.transposed)",
        f"gate_proj, up_proj = Split({name}, constant.int64.2[3,5]) axis=-1",
    ]


def test_different_formats_are_declined(
    parse: Callable[..., ir.Model], lines: Callable[[ir.Model], list[str]]
) -> None:
    model = gate_and_up(parse, "minima", "blocks")
    before = lines(model)
    result = MergeProjections(expected=1)(model)
    assert lines(model) == before
    assert result.declined[0].reason == "expected 1 merged layers, found 0"
    assert "up_proj is stored as symmetric int8" in result.declined[1].reason


def test_different_inputs_are_declined(parse: Callable[..., ir.Model]) -> None:
    result = MergeProjections()(_two_inputs(parse))
    assert "read different inputs" in result.declined[0].reason


def _two_inputs(parse: Callable[..., ir.Model]) -> ir.Model:
    text = GATE_UP.format(k=8, gate=CHAINS["half"].format("g"), up=CHAINS["half"].format("u"), x="x2")
    text = text.replace("x)", "x, float[b, s, 8] x2)", 1)
    return parse(text, **weights("half", "g", 3), **weights("half", "u", 5))


def test_a_layer_without_all_its_siblings_is_left(
    parse: Callable[..., ir.Model], lines: Callable[[ir.Model], list[str]]
) -> None:
    model = gate_and_up(parse)
    result = MergeProjections(groups={"qkv_proj": ("q_proj", "k_proj", "v_proj")})(model)
    assert (result.applied, result.declined) == ((), ())


@pytest.mark.parametrize("rows", [(2, 3, 4), (1, 1, 1), (3, 2, 1)])
@pytest.mark.parametrize("columns", [4, 5])
@pytest.mark.parametrize("dtype", [ir.DataType.UINT4, ir.DataType.INT4, ir.DataType.INT8])
def test_joined_codes_are_exact_also_where_bytes_are_shared(
    rows: tuple[int, ...], columns: int, dtype: ir.DataType
) -> None:
    random = np.random.default_rng(0)
    low = -8 if dtype in (ir.DataType.INT4, ir.DataType.INT8) else 0
    parts = [random.integers(low, low + 16, (one, columns)) for one in rows]
    joined = join_rows([pack_codes(one, dtype) for one in parts])
    whole = pack_codes(np.concatenate(parts), dtype)
    assert joined.shape == whole.shape
    assert joined.tobytes() == whole.tobytes()
    np.testing.assert_array_equal(joined.numpy().astype(int), np.concatenate(parts))


def test_joining_is_lazy_and_retains_nothing() -> None:
    reads = []

    def read(index: int) -> ir.LazyTensor:
        def load() -> ir.TensorProtocol:
            reads.append(index)
            return pack_codes(np.full((2, 4), index), ir.DataType.UINT4)

        return ir.LazyTensor(load, ir.DataType.UINT4, ir.Shape([2, 4]))

    joined = join_rows([read(1), read(2)])
    assert reads == []
    assert joined.tobytes() == joined.tobytes()
    assert sorted(reads) == [1, 1, 2, 2]
