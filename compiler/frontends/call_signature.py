"""How nested arguments become a graph's inputs, and its outputs a nested result; plain data, no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from intaglio.compiler.errors import OptionError

# A nest of lists, tuples and dicts whose leaves are names of graph values, `None` for nothing, or `Fixed`.
Structure = Any


@dataclass(frozen=True)
class Fixed:
    """A number, truth value or text that was compiled in: a call must give the same."""

    value: bool | int | float | str


@dataclass(frozen=True)
class CallSignature:
    """A call `f(*arguments, **keywords) -> result`, its leaves being names of inputs and outputs."""

    arguments: tuple[Structure, ...]
    keywords: Mapping[str, Structure]
    result: Structure
    parameters: tuple[str, ...] = ()  # names of f's parameters, by which arguments may also be given

    def inputs(self, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> dict[str, Any]:
        """Leaves by name. Raises `OptionError` that lists every difference between call and signature.

        Where `parameters` are known, an argument may be given by position or by name, whichever was compiled.
        """
        found: dict[str, Any] = {}
        positional, named = self._arranged(tuple(arguments), dict(keywords))
        problems = list(_collect(self.arguments, positional, "arguments", found))
        problems += _collect(dict(self.keywords), named, "keywords", found)
        if problems:
            raise OptionError("call: " + "; ".join(problems) + ".")
        return found

    def outputs(self, values: Mapping[str, Any]) -> Any:
        """The nested result whose leaves are `values`."""
        return _filled(self.result, values)

    def to_data(self) -> dict[str, Any]:
        """As plain JSON data; tuples are marked, so that they come back as tuples."""
        return {name: _marked(one) for name, one in vars(self).items()}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> CallSignature:
        """What `to_data` gave."""
        return cls(**{name: _unmarked(one) for name, one in data.items()})

    def _arranged(
        self, arguments: tuple[Any, ...], keywords: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The same call with each argument given in the way that was compiled."""
        expected = len(self.arguments)
        extra = dict(zip(self.parameters[expected:], arguments[expected:], strict=False))
        if len(arguments) > expected and (
            len(extra) < len(arguments) - expected or extra.keys() & keywords.keys()
        ):
            return arguments, keywords  # too many: the difference is reported as it is
        keywords = {**extra, **keywords}
        missing = self.parameters[len(arguments) : expected]
        if len(arguments) < expected and missing and all(name in keywords for name in missing):
            arguments += tuple(keywords.pop(name) for name in missing)
        return arguments[:expected], keywords


def _collect(structure: Structure, given: Any, place: str, found: dict[str, Any]) -> Iterator[str]:
    """Put the leaves of `given` into `found`; yield what does not fit."""
    if structure is None:
        if given is not None:
            yield f"{place} is {type(given).__name__}, compiled with None"
    elif isinstance(structure, Fixed):
        if type(given) is not type(structure.value) or given != structure.value:
            yield f"{place} is {given!r}, compiled with {structure.value!r} as a constant"
    elif isinstance(structure, str):
        found[structure] = given
    elif isinstance(structure, dict):
        yield from _collect_dict(structure, given, place, found)
    elif not isinstance(given, list | tuple) or len(given) != len(structure):
        size = f"{len(given)} values" if isinstance(given, list | tuple) else type(given).__name__
        yield f"{place} has {size}, compiled with {len(structure)}"
    else:
        for index, (inner, one) in enumerate(zip(structure, given, strict=True)):
            yield from _collect(inner, one, f"{place}[{index}]", found)


def _collect_dict(
    structure: dict[str, Structure], given: Any, place: str, found: dict[str, Any]
) -> Iterator[str]:
    if not isinstance(given, Mapping):
        yield f"{place} is {type(given).__name__}, compiled with a dict"
        return
    yield from (f"{place}: {name!r} is missing" for name in structure if name not in given)
    yield from (f"{place}: {name!r} is unknown" for name in given if name not in structure)
    for name, inner in structure.items():
        if name in given:
            yield from _collect(inner, given[name], f"{place}[{name!r}]", found)


def _filled(structure: Structure, values: Mapping[str, Any]) -> Any:
    if isinstance(structure, str):
        return values[structure]
    if isinstance(structure, dict):
        return {name: _filled(one, values) for name, one in structure.items()}
    if structure is None or isinstance(structure, Fixed):
        return structure.value if isinstance(structure, Fixed) else None
    return type(structure)(_filled(one, values) for one in structure)


def _marked(structure: Structure) -> Any:
    if isinstance(structure, Fixed):
        return {"fixed": structure.value}
    if isinstance(structure, Mapping):
        return {"dict": {name: _marked(one) for name, one in structure.items()}}
    if isinstance(structure, list | tuple):
        return {type(structure).__name__: [_marked(one) for one in structure]}
    return structure


def _unmarked(data: Any) -> Structure:
    if not isinstance(data, dict):
        return data
    ((kind, content),) = data.items()
    if kind == "fixed":
        return Fixed(content)
    if kind == "dict":
        return {name: _unmarked(one) for name, one in content.items()}
    return (tuple if kind == "tuple" else list)(_unmarked(one) for one in content)
