"""Every block format keeps the file's own bits: dequantised, they are the gguf package's numbers exactly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from intaglio.compiler.frontends.gguf.blocks import BLOCK_FORMATS
from intaglio.compiler.frontends.gguf.rotary import half_split_order
from intaglio.compiler.frontends.gguf.types import TENSOR_TYPES
from intaglio.compiler.frontends.tracing import trace

EXTREME_HALVES = np.array([0, -0.0, 6e-8, -6e-5, 65504, -65504, np.inf, -np.inf, np.nan, 1, 0.1], np.float16)
HALVES_AT = {
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
    "Q4_1": (0, 2),
    "Q5_1": (0, 2),
}
SIZES = {one.name: one for one in TENSOR_TYPES.values()}


def dequantised(name: str, raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Codes, scale and minimum put together in float32, as the dequantising ops do it."""
    layout = BLOCK_FORMATS[name]
    codes, scale = layout.codes(raw), layout.scale(raw).astype(np.float32)
    if layout.code_type.bitwidth == 4:
        shape = [raw.shape[0], 2 * codes.shape[1]]
        codes = ir.PackedTensor(codes.reshape(-1), layout.code_type, shape=shape).numpy()
    weight: NDArray[np.float32] = codes.astype(np.float32) * np.repeat(scale, layout.group, axis=1)
    if layout.minimum is None:
        return weight
    return weight + np.repeat(layout.minimum(raw).astype(np.float32), layout.group, axis=1)


def random_blocks(name: str, rows: int, blocks: int) -> NDArray[np.uint8]:
    return np.random.default_rng(3).integers(0, 256, (rows, blocks, SIZES[name].size), dtype=np.uint8)


def expected(name: str, raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    kind = gguf.GGMLQuantizationType[name]
    weight: NDArray[np.float32] = gguf.quants.dequantize(raw.reshape(raw.shape[0], -1), kind)
    return weight


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("name", BLOCK_FORMATS)
def test_random_bits_are_decoded_exactly(name: str) -> None:
    raw = random_blocks(name, 7, 5)

    np.testing.assert_array_equal(dequantised(name, raw), expected(name, raw))


@pytest.mark.filterwarnings("ignore:invalid value", "ignore:overflow")
@pytest.mark.parametrize("name", BLOCK_FORMATS)
def test_extreme_scales_and_minima_are_decoded_exactly(name: str) -> None:
    count = len(EXTREME_HALVES)
    raw = random_blocks(name, count, count)
    for index, start in enumerate(HALVES_AT.get(name, (0,))):
        halves = EXTREME_HALVES if index else EXTREME_HALVES[:, None]
        both = np.broadcast_to(halves, (count, count)).copy()
        raw[..., start : start + 2] = both[..., None].view(np.uint8)

    np.testing.assert_array_equal(dequantised(name, raw), expected(name, raw))


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_each_code_stands_where_it_belongs(name: str) -> None:
    ramp = np.linspace(-3, 5, 4 * 64, dtype=np.float32).reshape(4, 64)
    raw = gguf.quants.quantize(ramp, gguf.GGMLQuantizationType[name]).reshape(4, 2, -1)

    decoded = dequantised(name, raw)

    assert np.abs(decoded - ramp).max() < 0.5
    np.testing.assert_array_equal(decoded, expected(name, raw))


def test_half_split_order_undoes_the_converters_order() -> None:
    model = np.arange(2 * 8)
    stored = model.reshape(2, 2, 4).swapaxes(1, 2).reshape(-1)

    assert stored[:4].tolist() == [0, 4, 1, 5]
    np.testing.assert_array_equal(stored[half_split_order(2, 8)], model)


def test_query_rows_are_reordered_in_codes_scales_and_minima(tiny_gguf: Callable[..., Path]) -> None:
    path = tiny_gguf(quantization="Q4_1")
    stored = {one.name: one for one in gguf.GGUFReader(path).tensors}["blk.0.attn_q.weight"]
    raw = stored.data.reshape(64, 2, 20)[half_split_order(4, 16)]
    values = trace(path).model.graph.initializers

    codes, scale, minimum = (
        values[f"layers.0.self_attn.q_proj.weight.{part}"].const_value
        for part in ("codes", "scale", "minimum")
    )

    assert codes is not None
    assert scale is not None
    assert minimum is not None
    assert codes.tobytes() == BLOCK_FORMATS["Q4_1"].codes(raw).tobytes()
    np.testing.assert_array_equal(scale.numpy(), raw[..., 0:2].copy().view(np.float16)[..., 0])
    np.testing.assert_array_equal(minimum.numpy(), raw[..., 2:4].copy().view(np.float16)[..., 0])


def test_four_bit_codes_are_packed_low_bits_first(tiny_gguf: Callable[..., Path]) -> None:
    values = trace(tiny_gguf(quantization="Q4_0")).model.graph.initializers

    codes = values["layers.0.mlp.down_proj.weight.codes"].const_value

    assert codes is not None
    unpacked = codes.numpy().astype(np.int8)
    packed = np.frombuffer(codes.tobytes(), np.uint8)
    assert unpacked.shape == (64, 96)
    assert packed.size == 64 * 96 // 2
    np.testing.assert_array_equal(packed & 15, unpacked.reshape(-1)[0::2] & 15)
    np.testing.assert_array_equal(packed >> 4, unpacked.reshape(-1)[1::2] & 15)


def test_tensors_are_decoded_anew_each_time_and_not_kept(tiny_gguf: Callable[..., Path]) -> None:
    tensor = trace(tiny_gguf()).model.graph.initializers["embed_tokens.weight.codes"].const_value

    assert isinstance(tensor, ir.LazyTensor)
    assert tensor.numpy() is not tensor.numpy()
    np.testing.assert_array_equal(tensor.numpy(), tensor.numpy())
