"""Ops that move, cut, join and describe tensors, and make constants."""

from __future__ import annotations

import onnx_ir as ir
import torch
from torch import Tensor

from intaglio.backends.reference.call import Call
from intaglio.backends.reference.tensors import to_torch


def constant(call: Call) -> Tensor:
    """The tensor, number or numbers in the node's one attribute."""
    (attribute,) = call.attributes.values()
    if attribute.type == ir.AttributeType.TENSOR:
        return to_torch(attribute.as_tensor(), call.working)
    is_integer = attribute.type in (ir.AttributeType.INT, ir.AttributeType.INTS)
    return torch.tensor(attribute.value, dtype=torch.int64 if is_integer else call.working)


def constant_of_shape(call: Call) -> Tensor:
    """A tensor filled with `value`, float zeros by default."""
    attribute = call.attributes.get("value")
    default = torch.zeros(1, dtype=call.working)
    value = default if attribute is None else to_torch(attribute.as_tensor(), call.working)
    return value.reshape(()).expand(call.numbers(0) or [])


def shape(call: Call) -> Tensor:
    """The sizes from axis `start` up to `end`."""
    sizes = list(call.tensor(0).shape)
    return torch.tensor(sizes[call.integer("start", 0) : call.integer("end", len(sizes))], dtype=torch.int64)


def size(call: Call) -> Tensor:
    """The number of elements."""
    return torch.tensor(call.tensor(0).numel(), dtype=torch.int64)


def arange(call: Call) -> Tensor:
    """From `start` up to `limit` by `delta`."""
    start, limit, delta = (call.tensor(one) for one in range(3))
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


def reshape(call: Call) -> Tensor:
    """A size of 0 is copied from the input, unless `allowzero`."""
    x, sizes = call.tensor(0), call.numbers(1) or []
    if not call.integer("allowzero", 0):
        sizes = [x.shape[axis] if one == 0 else one for axis, one in enumerate(sizes)]
    return x.reshape(sizes)


def flatten(call: Call) -> Tensor:
    """To a matrix: the axes before `axis`, and the others."""
    x = call.tensor(0)
    axis = call.integer("axis", 1)
    axis = axis + x.dim() if axis < 0 else axis
    rows = 1
    for one in x.shape[:axis]:
        rows *= one
    return x.reshape(rows, -1)


def transpose(call: Call) -> Tensor:
    """By `perm`, or with all axes reversed."""
    x = call.tensor(0)
    permutation = call.attributes.get("perm")
    return x.permute(tuple(reversed(range(x.dim()))) if permutation is None else permutation.as_ints())


def unsqueeze(call: Call) -> Tensor:
    """New axes of size 1, numbered in the result."""
    x, axes = call.tensor(0), call.numbers(1) or []
    rank = x.dim() + len(axes)
    for axis in sorted(one % rank for one in axes):
        x = x.unsqueeze(axis)
    return x


def squeeze(call: Call) -> Tensor:
    """Without the axes of size 1 that are named, or all of them."""
    x, axes = call.tensor(0), call.numbers(1)
    named = [axis for axis, one in enumerate(x.shape) if one == 1] if axes is None else axes
    wide = [axis for axis in named if x.shape[axis] != 1]
    if wide:
        raise ValueError(f"axes {wide} of shape {list(x.shape)} are not of size 1")
    return x.squeeze(tuple(named)) if named else x


def expand(call: Call) -> Tensor:
    """Broadcast against a shape, in both directions."""
    x, sizes = call.tensor(0), call.numbers(1) or []
    leading = sizes[: max(0, len(sizes) - x.dim())]
    own = [1] * (x.dim() - len(sizes)) + sizes[len(leading) :]
    return x.expand(leading + [have if want == 1 else want for have, want in zip(x.shape, own, strict=True)])


def tile(call: Call) -> Tensor:
    """Repeated along each axis."""
    return call.tensor(0).repeat(call.numbers(1) or [])


def concat(call: Call) -> Tensor:
    """Along `axis`."""
    return torch.cat([call.tensor(one) for one in range(len(call.inputs))], dim=call.integer("axis", 0))


def split(call: Call) -> tuple[Tensor, ...]:
    """Into the sizes given, or as evenly as possible with a smaller last part."""
    x, axis, sizes = call.tensor(0), call.integer("axis", 0), call.numbers(1)
    if sizes is None:
        parts = len(call.node.outputs)
        largest = -(-x.shape[axis] // parts)
        sizes = [largest] * (parts - 1) + [x.shape[axis] - largest * (parts - 1)]
    return torch.split(x, sizes, dim=axis)


def cut(call: Call) -> Tensor:
    """`Slice`: along each axis named, all of them by default; bounds beyond the ends are moved there."""
    x = call.tensor(0)
    starts, ends = call.numbers(1) or [], call.numbers(2) or []
    axes = call.numbers(3) or range(len(starts))
    steps = call.numbers(4) or [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        x = _cut_axis(x, axis, slice(start, end, step))
    return x


def _cut_axis(x: Tensor, axis: int, part: slice) -> Tensor:
    picked = range(*part.indices(x.shape[axis]))
    if picked.step == 1:
        return x.narrow(axis, picked.start, len(picked))
    return x.index_select(axis, torch.tensor(list(picked), dtype=torch.int64, device=x.device))


def gather(call: Call) -> Tensor:
    """Rows of `axis` by index; negative indices count from the end."""
    x, indices, axis = call.tensor(0), call.tensor(1).to(torch.int64), call.integer("axis", 0)
    axis = axis + x.dim() if axis < 0 else axis
    indices = torch.where(indices < 0, indices + x.shape[axis], indices)
    rows = x.index_select(axis, indices.reshape(-1))
    return rows.reshape([*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]])


def triangle(call: Call) -> Tensor:
    """`Trilu`: the upper or lower triangle, moved by `k` diagonals."""
    x, offset = call.tensor(0), call.numbers(1)
    function = torch.triu if call.integer("upper", 1) else torch.tril
    return function(x, diagonal=0 if offset is None else offset[0])


def where(call: Call) -> Tensor:
    """Element by element from one of two tensors."""
    return torch.where(call.tensor(0), call.tensor(1), call.tensor(2))


def tensor_scatter(call: Call) -> Tensor:
    """A copy of the cache with `update` written along `axis` from each sample's write index on."""
    cache, update = call.tensor(0), call.tensor(1).to(call.tensor(0).dtype)
    axis = call.integer("axis", -2)
    starts = call.optional(2)
    capacity, length, batch = cache.shape[axis], update.shape[axis], cache.shape[0]
    first = torch.zeros(batch, dtype=torch.int64) if starts is None else starts.to(torch.int64)
    positions = first.reshape(batch, 1) + torch.arange(length)
    if call.word("mode", "linear") == "circular":
        positions = positions % capacity
    if positions.numel() and not 0 <= int(positions.min()) <= int(positions.max()) < capacity:
        raise ValueError(f"positions {positions.tolist()} lie outside the cache of {capacity}")
    rows = cache.movedim(axis, 1)
    samples = torch.arange(batch).reshape(batch, 1)
    return rows.index_put((samples, positions), update.movedim(axis, 1)).movedim(1, axis)
