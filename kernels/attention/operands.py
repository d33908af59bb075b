"""What the products of prefill multiply: a block's keys and values, as they lie in the cache or as panels.

Two kinds of products: float32 multiply-adds, and dot products of pairs of bfloat16, of twice the rate. Pairs
are multiplied where the cache holds bfloat16 or int8 and the family has the instruction: no key or value
loses anything by it, since eight bits hold a bfloat16 and a code alike; queries and weights are rounded.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from tvm.tirx.script.builder import ir as T

from intaglio.kernels import tir
from intaglio.kernels.attention.heads import BLOCK, Heads
from intaglio.kernels.attention.memory import Memory
from intaglio.kernels.attention.storage import Storage
from intaglio.kernels.attention.tiling import Scratch
from intaglio.kernels.instructions import Bfloat16Dots, Instructions
from intaglio.kernels.tir import LANES, Expression, tirx


class Arithmetic:
    """Products of vectors and scalars whose 32 bits hold `unit` numbers, added up in float32."""

    unit = 1

    def add(
        self, total: Expression, vector: Expression, factor: Expression, lanes: int = LANES
    ) -> Expression:
        """`total + vector · factor`; the factor is a float32 scalar, or the bits of a pair in one."""
        return tir.fused_multiply_add(vector, tir.spread(factor, lanes), total, lanes)

    def pack(self, numbers: Expression) -> Expression:
        """Sixteen float32 as factors: a float32 vector of `16 / unit` lanes."""
        return numbers

    def join(self, first: Expression, second: Expression) -> list[Expression]:
        """Two float32x16, neighbours lane by lane, as what `add` takes as vectors, one after the other."""
        return [first, second]

    def exponential(self, value: Expression) -> Expression:
        """e^value, as exactly as `pack` keeps it."""
        return tir.exponential(value)


class PairArithmetic(Arithmetic):
    """Pairs of bfloat16."""

    unit = 2

    def add(
        self, total: Expression, vector: Expression, factor: Expression, lanes: int = LANES
    ) -> Expression:
        """Two products are added, in 16 lanes."""
        assert lanes == LANES, f"products of pairs have {LANES} lanes, not {lanes}"
        return tir.dot2(total, _bits(vector), _bits(tir.spread(factor)))

    def pack(self, numbers: Expression) -> Expression:
        """Rounded to the nearest."""
        return tir.reinterpret(tir.narrow(numbers), "float32x8")

    def exponential(self, value: Expression) -> Expression:
        """To 8e-5 relative: an eighth of what rounding to bfloat16 may add."""
        return rough_exponential(value)

    def join(self, first: Expression, second: Expression) -> list[Expression]:
        """The upper halves; of codes, the lower ones are zero."""
        upper = tir.spread(tir.int32(-65536))
        low = tir.reinterpret(tir.reinterpret(first, "uint32x16") >> _sixteen("uint32"), "int32x16")
        return [tir.reinterpret(low | (_bits(second) & upper), "float32x16")]


# 2^f on [-1/2, 1/2], the polynomial of degree 3 with the least relative error (found by Lawson's iteration).
_EXP2 = (0.9999280733463329, 0.6932609856528288, 0.24261112543767827, 0.055171669541422906)
_LOG2_E = 1.4426950408889634
_ROUNDING = 1.5 * 2.0**23  # added to a small float32, it leaves a whole number in the lowest bits


def rough_exponential(value: Expression) -> Expression:
    """e^value of 16 lanes, no larger than 0, to 8e-5 relative; below -87 about 1e-38."""

    def same(number: float) -> Expression:
        return tir.spread(tir.float32(number))

    value = tir.bind(tirx.Max(value, same(-87.0)))
    # A call, since TVM would take a sum and its difference to be nothing.
    whole = tir.bind(tir.fused_multiply_add(value, same(_LOG2_E), same(_ROUNDING)))
    fraction = tir.bind(tir.fused_multiply_add(value, same(_LOG2_E), same(_ROUNDING) - whole))
    polynomial = same(_EXP2[-1])
    for coefficient in reversed(_EXP2[:-1]):
        polynomial = tir.fused_multiply_add(polynomial, fraction, same(coefficient))
    power = _bits(whole) << tir.spread(tir.int32(23))
    return tir.bind(tir.reinterpret(_bits(tir.bind(polynomial)) + power, "float32x16"))


def _bits(vector: Expression) -> Expression:
    return tir.reinterpret(vector, "int32x16")


def _sixteen(dtype: str) -> Expression:
    return tir.spread(tir.constant(16, dtype))


def arithmetic_for(heads: Heads, instructions: Instructions) -> Arithmetic:
    """The fastest that computes with keys and values as they are stored."""
    dots = instructions.bfloat16_dots is not Bfloat16Dots.NONE
    return PairArithmetic() if dots and heads.cache in ("bf16", "int8") else Arithmetic()


def stored_arithmetic(heads: Heads, instructions: Instructions) -> Arithmetic:
    """The fastest for what is read once: pairs only where the cache holds them."""
    whole = heads.cache == "bf16" and heads.head_dim % LANES == 0
    return arithmetic_for(heads, instructions) if whole else Arithmetic()


class Operands(ABC):
    """Keys and values of the block at hand."""

    step = 1  # rows of what is multiplied, in a row of the cache's words

    @abstractmethod
    def start(self, kv_head: Expression, first: Expression, skipped: Expression, rows: Expression) -> None:
        """Turn to the positions `first …`, whose values from row `skipped` of words to `rows` are seen."""

    @abstractmethod
    def key(self, word: Expression, vector: int) -> Expression:
        """A number or pair of components, the same of the positions `first + 16 · vector …`."""

    @abstractmethod
    def value(self, row: Expression, vector: int) -> Expression:
        """Components `16 · vector …` of a position or a pair of them."""


class StoredOperands(Operands):
    """The cache itself, where its words are what is multiplied."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    def start(self, kv_head: Expression, first: Expression, skipped: Expression, rows: Expression) -> None:
        """Nothing to do."""
        del skipped, rows
        self.kv_head = kv_head
        self.block = tir.bind(tirx.floordiv(first, tir.int32(LANES)))
        self.row = tir.bind(tirx.floordiv(first, tir.int32(self.storage.heads.unit)))

    def key(self, word: Expression, vector: int) -> Expression:
        """From the cache."""
        found = self.storage.key_word(self.kv_head, self.block + tir.int32(vector), word)
        return tir.reinterpret(found, "float32x16")

    def value(self, row: Expression, vector: int) -> Expression:
        """From the cache."""
        found = self.storage.value_word(self.kv_head, self.row + row, vector * LANES, LANES)
        return tir.reinterpret(found, "float32x16")


