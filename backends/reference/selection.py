"""Ops that choose elements, and put them back where they came from."""

from __future__ import annotations

import torch
from torch import Tensor

from intaglio.backends.reference.call import Call


def top_k(call: Call) -> tuple[Tensor, Tensor]:
    """The `k` largest (or smallest) elements of each row along `axis`, and where they were; ties by index."""
    x, (count,) = call.tensor(0), call.numbers(1) or [0]
    axis, descending = call.integer("axis", -1), bool(call.integer("largest", 1))
    order = torch.sort(x, dim=axis, descending=descending, stable=True)
    return order.values.narrow(axis, 0, count), order.indices.narrow(axis, 0, count)


def gather_elements(call: Call) -> Tensor:
    """`result[…, i, …] = x[…, indices[…, i, …], …]` along `axis`."""
    axis = call.integer("axis", 0)
    return torch.gather(call.tensor(0), axis, _counted(call, axis))


def scatter_elements(call: Call) -> Tensor:
    """A copy of `x` with `updates` put, or added, where `indices` say along `axis`."""
    x, updates, axis = call.tensor(0), call.tensor(2).to(call.tensor(0).dtype), call.integer("axis", 0)
    reduction = call.word("reduction", "none")
    if reduction == "none":
        return torch.scatter(x, axis, _counted(call, axis), updates)
    if reduction != "add":
        raise ValueError(f"reduction {reduction!r} is not 'none' or 'add'")
    return torch.scatter_add(x, axis, _counted(call, axis), updates)


def _counted(call: Call, axis: int) -> Tensor:
    """Indices, negative ones counted from the end."""
    indices, size = call.tensor(1).to(torch.int64), call.tensor(0).shape[axis]
    return torch.where(indices < 0, indices + size, indices)
