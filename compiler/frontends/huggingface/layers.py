"""The decoder layers of a module: where they are, which are alike, and how to trace one of each kind only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import torch

INDEX_NAMES = ("layer_idx", "layer_id", "layer_index")
_PLAIN = (int, float, str, bool, type(None))


class LayerIndexUsed(Exception):
    """A layer looked at its own number, so that layers which look alike may still differ."""


@dataclass(frozen=True)
class Layers:
    """The layers of a model, `kinds[i]` being the first layer that is like layer i."""

    path: str  # of their ModuleList, such as "model.layers"
    kinds: tuple[int, ...]

    @property
    def representatives(self) -> tuple[int, ...]:
        """One layer of each kind, in order."""
        return tuple(sorted(set(self.kinds)))

    @property
    def all_different(self) -> Layers:
        """The same layers, none taken to be like another."""
        return Layers(self.path, tuple(range(len(self.kinds))))


def find_layers(module: torch.nn.Module, count: int) -> Layers | None:
    """The first `ModuleList` of `count` layers with parameters; none where the module is built otherwise."""
    for path, one in module.named_modules():
        if not isinstance(one, torch.nn.ModuleList) or len(one) != count:
            continue
        if all(next(layer.parameters(), None) is not None for layer in one):
            signatures = [_signature(layer) for layer in one]
            return Layers(path, tuple(signatures.index(signature) for signature in signatures))
    return None


@contextmanager
def only_representatives(module: torch.nn.Module, config: Any, layers: Layers) -> Iterator[None]:
    """While it lasts, `module` has but one layer of each kind, and lists per layer in `config` are as short.

    Where a layer uses its own number, `LayerIndexUsed` is raised from inside `module`.
    """
    count, kept = len(layers.kinds), layers.representatives
    whole = module.get_submodule(layers.path)
    assert isinstance(whole, torch.nn.ModuleList), "found as one"
    before = {name: value for name, value in vars(config).items() if _is_per_layer(value, count)}
    if len(kept) < count:
        _replace(module, layers.path, torch.nn.ModuleList(whole[index] for index in kept))
        _shorten(config, {name: [value[i] for i in kept] for name, value in before.items()}, len(kept))
    numbers = list(_hide_numbers(module.get_submodule(layers.path))) if len(kept) < count else []
    try:
        yield
    finally:
        for owner, name, value in numbers:
            setattr(owner, name, value)
        _replace(module, layers.path, whole)
        _shorten(config, before, count)


def _signature(layer: torch.nn.Module) -> tuple[Any, ...]:
    """All that decides what a layer computes, but for the values of its parameters."""
    return tuple(
        (
            path,
            type(one).__module__,
            type(one).__qualname__,
            tuple((name, tuple(p.shape), p.dtype) for name, p in one.named_parameters(recurse=False)),
            tuple((name, tuple(b.shape), b.dtype) for name, b in one.named_buffers(recurse=False)),
            tuple(sorted((name, _plain(value)) for name, value in vars(one).items() if _counts(name, value))),
        )
        for path, one in layer.named_modules()
    )


def _counts(name: str, value: Any) -> bool:
    if name.startswith("_") or name in INDEX_NAMES:
        return False
    sequence = isinstance(value, list | tuple) and all(isinstance(one, _PLAIN) for one in value)
    return isinstance(value, _PLAIN) or sequence or callable(value)


def _plain(value: Any) -> str:
    return getattr(value, "__qualname__", type(value).__qualname__) if callable(value) else repr(value)


def _is_per_layer(value: Any, count: int) -> bool:
    return isinstance(value, list) and len(value) == count


def _shorten(config: Any, lists: dict[str, list[Any]], count: int) -> None:
    for name, value in lists.items():
        setattr(config, name, value)
    config.num_hidden_layers = count


def _replace(module: torch.nn.Module, path: str, new: torch.nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(module.get_submodule(parent), name, new)


def _hide_numbers(layers: torch.nn.Module) -> Iterator[tuple[torch.nn.Module, str, Any]]:
    """Replace every layer number by something that cannot be used; yield what was there."""
    for one in layers.modules():
        for name in INDEX_NAMES:
            if isinstance(vars(one).get(name), int):
                yield one, name, vars(one)[name]
                setattr(one, name, _Unusable())


class _Unusable:
    """Raises `LayerIndexUsed` for anything done with it."""

    def _refuse(self, *_: Any) -> NoReturn:
        raise LayerIndexUsed

    __index__ = __int__ = __float__ = __bool__ = __hash__ = _refuse
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = _refuse
    __mod__ = __floordiv__ = __truediv__ = __rtruediv__ = __str__ = __format__ = _refuse


def representatives_of(kinds: Sequence[int]) -> dict[int, int]:
    """For each kind, where its representative stands in the shortened list."""
    return {kind: place for place, kind in enumerate(sorted(set(kinds)))}