class PanelOperands(Operands):
    """Copies in the form that is multiplied, made once for all queries of a tile."""

    def __init__(self, storage: Storage, arithmetic: Arithmetic, memory: Memory, scratch: Scratch) -> None:
        self.storage, self.arithmetic, self.memory, self.scratch = storage, arithmetic, memory, scratch
        self.step = storage.heads.unit // arithmetic.unit

    def start(self, kv_head: Expression, first: Expression, skipped: Expression, rows: Expression) -> None:
        """Fill both panels."""
        heads = self.storage.heads
        block = tir.bind(tirx.floordiv(first, tir.int32(LANES)))
        with T.serial(heads.key_words) as word:
            for vector in range(BLOCK // LANES):
                at = block + tir.int32(vector)
                self._put_keys(word, vector, self.storage.key_vectors(kv_head, at, word))
        row = tir.bind(tirx.floordiv(first, tir.int32(heads.unit)))
        with T.serial(rows - skipped) as index:
            self._put_values(kv_head, row, tir.bind(skipped + index))

    def key(self, word: Expression, vector: int) -> Expression:
        """From the panel."""
        return self.memory.load(tir.int32(self.scratch.keys + vector * LANES) + word * tir.int32(BLOCK))

    def value(self, row: Expression, vector: int) -> Expression:
        """From the panel."""
        at = tir.int32(self.scratch.values + vector * LANES) + row * tir.int32(self.scratch.columns)
        return self.memory.load(at)

    def _put_keys(self, word: Expression, vector: int, parts: Sequence[Expression]) -> None:
        for index, one in enumerate(self._joined(parts)):
            at = tir.bind(word * tir.int32(self.step) + tir.int32(index))
            place = tir.int32(self.scratch.keys + vector * LANES) + at * tir.int32(BLOCK)
            self.memory.store(place, one)

    def _put_values(self, kv_head: Expression, row: Expression, index: Expression) -> None:
        for first in range(0, self.scratch.columns, LANES):
            parts = self._padded(kv_head, row + index, first)
            for step, one in enumerate(self._joined(parts)):
                at = tir.bind(index * tir.int32(self.step) + tir.int32(step))
                place = tir.int32(self.scratch.values + first) + at * tir.int32(self.scratch.columns)
                self.memory.store(place, one)

    def _padded(self, kv_head: Expression, row: Expression, first: int) -> list[Expression]:
        """Components `first …`, zeros beyond the head."""
        heads = self.storage.heads
        if first + LANES <= heads.head_dim:
            return self.storage.value_vectors(kv_head, row, first, LANES)
        whole = [tir.local((LANES,)) for _ in range(heads.unit)]
        for one in whole:
            tir.store(one, [0], tir.zeros())
        for start in range(first, heads.head_dim, heads.lanes):
            parts = self.storage.value_vectors(kv_head, row, start, heads.lanes)
            for one, part in zip(whole, parts, strict=True):
                tir.store(one, [start - first], part)
        return [tir.bind(tir.load(one, [0])) for one in whole]

    def _joined(self, parts: Sequence[Expression]) -> list[Expression]:
        if self.arithmetic.unit == 1:
            return list(parts)
        pairs = zip(parts[::2], parts[1::2], strict=True)
        return [one for pair in pairs for one in self.arithmetic.join(*pair)]


def operands_for(storage: Storage, arithmetic: Arithmetic, memory: Memory, scratch: Scratch) -> Operands:
    """The cache itself wherever possible."""
    same = storage.heads.cache == ("fp32" if arithmetic.unit == 1 else "bf16")
    if same and storage.heads.head_dim % LANES == 0:
        return StoredOperands(storage)
    return PanelOperands(storage, arithmetic, memory, scratch)
