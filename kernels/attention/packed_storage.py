"""Caches of which a word holds several numbers: bfloat16 in pairs, bytes in fours."""

from __future__ import annotations

import functools
import operator
from abc import abstractmethod

from tvm.tirx.script.builder import ir as T

from intaglio.kernels import tir
from intaglio.kernels.attention.components import Components
from intaglio.kernels.attention.heads import Heads
from intaglio.kernels.attention.storage import FloatStorage, Read, Storage
from intaglio.kernels.tir import LANES, Expression, KernelFrame, tirx

OFFSET = 128  # between a byte and the code that it stands for


def storage_of(heads: Heads, frame: KernelFrame) -> Storage:
    """The cache of `heads`, whose pointers are `Heads.storage_pointers`."""
    kinds: dict[str, type[Storage]] = {"bf16": PairStorage, "int8": ByteStorage}
    return kinds.get(heads.cache, FloatStorage)(heads, frame)


class PackedStorage(Storage):
    """Whole words are written, one number of which is new."""

    @property
    def bits(self) -> int:
        """Bits of a number."""
        return 32 // self.heads.unit

    @abstractmethod
    def encode(self, vector: Expression, lanes: int, inverse: Expression | None) -> Expression:
        """float32 numbers as stored, in the lowest bits of int32 lanes; `inverse` as from `scale`."""

    def scale(self, _parts: list[Expression], _scales: str, _at: list[Expression]) -> Expression | None:
        """Store the scale of a head's vectors, and return what its numbers are multiplied by."""
        return None

    def append_key(self, kv_head: Expression, position: Expression, key: Components) -> None:
        """Store a key; what its last word has room for beside it is zero."""
        lanes, unit = self.heads.lanes, self.heads.unit
        # LLVM 22 makes invalid code of narrow vectors that are joined before they are cast.
        key.keep_in_memory()
        vectors = [key.load(first) for first in range(0, self.heads.head_dim, lanes)]
        inverse = self.scale(vectors, "key_scales", [kv_head, position])
        block, lane = tirx.floordiv(position, LANES), tirx.floormod(position, LANES)
        for index, length in key.lengths:
            words = -(-length // unit)
            codes = tir.local((words * unit,), "int32")
            tir.store(codes, [words * unit - 1], tir.int32(0))
            tir.store(codes, [words * unit - unit // 2], tir.int32(0))
            for first in range(0, length, lanes):
                vector = key.load(index * key.part + first)
                tir.store(codes, [first], self.encode(vector, lanes, inverse))
            with T.serial(words) as word:
                numbers = [codes[word * tir.int32(unit) + tir.int32(place)] for place in range(unit)]
                shifted = [one << tir.int32(place * self.bits) for place, one in enumerate(numbers)]
                at = word + tir.int32(index * key.part // unit)
                tir.store(self.keys, [kv_head, block, at, lane], functools.reduce(operator.or_, shifted))

    def append_value(self, kv_head: Expression, position: Expression, read: Read) -> None:
        """Store a value beside those of the positions before it in the same words."""
        lanes = self.heads.lanes
        firsts = range(0, self.heads.head_dim, lanes)
        parts = [tir.bind(read(first, lanes)) for first in firsts]
        inverse = self.scale(parts, "value_scales", [kv_head, position])
        row, place = (
            tir.bind(one(position, tir.int32(self.heads.unit))) for one in (tirx.floordiv, tirx.floormod)
        )
        shift = tir.bind(place * tir.int32(self.bits))
        kept = tir.bind((tir.int32(1) << shift) - tir.int32(1))
        for first, part in zip(firsts, parts, strict=True):
            before = self.value_word(kv_head, row, first, lanes) & tir.spread(kept, lanes)
            code = self.encode(part, lanes, inverse) << tir.spread(shift, lanes)
            tir.store(self.values, [kv_head, row, first], before | code)


class PairStorage(PackedStorage):
    """bfloat16: the upper half of a float32."""

    def split(self, words: Expression, lanes: int) -> list[Expression]:
        """Two numbers a word, the lower half first."""
        upper = tir.spread(tir.int32(-65536), lanes)
        halves = (words << tir.spread(tir.int32(16), lanes), words & upper)
        return [tir.reinterpret(one, _floats(lanes)) for one in halves]

    def encode(self, vector: Expression, lanes: int, inverse: Expression | None) -> Expression:
        """The upper halves, rounded to the nearest, halves to even."""
        del inverse
        unsigned = "uint32" if lanes == 1 else f"uint32x{lanes}"
        bits = tir.bind(tir.reinterpret(vector, unsigned))

        def same(value: int) -> Expression:
            return tir.spread(tir.constant(value, "uint32"), lanes)

        rounded = bits + same(0x7FFF) + ((bits >> same(16)) & same(1))
        return tir.reinterpret(rounded >> same(16), "int32" if lanes == 1 else f"int32x{lanes}")


class ByteStorage(PackedStorage):
    """Codes of a head with one scale: `max|x| / 127`, as `intaglio.QuantizeActivation` has it."""

    def __init__(self, heads: Heads, frame: KernelFrame) -> None:
        super().__init__(heads, frame)
        shape = (heads.kv_heads, heads.capacity)
        self.scales = {name: frame.buffer(name, shape, "float32") for name in ("key_scales", "value_scales")}

    def split(self, words: Expression, lanes: int) -> list[Expression]:
        """Four codes a word, the lowest byte first."""
        shifted = [words >> tir.spread(tir.int32(8 * byte), lanes) for byte in range(4)]
        byte, offset = (tir.spread(tir.int32(one), lanes) for one in (255, OFFSET))
        return [((one & byte) - offset).astype(_floats(lanes)) for one in shifted]

    def key_scales(self, kv_head: Expression, first: Expression) -> Expression | None:
        """Of 16 positions."""
        return tir.load(self.scales["key_scales"], [kv_head, first])

    def value_scales(self, kv_head: Expression, first: Expression) -> Expression | None:
        """Of 16 positions."""
        return tir.load(self.scales["value_scales"], [kv_head, first])

    def scale(self, parts: list[Expression], scales: str, at: list[Expression]) -> Expression | None:
        """Store the scale; its inverse, or zero for a head of zeros."""
        lanes = self.heads.lanes
        peaks = functools.reduce(tirx.Max, [tir.absolute(one, lanes) for one in parts])
        largest = tir.bind(tir.max_lanes(peaks) if lanes > 1 else peaks)
        tir.store(self.scales[scales], at, largest * tir.float32(1.0 / 127.0))
        place = tir.local((1,))
        tir.store(place, [0], tir.float32(0.0))
        with T.If(largest > tir.float32(0.0)), T.Then():
            tir.store(place, [0], tir.float32(127.0) / largest)
        return tir.bind(place[0])

    def encode(self, vector: Expression, lanes: int, inverse: Expression | None) -> Expression:
        """The bytes."""
        assert inverse is not None, "codes have a scale"
        code = tir.round_even(vector * tir.spread(inverse, lanes), lanes)
        integers = "int32" if lanes == 1 else f"int32x{lanes}"
        return code.astype(integers) + tir.spread(tir.int32(OFFSET), lanes)


def _floats(lanes: int) -> str:
    return "float32" if lanes == 1 else f"float32x{lanes}"
