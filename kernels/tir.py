"""The vocabulary in which kernels are written: 16-lane vectors over TVM's TIR builder.

A kernel has the scalars `worker`, `workers` (who am I, of how many), `count` (tokens in this call) and
`position` (tokens already in the cache), all int32, and its pointers. Pointers must be aligned to 64 bytes:
TVM assumes it without checking.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import tvm
from tvm import tirx as tirx
from tvm.tirx.script.builder import ir as T

from intaglio.kernels.instructions import ByteDots, Instructions
from intaglio.kernels.llvm import functions as llvm_functions

LANES = 16  # float32 lanes of the widest vector; LLVM splits it where registers are narrower
Expression = Any  # TVM's expressions carry no usable static types


def primitive(dtype: str) -> Any:
    """TVM's type object for `dtype`, e.g. "float32x16"."""
    return tvm.ir.PrimType(dtype)


def pointer_type(dtype: str) -> Any:
    """TVM's type object for a pointer to `dtype`."""
    return tvm.ir.PointerType(primitive(dtype))


def constant(value: float, dtype: str) -> Expression:
    """A scalar constant."""
    return tirx.const(value, dtype)


def float32(value: float) -> Expression:
    """A float32 constant."""
    return tirx.const(value, "float32")


def int32(value: int) -> Expression:
    """An int32 constant."""
    return tirx.const(value, "int32")


def spread(value: Expression, lanes: int = LANES) -> Expression:
    """`value` in every lane."""
    return tirx.Broadcast(value, lanes) if lanes > 1 else value


def zeros(lanes: int = LANES) -> Expression:
    """A float32 vector of zeros."""
    return spread(float32(0.0), lanes)


def bind(value: Expression) -> Expression:
    """Evaluate `value` here, once."""
    return T.Bind(value)


def load(buffer: Expression, index: Sequence[Expression], lanes: int = LANES) -> Expression:
    """A vector of `lanes` elements from `index` on."""
    dtype = str(buffer.dtype)
    return buffer.vload(list(index), f"{dtype}x{lanes}" if lanes > 1 else dtype)


def store(buffer: Expression, index: Sequence[Expression], value: Expression) -> None:
    """Write `value`, a scalar or a vector, from `index` on."""
    T.add_to_parent(buffer.vstore(list(index), value))


def local(shape: Sequence[int], dtype: str = "float32") -> Expression:
    """A buffer in registers or on the stack, of less than 1 KiB: TVM would put a larger one on the heap."""
    return T.alloc_buffer(tuple(shape), dtype, scope="global")


def hold(value: Expression) -> Expression:
    """Evaluate `value` here, once, whatever it is.

    What `bind` names, TVM writes out wherever it is used, unless there is a load in it. Where such values are
    used twice and build on each other, every step doubles the code and the time to generate it.
    """
    element, _, lanes = str(value.ty).partition("x")
    place = local((int(lanes or 1),), element)
    store(place, [0], value)
    return bind(load(place, [0], int(lanes or 1)))


def reinterpret(value: Expression, dtype: str) -> Expression:
    """The same bits as another type."""
    return tirx.reinterpret(dtype, value)


def intrinsic(name: str, dtype: str, *arguments: Expression) -> Expression:
    """A call of a pure LLVM intrinsic."""
    return tirx.call_llvm_pure_intrin(primitive(dtype), name, *arguments)


def _vector(lanes: int) -> str:
    return f"float32x{lanes}" if lanes > 1 else "float32"


def fused_multiply_add(a: Expression, b: Expression, c: Expression, lanes: int = LANES) -> Expression:
    """`a · b + c`, rounded once."""
    return intrinsic("llvm.fma", _vector(lanes), a, b, c)


def absolute(value: Expression, lanes: int = LANES) -> Expression:
    """|value|."""
    return intrinsic("llvm.fabs", _vector(lanes), value)


def round_even(value: Expression, lanes: int = LANES) -> Expression:
    """To the nearest integer, halves to even."""
    return intrinsic("llvm.nearbyint", _vector(lanes), value)


def square_root(value: Expression) -> Expression:
    """Of a float32 scalar."""
    return intrinsic("llvm.sqrt", "float32", value)


def sum_lanes(vector: Expression) -> Expression:
    """The sum of a float32 vector's lanes, in lane order."""
    return intrinsic("llvm.vector.reduce.fadd", "float32", float32(0.0), vector)


def sum_tree(vector: Expression) -> Expression:
    """The sum of 16 float32 lanes, halves first: four additions deep where `sum_lanes` is sixteen."""
    return _tree(vector, LANES, operator.add)


def max_tree(vector: Expression, lanes: int = LANES) -> Expression:
    """The largest of so many float32 lanes, a power of two; unlike `max_lanes` it does not look for NaNs."""
    return _tree(vector, lanes, tirx.Max)


