"""Element-wise ops, comparisons, reductions and matrix products."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from intaglio.backends.reference.call import Call


def unary(function: Callable[[Tensor], Tensor]) -> Callable[[Call], Tensor]:
    """An op of one input."""
    return lambda call: function(call.tensor(0))


def binary(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Call], Tensor]:
    """An op of two inputs that broadcast."""
    return lambda call: function(call.tensor(0), call.tensor(1))


def variadic(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Call], Tensor]:
    """An op that folds any number of inputs."""
    return lambda call: functools.reduce(function, [call.tensor(one) for one in range(len(call.inputs))])


def divide(call: Call) -> Tensor:
    """Integers divide towards zero."""
    dividend, divisor = call.tensor(0), call.tensor(1)
    if dividend.is_floating_point():
        return dividend / divisor
    return torch.div(dividend, divisor, rounding_mode="trunc")


def remainder(call: Call) -> Tensor:
    """The sign follows the divisor, or with `fmod` the dividend."""
    function = torch.fmod if call.integer("fmod", 0) else torch.remainder
    return function(call.tensor(0), call.tensor(1))


def power(call: Call) -> Tensor:
    """The result has the base's type."""
    return torch.pow(call.tensor(0), call.tensor(1)).to(call.tensor(0).dtype)


def clip(call: Call) -> Tensor:
    """Either bound may be missing; where they cross, the upper one wins."""
    result, low, high = call.tensor(0), call.optional(1), call.optional(2)
    result = result if low is None else torch.maximum(result, low)
    return result if high is None else torch.minimum(result, high)


def gelu(call: Call) -> Tensor:
    """`x · Φ(x)`, or its tanh approximation."""
    return torch.nn.functional.gelu(call.tensor(0), approximate=call.word("approximate", "none"))


def swish(call: Call) -> Tensor:
    """`x · sigmoid(alpha · x)`."""
    return call.tensor(0) * torch.sigmoid(call.real("alpha", 1.0) * call.tensor(0))


def softmax(call: Call) -> Tensor:
    """Over one axis."""
    return torch.softmax(call.tensor(0), dim=call.integer("axis", -1))


def log_softmax(call: Call) -> Tensor:
    """Over one axis."""
    return torch.log_softmax(call.tensor(0), dim=call.integer("axis", -1))


def cumulative_sum(call: Call) -> Tensor:
    """Along one axis; each sum includes its own element."""
    return torch.cumsum(call.tensor(0), dim=int(call.tensor(1))).to(call.tensor(0).dtype)


def reduction(function: Callable[[Tensor, list[int], bool], Tensor]) -> Callable[[Call], Tensor]:
    """A reduction over the axes in input 1; over all of them where it is missing or empty."""

    def reduce(call: Call) -> Tensor:
        x, axes = call.tensor(0), call.numbers(1)
        if not axes and call.integer("noop_with_empty_axes", 0):
            return x
        result = function(x, axes or list(range(x.dim())), bool(call.integer("keepdims", 1)))
        return result.to(x.dtype)

    return reduce


def total(x: Tensor, axes: list[int], keepdim: bool) -> Tensor:
    """Sum."""
    return torch.sum(x, dim=axes, keepdim=keepdim) if axes else x


def mean(x: Tensor, axes: list[int], keepdim: bool) -> Tensor:
    """Mean."""
    return torch.mean(x, dim=axes, keepdim=keepdim) if axes else x


def largest(x: Tensor, axes: list[int], keepdim: bool) -> Tensor:
    """Maximum; equal elements share the gradient."""
    return torch.amax(x, dim=axes, keepdim=keepdim) if axes else x


def smallest(x: Tensor, axes: list[int], keepdim: bool) -> Tensor:
    """Minimum; equal elements share the gradient."""
    return torch.amin(x, dim=axes, keepdim=keepdim) if axes else x


def gemm(call: Call) -> Tensor:
    """`alpha · A' · B' + beta · C`."""
    left = call.tensor(0).mT if call.integer("transA", 0) else call.tensor(0)
    right = call.tensor(1).mT if call.integer("transB", 0) else call.tensor(1)
    product = call.real("alpha", 1.0) * (left @ right)
    bias = call.optional(2)
    return product if bias is None else product + call.real("beta", 1.0) * bias
