"""Sizes that may change from call to call: as users name them, and as `torch.export` wants them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.export import Dim
from torch.utils import _pytree as pytree

from intaglio.compiler.errors import OptionError

_FIXES = "Suggested fixes:"
_RANGE = re.compile(r"(\w+) = Dim\('\w+'(?:, min=(\d+))?(?:, max=(\d+))?\)")
_NAMED = re.compile(r"(\w+)(?: *<= *(\d+))?")
SMALLEST_EXAMPLE = 2  # sizes of 0 and 1 would be taken for constants, because they broadcast

Sizes = dict[int, Any]  # axis → `Dim`, a hint such as `Dim.AUTO`, or a size


@dataclass(frozen=True)
class Example:
    """Example arguments, ready for `torch.export`."""

    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    dynamic_shapes: dict[str, Any] | None
    names: tuple[Mapping[int, str], ...]  # for each leaf of (arguments, keywords): axis → name of its size
    free: frozenset[str] = frozenset()  # names given as such, without a range that somebody counts on

    def narrowed(self, complaint: str) -> Example | None:
        """The example with free sizes kept to the ranges that `torch.export` asks for in `complaint`.

        None where it asks for anything else, such as one fixed size.
        """
        asked = complaint.partition(_FIXES)[2].partition("\n\n")[0].split("\n")
        found = [_RANGE.fullmatch(one.strip()) for one in asked if one.strip()]
        ranges = {one[1]: _ranged(one) for one in found if one is not None and one[1] in self.free}
        if not found or len(ranges) < len(found):
            return None
        shapes = pytree.tree_map(
            lambda one: ranges.get(getattr(one, "__name__", ""), one), self.dynamic_shapes
        )
        return replace(self, dynamic_shapes=shapes)


def prepare_example(
    module: torch.nn.Module, arguments: Sequence[Any], keywords: Mapping[str, Any], dynamic_shapes: Any
) -> Example:
    """Arguments of a call, and their dynamic shapes by parameter with names turned into `torch.export.Dim`s.

    A name may have a bound: "sequence <= 512".

    Tensors are replaced by aliases, or, where a dynamic size is below 2, by larger ones (of zeros: a trace
    looks at no values). Raises `OptionError` that lists everything wrong with arguments and shapes.
    """
    # Aliases, so that one tensor given twice still makes two inputs.
    args, kwargs = pytree.tree_map_only(torch.Tensor, torch.Tensor.detach, (tuple(arguments), dict(keywords)))
    reader = ShapeReader()
    shapes = reader.read_all(_parameters(module, args, kwargs), dynamic_shapes)
    if problems := [*reader.problems, *reader.contradictions()]:
        raise OptionError("\n  - ".join(["trace: example_inputs and dynamic_shapes do not fit:", *problems]))
    names = tuple(_names(reader.sizes.get(id(leaf), {})) for leaf in pytree.tree_leaves((args, kwargs)))
    larger = {leaf: _enlarged(leaf, reader.sizes[id(leaf)]) for leaf in reader.tensors}
    args, kwargs = pytree.tree_map_only(torch.Tensor, lambda one: larger.get(one, one), (args, kwargs))
    return Example(args, kwargs, shapes, names, frozenset(reader.free))


class ShapeReader:
    """Reads dynamic shapes beside the values that they describe."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.sizes: dict[int, Sizes] = {}  # by the id of a tensor
        self.tensors: list[torch.Tensor] = []  # those with dynamic sizes
        self.free: dict[str, Any] = {}  # names given as text, and the `Dim` made for each
        self._examples: dict[str, dict[str, int]] = {}  # name of a size → place → size

    def read_all(self, parameters: Mapping[str, Any], shapes: Any) -> dict[str, Any] | None:
        """Shapes for each of `parameters`, a call's values by name; none where none are given."""
        if shapes is None:
            return None
        if not isinstance(shapes, Mapping):
            shapes = self._by_position(list(parameters), shapes)
        unknown = sorted(str(name) for name in shapes if name not in parameters)
        known = ", ".join(parameters) or "no parameters"
        self.problems += [f"dynamic_shapes: {name!r} is no argument; there are {known}" for name in unknown]
        return {name: self.read(value, shapes.get(name), name) for name, value in parameters.items()}

    def read(self, value: Any, shape: Any, place: str) -> Any:
        """`shape` as `torch.export` wants it for `value`."""
        if shape is None:
            return pytree.tree_map(lambda _: None, value)
        if isinstance(value, torch.Tensor):
            return self._tensor(value, shape, place)
        if isinstance(value, Mapping) and isinstance(shape, Mapping):
            self.problems += [f"{place}: {name!r} is not there" for name in shape if name not in value]
            return {
                name: self.read(one, shape.get(name), f"{place}[{name!r}]") for name, one in value.items()
            }
        if isinstance(value, list | tuple) and isinstance(shape, list | tuple) and len(value) == len(shape):
            pairs = zip(value, shape, strict=True)
            return (list if isinstance(value, list) else tuple)(
                self.read(*pair, f"{place}[{i}]") for i, pair in enumerate(pairs)
            )
        self.problems.append(f"{place}: {type(value).__name__} cannot have the shape {shape!r}")
        return None

    def contradictions(self) -> Iterable[str]:
        """Names that stand for several sizes."""
        for name, places in self._examples.items():
            if len(set(places.values())) > 1:
                shown = ", ".join(f"{size} in {place}" for place, size in places.items())
                yield f"{name!r} is {shown}: give examples of one size, or use two names"

    def _by_position(self, names: Sequence[str], shapes: Any) -> dict[str, Any]:
        if not isinstance(shapes, list | tuple):
            self.problems.append(f"dynamic_shapes is {shapes!r}: give a dict by parameter, or a list")
            return {}
        if len(shapes) != len(names):
            self.problems.append(f"dynamic_shapes has {len(shapes)} entries for {len(names)} arguments")
        return dict(zip(names, shapes, strict=False))

    def _tensor(self, value: torch.Tensor, shape: Any, place: str) -> Sizes | None:
        rank = value.dim()
        if isinstance(shape, list | tuple) and len(shape) == rank:
            shape = dict(enumerate(shape))
        if not isinstance(shape, Mapping):
            self.problems.append(f"{place}: {shape!r} is no shape of {rank} axes: give {{axis: name}}")
            return None
        beyond = [axis for axis in shape if not isinstance(axis, int) or not -rank <= axis < rank]
        self.problems += [
            f"{place}: there is no axis {axis!r} in shape {tuple(value.shape)}" for axis in beyond
        ]
        axes = {axis % rank: size for axis, size in shape.items() if axis not in beyond}
        sizes = {
            axis: self._size(size, value.shape[axis], f"{place} axis {axis}") for axis, size in axes.items()
        }
        self.sizes[id(value)] = sizes
        self.tensors.append(value)
        return sizes

    def _size(self, size: Any, example: int, place: str) -> Any:
        if isinstance(size, str):
            size = self._free_size(size, place)
        if (name := getattr(size, "__name__", None)) is not None:
            self._examples.setdefault(name, {})[place] = example
        return size

    def _free_size(self, text: str, place: str) -> Any:
        found = _NAMED.fullmatch(text)
        if found is None or not found[1].isidentifier():
            self.problems.append(f'{place}: {text!r} is no size: give a name, or "name <= largest"')
            return None
        name, largest = found.groups()
        return self.free.setdefault(name, Dim(name, max=int(largest) if largest else None))


def _parameters(module: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return inspect.signature(module.forward).bind(*args, **kwargs).arguments
    except TypeError as error:
        raise OptionError(
            f"trace: example_inputs do not fit {type(module).__qualname__}.forward: {error}."
        ) from error


def _is_dynamic(size: Any) -> bool:
    return size is not None and not isinstance(size, int) and size != Dim.STATIC


def _names(sizes: Sizes) -> dict[int, str]:
    named = {axis: getattr(size, "__name__", None) for axis, size in sizes.items()}
    return {axis: name for axis, name in named.items() if name is not None and name.isidentifier()}


def _enlarged(value: torch.Tensor, sizes: Sizes) -> torch.Tensor:
    dynamic = {axis for axis, size in sizes.items() if _is_dynamic(size)}
    shape = [
        max(size, SMALLEST_EXAMPLE) if axis in dynamic else size for axis, size in enumerate(value.shape)
    ]
    return value if shape == list(value.shape) else value.new_zeros(shape)


def _ranged(found: re.Match[str]) -> Any:
    name, smallest, largest = found.groups()
    return Dim(name, min=int(smallest or 0), max=int(largest) if largest else None)
