"""Regions that onnxruntime runs: written as a file with its weights beside it, opened with those mapped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray
from onnx_ir.passes.common import InlinePass

from intaglio.backends.onnxruntime.lower import lower
from intaglio.backends.onnxruntime.opening import open_session, state
from intaglio.compiler.errors import ModelError, OptionError, UnsupportedModelError

Array = NDArray[np.generic]

_DTYPES = {
    "float": "float32",
    "double": "float64",
    "float16": "float16",
    "bool": "bool",
    **{f"{sign}int{bits}": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}

# Larger tensors lie in the weights file, each on a page of its own, so that it can be mapped as it is.
PAGE = 4096


@dataclass(frozen=True)
class Port:
    """An input or output of a region."""

    dtype: np.dtype[Any]
    shape: tuple[int | str | None, ...]  # sizes, names of sizes, `None` for sizes without a name


def write_region(model: ir.Model, folder: Path, name: str) -> tuple[str, ...]:
    """Lower a copy of `model` for onnxruntime into `folder`; the names of the files written there.

    They are `{name}.onnx` and, where there are tensors of more than a page, `{name}.weights`. Lazy and mapped
    weights are read one at a time while they are written. `model` itself is left as it is.
    """
    copy = model.clone()
    lower(copy)
    return _write(copy, folder, name)


def write_plain(model: ir.Model, folder: Path, name: str) -> tuple[str, ...]:
    """As `write_region`, with nothing lowered: functions are inlined, and that is all."""
    copy = model.clone()
    InlinePass()(copy)
    return _write(copy, folder, name)


def _write(copy: ir.Model, folder: Path, name: str) -> tuple[str, ...]:
    graph_file, weights_file = f"{name}.onnx", f"{name}.weights"
    ir.save(
        copy,
        folder / graph_file,
        external_data=weights_file,
        size_threshold_bytes=PAGE,
        alignment=PAGE,
        align_threshold=PAGE,
    )
    if (folder / weights_file).stat().st_size:
        return graph_file, weights_file
    (folder / weights_file).unlink()
    return (graph_file,)


class RegionSession:
    """The region file `path`, opened on the CPU with `threads` threads, its weights mapped.

    With `spinning`, threads wait for each other actively during a call, for models of many short nodes.
    `inputs` and `outputs` describe the ports by name, in the region's order.
    Raises `OptionError` for fewer than one thread, `UnsupportedModelError` where onnxruntime has no kernel,
    `ModelError` where it refuses the region for another reason.
    """

    def __init__(self, path: Path, *, threads: int, spinning: bool = False) -> None:
        self._session = open_session(path, threads, spinning=spinning)
        self.inputs = {one.name: _port(one) for one in self._session.get_inputs()}
        self.outputs = {one.name: _port(one) for one in self._session.get_outputs()}
        self._output_names = tuple(self.outputs)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name, in memory of their own.

        onnxruntime reads contiguous arrays where they lie and hands its own memory out: nothing is copied.
        Raises `OptionError` for inputs that do not fit, `ModelError` where the run fails.
        """
        return run_named(self._session, self._output_names, inputs)


def run_named(
    session: onnxruntime.InferenceSession, outputs: Sequence[str], inputs: Mapping[str, Array]
) -> dict[str, Array]:
    """The outputs named, of one run. Raises `OptionError` and `ModelError`."""
    try:
        results = session.run(outputs, dict(inputs))
    except (state.InvalidArgument, ValueError) as error:
        raise OptionError(f"[onnxruntime] run: an input does not fit: {error}") from error
    except Exception as error:
        raise ModelError(f"[onnxruntime] run failed: {error}") from error
    return dict(zip(outputs, results, strict=True))


def _port(one: onnxruntime.NodeArg) -> Port:
    return Port(_dtype(one.type), tuple(one.shape))


def _dtype(kind: str) -> np.dtype[Any]:
    """Of onnxruntime's `tensor(float)` and the like. Raises `UnsupportedModelError` for other kinds."""
    name = kind.removeprefix("tensor(").removesuffix(")")
    if name not in _DTYPES:
        raise UnsupportedModelError("[onnxruntime] an input or output is no array that numpy knows", [kind])
    return np.dtype(_DTYPES[name])
