"""Where a module looks at the values of tensors to decide what to compute, which no graph can hold."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from intaglio.compiler.frontends.torch_module.places import Places

_ANSWERS: Mapping[Callable[..., Any], Any] = {
    torch.Tensor.__bool__: True,
    torch.Tensor.__int__: 1,
    torch.Tensor.__index__: 1,
    torch.Tensor.__float__: 1.0,
    torch.Tensor.item: 1,
    torch.Tensor.tolist: (),
}


def data_dependent_places(
    module: torch.nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]
) -> list[str]:
    """Where tensors become Python values on the way through `module`, as lines for people.

    The module runs on tensors without values; each question is answered with 1 or true, so that one way
    through is seen whole. It ends early where something else fails.
    """
    fake = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    state, arguments, keywords = pytree.tree_map_only(
        torch.Tensor, fake.from_tensor, (state, arguments, keywords)
    )
    watch = _Watch(Places(module))
    try:
        with fake, watch:
            torch.func.functional_call(module, state, arguments, keywords)
    except Exception:  # found what could be found; the failure itself is reported by whoever asked
        return watch.found
    return watch.found


class _Watch(TorchFunctionMode):
    """Notes every question about a tensor's values, and answers it."""

    def __init__(self, places: Places) -> None:
        super().__init__()
        self._places = places
        self.found: list[str] = []

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function not in _ANSWERS:
            return function(*args, **(kwargs or {}))
        place = self._places.of_stack(sys._getframe(1))
        line = f"{place}: {_WORDS.get(function.__name__, function.__name__)} of a tensor"
        if line not in self.found:
            self.found.append(line)
        return _ANSWERS[function]


_WORDS = {"__bool__": "the truth", "__int__": "int()", "__index__": "an index", "__float__": "float()"}