def _tree(vector: Expression, lanes: int, join: Callable[[Expression, Expression], Expression]) -> Expression:
    lanes //= 2
    while lanes:
        low, high = (
            tirx.Shuffle([vector], [int32(first + lane) for lane in range(lanes)]) for first in (0, lanes)
        )
        vector = hold(join(low, high))
        lanes //= 2
    return vector


def max_lanes(vector: Expression) -> Expression:
    """The largest lane of a float32 vector."""
    return intrinsic("llvm.vector.reduce.fmax", "float32", vector)


def sum_integer_lanes(vector: Expression) -> Expression:
    """The sum of an int32 vector's lanes."""
    return intrinsic("llvm.vector.reduce.add", "int32", vector)


def prefetch(buffer: Expression, index: Sequence[Expression]) -> None:
    """Ask for the cache line at `index`; an address outside the buffer does no harm."""
    place = address(buffer, index)
    T.evaluate(tirx.call_llvm_intrin(primitive("void"), "llvm.prefetch", place, int32(0), int32(3), int32(1)))


# 2^f on [-1/2, 1/2] by its Taylor series: relative error below 3e-7.
_EXP2_COEFFICIENTS = (
    1.0,
    0.6931471805599453,
    0.2402265069591007,
    0.05550410866482158,
    0.009618129107628477,
    0.0013333558146428443,
    0.00015403530393381608,
)


def exponential(value: Expression, lanes: int = LANES) -> Expression:
    """e^value for float32; below -87 it gives about 1e-38, above 88 anything.

    The relative error is 2e-7 near 0 and grows with |value|, whose multiple of log2 e is rounded: 6e-7 at
    -10, 4e-6 at -87.
    """
    clamped = bind(tirx.Max(value, spread(float32(-87.0), lanes)))
    scaled = bind(clamped * spread(float32(1.4426950408889634), lanes))
    whole = bind(round_even(scaled, lanes))
    fraction = bind(scaled - whole)
    polynomial = spread(float32(_EXP2_COEFFICIENTS[-1]), lanes)
    for coefficient in reversed(_EXP2_COEFFICIENTS[:-1]):
        polynomial = fused_multiply_add(polynomial, fraction, spread(float32(coefficient), lanes), lanes)
    integer = f"int32x{lanes}" if lanes > 1 else "int32"
    bits = reinterpret(bind(polynomial), integer) + (whole.astype(integer) << spread(int32(23), lanes))
    return bind(reinterpret(bits, _vector(lanes)))


def logistic(value: Expression) -> Expression:
    """1 / (1 + e^-value)."""
    one = spread(float32(1.0))
    # The exponential is undefined above 88, where the logistic function is 0 to float32 precision anyway.
    return one / (one + exponential(tirx.Min(zeros() - value, spread(float32(87.0)))))


def dot4(
    accumulator: Expression,
    codes: Expression,
    activation: Expression,
    instructions: Instructions,
    largest: int = 255,
) -> Expression:
    """Sixteen sums of four products of bytes, exact whatever the bytes.

    Args:
        accumulator: int32x16.
        codes: int32x16, each four unsigned bytes.
        activation: int32 scalar, four signed bytes, the same for every lane.
        instructions: the family to use.
        largest: of the codes; up to 127, families without an instruction of their own are twice as fast.
    """
    if instructions.byte_dots is not ByteDots.NONE:
        name = "intaglio_dot4_small" if largest < 128 else "intaglio_dot4"
        return _call("int32x16", name, accumulator, codes, spread(activation))
    for byte in range(4):
        code = (codes >> spread(int32(8 * byte))) & spread(int32(255))
        factor = (activation << int32(24 - 8 * byte)) >> int32(24)
        accumulator = accumulator + code * spread(factor)
    return accumulator


def dot4_vectors(
    accumulator: Expression, codes: Expression, factors: Expression, instructions: Instructions
) -> Expression:
    """Sixteen sums of four products of bytes, unsigned `codes` by signed `factors`, all int32x16."""
    if instructions.byte_dots is not ByteDots.NONE:
        return _call("int32x16", "intaglio_dot4", accumulator, codes, factors)
    for byte in range(4):
        code = (codes >> spread(int32(8 * byte))) & spread(int32(255))
        factor = (factors << spread(int32(24 - 8 * byte))) >> spread(int32(24))
        accumulator = accumulator + code * factor
    return accumulator


