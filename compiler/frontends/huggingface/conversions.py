"""What transformers does to tensors of a checkpoint whose layout differs from the module's, done lazily.

`transformers.conversion_mapping` lists renames, and chains of operations such as "stack the experts, join
gate and up"; the same chain is built here from `Array`s, so that nothing is read before it is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from intaglio.compiler.frontends.huggingface.arrays import Array, Joined, Stacked, part, transposed

Collected = Mapping[
    str, Sequence[Array]
]  # by pattern: the tensors that matched it, in the checkpoint's order


def converted(converter: Any, collected: Collected, shapes: Mapping[str, int]) -> dict[str, Array] | str:
    """The tensors that `converter`, a `WeightConverter`, makes of `collected`, by target pattern.

    `shapes` gives for `Split` the size of each target pattern along the operation's axis. Where an operation
    is not known, or its operands do not fit, the result is what is wrong.
    """
    current: dict[str, Sequence[Array]] = {
        pattern: collected[pattern] for pattern in converter.source_patterns if pattern in collected
    }
    for operation in converter.operations:
        result = _operation(operation, current, converter.target_patterns, shapes)
        if isinstance(result, str):
            return result
        current = {pattern: [array] for pattern, array in result.items()}
    return {pattern: arrays[0] for pattern, arrays in current.items()}


def _operation(
    operation: Any, current: dict[str, Sequence[Array]], targets: Sequence[str], shapes: Mapping[str, int]
) -> dict[str, Array] | str:
    kind = type(operation).__name__
    first = next(iter(current.values()))[0]
    if kind == "MergeModulelist" and operation.dim == 0:
        return _stacked(current, targets)
    if kind == "Concatenate" and operation.num_shards_attribute is None:
        return _joined([one for arrays in current.values() for one in arrays], operation.dim, targets)
    if kind == "Chunk" and operation.num_shards_attribute is None:
        return _split(first, operation.dim, dict.fromkeys(targets, 0))
    if kind == "Split":
        return _split(first, operation.dim, {one: shapes.get(one, 0) for one in targets})
    if kind == "Transpose" and not operation.check_dims and len(targets) == 1:
        return {targets[0]: _swapped(first, operation.dim0, operation.dim1)}
    return f"transformers converts it by {operation!r}, which is not known here"


def _stacked(current: dict[str, Sequence[Array]], targets: Sequence[str]) -> dict[str, Array] | str:
    for pattern, arrays in current.items():
        if len({(one.shape, one.dtype) for one in arrays}) != 1:
            return f"the tensors {pattern} that are to be stacked differ in shape or dtype"
    if len(current) == 1:
        return {targets[0]: Stacked(tuple(next(iter(current.values()))))}
    return {pattern: Stacked(tuple(arrays)) for pattern, arrays in current.items()}


def _joined(arrays: Sequence[Array], axis: int, targets: Sequence[str]) -> dict[str, Array] | str:
    axis %= len(arrays[0].shape)
    others = {(one.shape[:axis], one.shape[axis + 1 :], one.dtype) for one in arrays}
    if len(others) != 1:
        return "the tensors that are to be joined differ in shape or dtype"
    return {targets[0]: Joined(tuple(arrays), axis)}


def _split(whole: Array, axis: int, sizes: Mapping[str, int]) -> dict[str, Array] | str:
    """The parts by target; of equal size where no sizes are given."""
    axis %= len(whole.shape)
    length = whole.shape[axis]
    equal = not any(sizes.values()) and length % len(sizes) == 0
    lengths = [length // len(sizes) if equal else size for size in sizes.values()]
    if sum(lengths) != length:
        return f"{whole.shape} cannot be cut along axis {axis} into {len(sizes)} parts of {lengths}"
    result, start = {}, 0
    for target, size in zip(sizes, lengths, strict=True):
        result[target] = part(whole, axis, start, start + size)
        start += size
    return result


def _swapped(whole: Array, one: int, other: int) -> Array:
    axes = list(range(len(whole.shape)))
    axes[one], axes[other] = axes[other], axes[one]
    return transposed(whole, axes)
