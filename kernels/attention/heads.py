"""The sizes and options of an attention layer, as its kernels take them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from intaglio.kernels.tir import LANES

BLOCK = 64  # positions: capacities are multiples of it, so that kernels may read whole blocks
CACHES = ("fp32", "fp16", "bf16", "int8")
_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}
_WORDS = {"fp32": ("float32", 1), "fp16": ("float16", 1), "bf16": ("int32", 2), "int8": ("int32", 4)}


@dataclass(frozen=True)
class Heads:
    """The sizes of an attention layer and of its cache, and how scores are made.

    In this order: the bias is added to q, k and v; heads of q and k are normalised; they are rotated; scores
    are scaled, capped and masked. Options bring pointers of their own: see `cache_pointers`.
    """

    heads: int
    kv_heads: int
    head_dim: int  # even, of keys and values alike
    capacity: int  # positions, a multiple of BLOCK
    stride: int  # floats between the rows of the joint q, k, v projection
    scale: float | None = None  # of scores; None: 1/√head_dim
    softcap: float = 0.0  # scores become softcap · tanh(scores / softcap); 0: they stay
    window: int = -1  # a token sees itself and so many positions before it; -1: all
    rotary_dim: int | None = None  # leading components of a head that are rotated; None: all; 0: no tables
    interleaved: bool = False  # rotation pairs neighbours, as GPT-J does; otherwise the i-th of each half
    bias: bool = False  # of the projection
    query_norm: float | None = None  # epsilon of an RMS norm over each query head; None: no norm
    key_norm: float | None = None  # the same for key heads
    own: bool = False  # in decoding every worker has a projection of its own, as row `worker`
    cache: str = "fp32"  # one of CACHES: how keys and values are stored; see `storage`

    @property
    def repeat(self) -> int:
        """Query heads per key head."""
        return self.heads // self.kv_heads

    @property
    def lanes(self) -> int:
        """Vector width for a head's components."""
        return math.gcd(LANES, self.head_dim)

    @property
    def vectors(self) -> int:
        """Vectors of a head."""
        return self.head_dim // self.lanes

    @property
    def rotated(self) -> int:
        """Components of a head that are rotated."""
        return self.head_dim if self.rotary_dim is None else self.rotary_dim

    @property
    def half_lanes(self) -> int:
        """Vector width for half the rotated components."""
        return math.gcd(LANES, self.rotated // 2)

    @property
    def rest_lanes(self) -> int:
        """Vector width for the components after the rotated ones."""
        return math.gcd(self.lanes, self.rotated)

    @property
    def score_scale(self) -> float:
        """What products of queries and keys are multiplied by."""
        return self.head_dim**-0.5 if self.scale is None else self.scale

    @property
    def key_offset(self) -> int:
        """First key in a row of the projection."""
        return self.heads * self.head_dim

    @property
    def value_offset(self) -> int:
        """First value in a row of the projection."""
        return (self.heads + self.kv_heads) * self.head_dim

    @property
    def word(self) -> str:
        """The type of the cache's elements."""
        return _WORDS[self.cache][0]

    @property
    def unit(self) -> int:
        """Numbers in a word of the cache: components of a key, positions of a value's component."""
        return _WORDS[self.cache][1]

    @property
    def key_words(self) -> int:
        """Words of a key; the last one may be padded by zeros."""
        return -(-self.head_dim // self.unit)

    @property
    def scaled(self) -> bool:
        """Whether the cache holds codes with a scale for each head and position."""
        return self.cache == "int8"

    @property
    def cache_bytes(self) -> dict[str, int]:
        """Sizes of one sequence's cache by the names of its pointers."""
        rows, word = self.kv_heads * self.capacity, _BYTES[self.cache] * self.unit
        sizes = {"keys": rows * self.key_words * word, "values": rows * self.head_dim * word // self.unit}
        return sizes | ({"key_scales": 4 * rows, "value_scales": 4 * rows} if self.scaled else {})

    @property
    def storage_pointers(self) -> dict[str, str]:
        """The cache itself, in order: keys, values, and their scales where there are any."""
        return {name: "float32" if "scales" in name else self.word for name in self.cache_bytes}

    @property
    def cache_pointers(self) -> dict[str, str]:
        """What preparing queries and filling the cache reads and writes, in order.

        cosines, sines `[capacity, rotated / 2]` if anything is rotated; `storage_pointers`; bias `[stride]`;
        query_norm and key_norm `[head_dim]`: all float32 but for the cache.
        """
        tables = ("cosines", "sines") if self.rotated else ()
        present = {
            "bias": self.bias,
            "query_norm": self.query_norm is not None,
            "key_norm": self.key_norm is not None,
        }
        rest = [name for name, needed in present.items() if needed]
        return dict.fromkeys(tables, "float32") | self.storage_pointers | dict.fromkeys(rest, "float32")
