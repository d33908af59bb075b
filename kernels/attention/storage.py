"""What keys and values look like in the cache, and how kernels read and write them.

All types share one order: a vector of keys holds some components of 16 positions, so that the scores of 16
positions are sums of vectors times scalars and need no horizontal additions; a vector of values holds 16
components of some positions, so that outputs are sums of vectors times scalars, too. `unit` numbers share a
word of 32 bits: neighbouring components of a key, neighbouring positions of a value. With `words = head_dim /
unit`, rounded up:

    type  unit  keys                                    values
    fp32  1     float32 [kv_heads, capacity/16, words, 16]  float32 [kv_heads, capacity, head_dim]
    fp16  1     float16, the same                           float16, the same
    bf16  2     int32, the same; first half lowest          int32 [kv_heads, capacity/2, head_dim]
    int8  4     int32, the same; first byte lowest          int32 [kv_heads, capacity/4, head_dim]

bf16 pairs are what `tir.dot2` takes. An int8 byte is a code plus 128, as `tir.dot4` takes it; what it stands
for is `(byte - 128) · scale`, with scales float32 `[kv_heads, capacity]` for keys and values each.

A cache of several sequences has one after another: `kv_head` may be `sequence · kv_heads + kv_head`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from intaglio.kernels import tir
from intaglio.kernels.attention.components import Components
from intaglio.kernels.attention.heads import Heads
from intaglio.kernels.tir import LANES, Expression, KernelFrame, tirx

Read = Callable[[int, int], Expression]  # (first component, lanes) → float32 vector


class Storage(ABC):
    """Keys and values of a layer in memory."""

    def __init__(self, heads: Heads, frame: KernelFrame) -> None:
        self.heads = heads
        blocks, rows = heads.capacity // LANES, heads.capacity // heads.unit
        shape = (heads.kv_heads, blocks, heads.key_words, LANES)
        self.keys = frame.buffer("keys", shape, heads.word)
        self.values = frame.buffer("values", (heads.kv_heads, rows, heads.head_dim), heads.word)

    @abstractmethod
    def split(self, words: Expression, lanes: int) -> list[Expression]:
        """The `unit` float32 vectors in a vector of words: numbers, or codes without their scale."""

    @abstractmethod
    def append_key(self, kv_head: Expression, position: Expression, key: Components) -> None:
        """Store a key, rounded."""

    @abstractmethod
    def append_value(self, kv_head: Expression, position: Expression, read: Read) -> None:
        """Store a value, rounded. Positions after it in the same word become zero."""

    def key_scales(self, _kv_head: Expression, _first: Expression) -> Expression | None:
        """A float32x16 by which scores of 16 positions from `first` on, a multiple of 16, are multiplied."""
        return None

    def value_scales(self, _kv_head: Expression, _first: Expression) -> Expression | None:
        """A float32x16 by which the weights of 16 positions are multiplied, as `key_scales`."""
        return None

    def key_word(self, kv_head: Expression, block: Expression, word: Expression) -> Expression:
        """Word `word` of 16 positions' keys."""
        return tir.load(self.keys, [kv_head, block, word, 0])

    def value_word(self, kv_head: Expression, row: Expression, first: int, lanes: int) -> Expression:
        """Components from `first` on of the `unit` positions of `row`."""
        return tir.load(self.values, [kv_head, row, first], lanes)

    def prefetch_key(self, kv_head: Expression, block: Expression, word: Expression) -> None:
        """Ask for the cache line of a word."""
        tir.prefetch(self.keys, [kv_head, block, word, 0])

    def prefetch_value(self, kv_head: Expression, row: Expression, first: int) -> None:
        """Ask for the cache line of a component."""
        tir.prefetch(self.values, [kv_head, row, first])

    def key_vectors(self, kv_head: Expression, block: Expression, word: Expression) -> list[Expression]:
        """Components `word · unit + 0, 1, …` of a block's 16 positions; see `split`."""
        words = tir.bind(self.key_word(kv_head, block, word))
        return [tir.bind(one) for one in self.split(words, LANES)]

    def value_vectors(self, kv_head: Expression, row: Expression, first: int, lanes: int) -> list[Expression]:
        """Components from `first` on of the positions `row · unit + 0, 1, …`; see `split`."""
        words = tir.bind(self.value_word(kv_head, row, first, lanes))
        return [tir.bind(one) for one in self.split(words, lanes)]


class FloatStorage(Storage):
    """float32 or float16, a number a word."""

    def split(self, words: Expression, lanes: int) -> list[Expression]:
        """The numbers."""
        return [_cast(words, "float32", lanes)]

    def append_key(self, kv_head: Expression, position: Expression, key: Components) -> None:
        """Store a key."""
        block, lane = tirx.floordiv(position, LANES), tirx.floormod(position, LANES)
        key.each(
            lambda at, value: tir.store(self.keys, [kv_head, block, at, lane], _cast(value, self.heads.word))
        )

    def append_value(self, kv_head: Expression, position: Expression, read: Read) -> None:
        """Store a value."""
        lanes = self.heads.lanes
        for first in range(0, self.heads.head_dim, lanes):
            value = _cast(read(first, lanes), self.heads.word, lanes)
            tir.store(self.values, [kv_head, position, first], value)


def _cast(value: Expression, dtype: str, lanes: int = 1) -> Expression:
    return value.astype(f"{dtype}x{lanes}" if lanes > 1 else dtype)
