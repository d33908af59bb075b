"""Modules that stand in for ones whose form does not suit a graph of linear layers; weights are recut."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from transformers.pytorch_utils import Conv1D

from intaglio.compiler.errors import UnsupportedModelError
from intaglio.compiler.frontends.huggingface.arrays import Array, part, taken, transposed

Arrays = dict[str, Array]
EXPERT_WEIGHTS = ("gate_up_proj", "down_proj")
_ROWS_RANK = 2


def substitute(module: torch.nn.Module, arrays: Arrays) -> None:
    """Replace, in place, what `module`, on the meta device, holds of these; `arrays` follows under new names.

    - `Conv1D` of GPT-2, whose weight is `[in, out]`, becomes `Linear` with `[out, in]`;
    - experts, one parameter `[experts, out, in]` and a grouped product, become one gated MLP per expert.

    Raises `UnsupportedModelError` that lists the experts of an unknown form.
    """
    problems: list[str] = []
    for path, one in list(module.named_modules()):
        if isinstance(one, Conv1D):
            _put(module, path, _linear(one.nx, one.nf, bias=True))
            arrays[f"{path}.weight"] = transposed(arrays[f"{path}.weight"])
        elif all(getattr(getattr(one, name, None), "ndim", 0) == 3 for name in EXPERT_WEIGHTS):
            problems += _unroll(module, path, one, arrays)
    if problems:
        raise UnsupportedModelError("experts: some are of a form that is not known:", problems)


class UnrolledExperts(torch.nn.Module):
    """Every expert as ordinary linear layers; all of them run for every token.

    The weight of an expert that a token did not choose is zero, so that the sum is the mixture. That is
    dense: for E experts of which k are chosen it costs E / k times the arithmetic of the mixture. Decoding
    skips what has a weight of zero (`intaglio.backends.tvm.experts`); prefill and graphs do not.
    """

    def __init__(
        self, experts: int, hidden: int, width: int, activation: Callable[..., torch.Tensor]
    ) -> None:
        super().__init__()
        self.activation = activation
        self.entering: torch.Tensor | None = None  # [batch, sequence, …], set by the block before each call
        for index in range(experts):
            parts = {"gate_proj": (hidden, width), "up_proj": (hidden, width), "down_proj": (width, hidden)}
            layers = {name: _linear(*sizes, bias=False) for name, sizes in parts.items()}
            self.add_module(str(index), torch.nn.ModuleDict(layers))

    def forward(self, hidden: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """`hidden` `[tokens, hidden]`; `chosen`, `weights` `[tokens, k]`: which experts, how much of each."""
        experts = [one for name, one in self.named_children() if name.isdigit()]
        none = hidden.new_zeros((hidden.shape[0], len(experts)))
        rows_like = torch.ops.intaglio.rows_like
        shares = rows_like(none.scatter(1, chosen, weights.to(none.dtype)), self.entering)
        x = rows_like(hidden, self.entering)
        total: torch.Tensor | None = None
        for index, expert in enumerate(experts):
            result = self._mlp(expert, x) * shares[..., index : index + 1]
            total = result if total is None else total + result
        assert total is not None, "a mixture has experts"
        return total.reshape(-1, hidden.shape[-1])

    def _mlp(self, expert: Any, x: torch.Tensor) -> torch.Tensor:
        gated: torch.Tensor = self.activation(expert["gate_proj"](x)) * expert["up_proj"](x)
        result: torch.Tensor = expert["down_proj"](gated)
        return result


def _unroll(module: torch.nn.Module, path: str, experts: Any, arrays: Arrays) -> list[str]:
    problems = list(_unknown(path, experts))
    if problems:
        return problems
    gate_up, down = (arrays.pop(f"{path}.{name}") for name in EXPERT_WEIGHTS)
    if experts.is_transposed:
        gate_up, down = transposed(gate_up, (0, 2, 1)), transposed(down, (0, 2, 1))
    count, hidden, width = down.shape
    unrolled = UnrolledExperts(count, hidden, width, experts.act_fn)
    _put(module, path, unrolled)
    _keep_rows(module.get_submodule(path.rpartition(".")[0]), unrolled)
    for index in range(count):
        joined = taken(gate_up, index)
        arrays[f"{path}.{index}.gate_proj.weight"] = part(joined, 0, 0, width)
        arrays[f"{path}.{index}.up_proj.weight"] = part(joined, 0, width, 2 * width)
        arrays[f"{path}.{index}.down_proj.weight"] = taken(down, index)
    return []


def _unknown(path: str, experts: Any) -> Iterator[str]:
    for name, usual in (("has_gate", True), ("has_bias", False), ("is_concatenated", True)):
        if getattr(experts, name, None) is not usual:
            yield f"{path}: {name} is {getattr(experts, name, None)}"
    own = "_apply_gate" in vars(type(experts)) and type(experts)._apply_gate.__name__ != "_default_apply_gate"
    if own or not hasattr(experts, "act_fn") or getattr(experts, "has_post_expert_norm", False):
        yield f"{path}: {type(experts).__name__} combines gate and up in a way of its own"


def _keep_rows(block: Any, experts: UnrolledExperts) -> None:
    """Let `block`, which flattens batch and sequence, tell `experts` what enters; go back by `rows_like`."""
    forward = block.forward

    def wrapped(hidden: torch.Tensor, *arguments: Any, **keywords: Any) -> Any:
        experts.entering = hidden
        with _RowsLike(hidden):
            return forward(hidden, *arguments, **keywords)

    block.forward = wrapped


class _RowsLike(TorchFunctionMode):
    """Makes `rows_like` of every reshape from rows to the shape of `like`."""

    def __init__(self, like: torch.Tensor) -> None:
        super().__init__()
        self.like = like

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        if func in (torch.Tensor.reshape, torch.Tensor.view, torch.reshape) and args[0].ndim == _ROWS_RANK:
            sizes = args[1] if isinstance(args[1], tuple | list | torch.Size) else args[1:]
            if len(sizes) == self.like.ndim and tuple(sizes[:-1]) == tuple(self.like.shape[:-1]):
                return torch.ops.intaglio.rows_like(args[0], self.like)
        return func(*args, **(kwargs or {}))


def _linear(inputs: int, outputs: int, *, bias: bool) -> torch.nn.Linear:
    return torch.nn.Linear(inputs, outputs, bias=bias, device="meta")


def _put(module: torch.nn.Module, path: str, new: torch.nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(module.get_submodule(parent), name, new)
