"""The cache's layouts in numpy: see `storage`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from intaglio.kernels.attention.heads import Heads
from intaglio.kernels.attention.reference import Array
from intaglio.kernels.tir import LANES

RELATIVE_STEP = {"fp32": 2.0**-24, "fp16": 2.0**-11, "bf16": 2.0**-8}  # half the distance of neighbours
Buffers = Mapping[str, NDArray[np.generic]]


def round_cached(x: Array, cache: str) -> Array:
    """What becomes of keys or values `[heads, positions, head_dim]` that are stored as `cache`."""
    if cache == "int8":
        codes, scales = _codes(x)
        return codes * scales[..., None].astype(np.float64)
    single = x.astype(np.float32)
    if cache == "bf16":
        return (_bfloat16(single).astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return single.astype(np.float16 if cache == "fp16" else np.float32).astype(np.float64)


def pack_cache(keys: Array, values: Array, heads: Heads) -> dict[str, NDArray[np.generic]]:
    """Keys and values `[kv_heads, capacity, head_dim]` as the kernels keep them, by names of pointers."""
    numbers, scales = zip(*(_stored(one, heads.cache) for one in (keys, values)), strict=True)
    padded = np.pad(numbers[0], ((0, 0), (0, 0), (0, heads.key_words * heads.unit - heads.head_dim)))
    words = padded.reshape(heads.kv_heads, -1, LANES, heads.key_words, heads.unit).swapaxes(2, 3)
    rows = numbers[1].reshape(heads.kv_heads, -1, heads.unit, heads.head_dim).swapaxes(2, 3)
    packed = {
        "keys": np.ascontiguousarray(words).view(heads.word),
        "values": np.ascontiguousarray(rows).view(heads.word),
    }
    return packed | ({"key_scales": scales[0], "value_scales": scales[1]} if heads.scaled else {})


def unpack_cache(buffers: Buffers, heads: Heads) -> tuple[Array, Array]:
    """Keys and values `[kv_heads, capacity, head_dim]` of a cache as the kernels keep it."""
    words = _numbers(buffers["keys"], heads).reshape(heads.kv_heads, -1, heads.key_words, LANES, heads.unit)
    rows = _numbers(buffers["values"], heads).reshape(heads.kv_heads, -1, heads.head_dim, heads.unit)
    shape = (heads.kv_heads, heads.capacity, -1)
    keys: Array = words.swapaxes(2, 3).reshape(shape)[..., : heads.head_dim]
    values: Array = rows.swapaxes(2, 3).reshape(shape)
    if not heads.scaled:
        return keys, values
    key_scales, value_scales = (
        buffers[name].reshape(shape).astype(np.float64) for name in ("key_scales", "value_scales")
    )
    return keys * key_scales, values * value_scales


def _stored(x: Array, cache: str) -> tuple[NDArray[np.generic], NDArray[np.float32]]:
    if cache == "int8":
        codes, scales = _codes(x)
        return (codes + 128).astype(np.uint8), scales
    single, none = x.astype(np.float32), np.empty(0, np.float32)
    return (_bfloat16(single) if cache == "bf16" else single.astype(_dtype(cache))), none


def _dtype(cache: str) -> type[np.floating]:
    return np.float16 if cache == "fp16" else np.float32


def _codes(x: Array) -> tuple[Array, NDArray[np.float32]]:
    """As `intaglio.QuantizeActivation` rounds heads."""
    single = x.astype(np.float32)
    largest = np.abs(single).max(axis=-1)
    inverse = np.float32(127) / np.where(largest == 0, np.float32(1), largest)
    return np.rint(single * inverse[..., None]).astype(np.float64), largest * np.float32(1 / 127)


def _bfloat16(x: NDArray[np.float32]) -> NDArray[np.uint16]:
    """To the nearest, halves to even."""
    bits = x.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _numbers(words: NDArray[np.generic], heads: Heads) -> Array:
    flat = np.ascontiguousarray(words).reshape(-1)
    if heads.cache == "int8":
        return flat.view(np.uint8).astype(np.float64) - 128
    if heads.cache == "bf16":
        return (flat.view(np.uint16).astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return flat.astype(np.float64)
