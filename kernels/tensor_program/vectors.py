"""Sixteen neighbours along an axis, as float32: from memory of any element and stride, and back."""

from __future__ import annotations

from tvm.tirx.script.builder import ir as T

from intaglio.kernels import tir
from intaglio.kernels.tir import LANES, Expression


def read(buffer: Expression, at: Expression, stride: int, count: int = LANES) -> Expression:
    """`count` elements from `at` on; the lanes after them are zero."""
    element = str(buffer.dtype)
    if stride == 0:
        return tir.bind(tir.spread(tir.bind(buffer[at].astype("float32"))))
    if stride == 1 and count == LANES:
        loaded = tir.load(buffer, [at])
        return tir.bind(loaded if element == "float32" else loaded.astype(f"float32x{LANES}"))
    some = tir.local((LANES,))
    tir.store(some, [0], tir.zeros())
    with T.serial(count) as lane:
        value = buffer[at + lane * tir.int32(stride)]
        tir.store(some, [lane], value if element == "float32" else value.astype("float32"))
    return tir.bind(tir.load(some, [0]))


def write(buffer: Expression, at: Expression, stride: int, value: Expression, count: int = LANES) -> None:
    """The first `count` lanes of `value` to `at` and on."""
    element = str(buffer.dtype)
    if stride == 1 and count == LANES:
        tir.store(buffer, [at], value if element == "float32" else value.astype(f"{element}x{LANES}"))
        return
    some = tir.local((LANES,))
    tir.store(some, [0], value)
    with T.serial(count) as lane:
        one = some[lane]
        tir.store(
            buffer, [at + lane * tir.int32(stride)], one if element == "float32" else one.astype(element)
        )
