"""Functions of PyTorch that call others while a module is captured, because a trace of theirs is no good."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from intaglio.compiler.frontends.torch_module.embedding_bag import embedding_bag, has_no_bound
from intaglio.compiler.frontends.torch_module.recurrent import kept_recurrent_layers

_Function = Callable[..., Any]


@contextmanager
def redirected() -> Iterator[None]:
    """While this lasts, recurrent layers stay whole, and bags of embeddings are sums without loops."""
    bags = {torch.nn.functional.embedding_bag: (embedding_bag, has_no_bound)}
    with _Redirect({**kept_recurrent_layers(), **bags}):
        yield


class _Redirect(TorchFunctionMode):
    """Calls replacements in place of functions, for calls that they are meant for."""

    def __init__(self, replacements: Mapping[_Function, tuple[_Function, _Function]]) -> None:
        super().__init__()
        self._replacements = replacements

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        keywords = kwargs or {}
        replacement, is_meant = self._replacements.get(function, (None, None))
        if replacement is not None and is_meant is not None and is_meant(*args, **keywords):
            return replacement(*args, **keywords)
        return function(*args, **keywords)
