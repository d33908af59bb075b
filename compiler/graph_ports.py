"""Inputs and outputs of a compiled graph: what they are called, and whether arguments fit them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from intaglio.compiler.array_exchange import Array, to_numpy
from intaglio.compiler.errors import OptionError, UnsupportedModelError
from intaglio.compiler.frontends.call_signature import CallSignature

if TYPE_CHECKING:
    import onnx_ir as ir

PORT_TYPES = frozenset(
    {"bool", "bfloat16", "float16", "float32", "float64"}
    | {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
)


@dataclass(frozen=True)
class GraphPort:
    """One input or output."""

    dtype: str  # as numpy calls it, or "bfloat16"
    shape: tuple[int | str | None, ...] | None  # sizes, names of sizes, `None` for unknown ones; or no rank

    def __str__(self) -> str:
        if self.shape is None:
            return f"{self.dtype}[…]"
        return f"{self.dtype}[{', '.join('?' if one is None else str(one) for one in self.shape)}]"

    @property
    def numpy(self) -> np.dtype[Any]:
        """The type of arrays for this port."""
        return np.dtype(ml_dtypes.bfloat16 if self.dtype == "bfloat16" else self.dtype)


@dataclass(frozen=True)
class GraphPorts:
    """All ports by name, in order, and how nested arguments and results map to them."""

    inputs: Mapping[str, GraphPort]
    outputs: Mapping[str, GraphPort]
    call: CallSignature | None = None

    @classmethod
    def of(cls, model: ir.Model, call: CallSignature | None) -> GraphPorts:
        """Those of `model`. Raises `UnsupportedModelError` that lists all that are no arrays numpy knows."""
        graph, problems = model.graph, list[str]()
        fed = [one for one in graph.inputs if not one.is_initializer()]
        inputs = {str(one.name): _port(one, "input", problems) for one in fed}
        outputs = {str(one.name): _port(one, "output", problems) for one in graph.outputs}
        if problems:
            raise UnsupportedModelError("compile: not all inputs and outputs are arrays", problems)
        return cls(inputs, outputs, call)

    def to_data(self) -> dict[str, Any]:
        """As plain JSON data."""
        call = None if self.call is None else self.call.to_data()
        return {"inputs": _port_data(self.inputs), "outputs": _port_data(self.outputs), "call": call}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> GraphPorts:
        """What `to_data` gave."""
        call = None if data["call"] is None else CallSignature.from_data(data["call"])
        return cls(_ports(data["inputs"]), _ports(data["outputs"]), call)

    def arrays(self, given: Mapping[str, Any]) -> dict[str, Array]:
        """`given` as arrays for the inputs. Raises `OptionError` that lists all that does not fit."""
        problems = [
            f"{name!r} is missing ({port})" for name, port in self.inputs.items() if name not in given
        ]
        problems += [f"{name!r} is no input" for name in given if name not in self.inputs]
        arrays = {}
        for name, port in self.inputs.items():
            if name in given:
                arrays[name] = array = to_numpy(given[name], port.numpy)
                problems += [f"{name!r} {one}" for one in _misfits(array, port)]
        problems += [] if self.call is None else _disagreements(arrays, self.inputs)
        if problems:
            known = ", ".join(f"{name} {port}" for name, port in self.inputs.items()) or "none"
            raise OptionError("\n  - ".join([f"call: the inputs do not fit; they are: {known}", *problems]))
        return arrays


def _misfits(array: Array, port: GraphPort) -> Iterator[str]:
    expected = port.numpy
    if array.dtype != expected:
        yield f"is {array.dtype.name}, not {port.dtype}"
    if port.shape is None:
        return
    sizes = zip(array.shape, port.shape, strict=False)
    if array.ndim != len(port.shape) or any(isinstance(size, int) and one != size for one, size in sizes):
        yield f"is {list(array.shape)}, not {port}"


def _disagreements(arrays: Mapping[str, Array], ports: Mapping[str, GraphPort]) -> Iterator[str]:
    """Sizes of one name that differ."""
    seen: dict[str, tuple[int, str]] = {}
    for name, array in arrays.items():
        for size, wanted in zip(array.shape, ports[name].shape or (), strict=False):
            if not isinstance(wanted, str):
                continue
            first, where = seen.setdefault(wanted, (size, name))
            if size != first:
                yield f"{name!r} has {wanted}={size}, {where!r} has {wanted}={first}"


def _port(value: ir.Value, what: str, problems: list[str]) -> GraphPort:
    import onnx_ir as ir

    kind = value.type
    if not isinstance(kind, ir.TensorType):
        problems.append(f"{what} {value.name!r} is {'of unknown type' if kind is None else kind}")
        return GraphPort("", None)
    name = kind.dtype.numpy().name
    if name not in PORT_TYPES:
        problems.append(f"{what} {value.name!r} is {name}")
    shape = value.shape
    return GraphPort(name, None if shape is None else tuple(map(_size, shape)))


def _size(size: int | ir.SymbolicDim) -> int | str | None:
    # Some exporters write -1 for sizes that are open.
    if isinstance(size, int):
        return size if size >= 0 else None
    return size.value


def _port_data(ports: Mapping[str, GraphPort]) -> dict[str, Any]:
    return {name: {"dtype": port.dtype, "shape": port.shape} for name, port in ports.items()}


def _ports(data: Mapping[str, Any]) -> dict[str, GraphPort]:
    return {
        name: GraphPort(one["dtype"], None if one["shape"] is None else tuple(one["shape"]))
        for name, one in data.items()
    }