def add_pairs(pairs: Expression, codes: Expression, activation: Expression) -> Expression:
    """Add 32 sums of two products in 16 bits, for families whose `byte_dots` are `in_pairs`.

    Nothing may exceed 32767: sums of n such products of codes up to c need 2 · n · c · 128 < 32768.

    Args:
        pairs: int32x16, each lane two sums of 16 bits.
        codes: as for `dot4`.
        activation: as for `dot4`.
    """
    return _call("int32x16", "intaglio_pairs", pairs, codes, spread(activation))


def widen_pairs(accumulator: Expression, pairs: Expression) -> Expression:
    """`accumulator`, int32x16, and the two sums in each lane of `pairs`."""
    return _call("int32x16", "intaglio_widen", accumulator, pairs)


def dot4_halves(accumulator: Expression, codes: Expression, even: Expression, odd: Expression) -> Expression:
    """Sixteen sums of four products of bytes and 16-bit numbers, for families that are `in_pairs`.

    Args:
        accumulator: int32x16.
        codes: int32x16, each four unsigned bytes.
        even: int32 scalar, two numbers of 16 bits, for the first and third bytes.
        odd: int32 scalar, for the second and fourth.
    """
    return _call("int32x16", "intaglio_halves", accumulator, codes, spread(even), spread(odd))


def opaque(value: int) -> Expression:
    """`value`, unseen by LLVM: a loop of so many rounds stays one. For families that are `in_pairs`."""
    return _call("int32", "intaglio_opaque", int32(value))


def multiply_matrices(sums: Expression, rows: Expression, tokens: Expression) -> Expression:
    """Four products of 2 rows × 8 columns by 8 columns × 2 tokens, for families with USMMLA.

    Args:
        sums: int32x16, four times `[row, token]`.
        rows: int32x16, four times `[row, 8 unsigned bytes]`.
        tokens: int32x16, four times `[token, 8 signed bytes]`.
    """
    return _call("int32x16", "intaglio_matrix", sums, rows, tokens)


def call(name: str, *arguments: Expression) -> None:
    """Call a function of the family that returns nothing."""
    T.evaluate(tirx.call_extern(primitive("void"), name, *arguments))


def address(buffer: Expression, index: Sequence[Expression | int]) -> Expression:
    """The address of the element at `index`."""
    return tirx.address_of(buffer[tuple(index)])


def imported(instructions: Instructions) -> AbstractContextManager[Any]:
    """The context in which a kernel's code is written, so that it may call what TVM has no intrinsic for."""
    text = llvm_functions.text_of(instructions)
    if not text:
        return nullcontext()
    frame: AbstractContextManager[Any] = T.attr(0, "pragma_import_llvm", text)
    return frame


def dot2(accumulator: Expression, pairs: Expression, factors: Expression) -> Expression:
    """Sixteen float32 sums of two products of bfloat16, for families whose `bfloat16_dots` is not NONE.

    Denormals count as zero; the two products are added to the sum one after the other, each rounded.

    Args:
        accumulator: float32x16.
        pairs: int32x16, each two bfloat16.
        factors: as pairs.
    """
    return _call("float32x16", "intaglio_dot2", accumulator, pairs, factors)


def narrow(numbers: Expression) -> Expression:
    """int32x8: float32x16 rounded to bfloat16, neighbours in pairs as `dot2` takes them, for its families."""
    return _call("int32x8", "intaglio_narrow", numbers)


def _call(dtype: str, name: str, *arguments: Expression) -> Expression:
    """A call of one of the functions in `llvm/functions.py`."""
    return tirx.call_pure_extern(primitive(dtype), name, *arguments)


@dataclass(frozen=True)
class KernelFrame:
    """Where a kernel's code goes: its scalars and pointers in the function being built."""

    worker: Expression
    workers: Expression
    count: Expression
    position: Expression
    pointers: Mapping[str, Expression] = field(repr=False)

    def buffer(self, name: str, shape: Sequence[Any], dtype: str) -> Expression:
        """A view of pointer `name`."""
        return T.decl_buffer(tuple(shape), dtype, data=self.pointers[name])

    def each_own(self, units: Expression | int, body: Callable[[Expression], None]) -> None:
        """Run `body(unit)` for this worker's contiguous share of `units`."""
        units = int32(units) if isinstance(units, int) else units
        share = bind(tirx.floordiv(units + self.workers - int32(1), self.workers))
        start = bind(tirx.Min(self.worker * share, units))
        length = bind(tirx.Min(share, units - start))
        with T.serial(length) as step:
            body(start + step)

    def each_dealt(self, units: Expression | int, body: Callable[[Expression], None]) -> None:
        """Run `body(unit)` for every `workers`-th unit: balanced where neighbours cost alike."""
        units = int32(units) if isinstance(units, int) else units
        length = bind(tirx.floordiv(units - self.worker + self.workers - int32(1), self.workers))
        with T.serial(tirx.Max(length, int32(0))) as step:
            body(step * self.workers + self.worker)
