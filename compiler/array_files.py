"""Inputs and outputs of a compiled graph in files of numpy's."""

from __future__ import annotations

import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from intaglio.compiler.array_exchange import Array
from intaglio.compiler.compiled_graph import CompiledGraph
from intaglio.compiler.errors import OptionError
from intaglio.compiler.folders import disk_errors
from intaglio.compiler.graph_ports import GraphPorts


def read_arrays(path: str | Path, ports: GraphPorts | None = None) -> dict[str, Array]:
    """The arrays in the `.npz` file `path` by name; nothing in it is executed.

    bfloat16, which numpy cannot store, comes as uint16 bits, and is turned into what `ports` wants.
    Raises `OptionError` where the file cannot be read.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {str(name): file[name] for name in file.files}
    except (OSError, ValueError, AttributeError, zipfile.BadZipFile) as error:
        raise OptionError(
            f"inputs: {path} is no .npz file ({error}): give one that numpy.savez wrote."
        ) from error
    wanted = {} if ports is None else ports.inputs
    return {
        name: _undisguised(one, wanted[name].dtype if name in wanted else "") for name, one in arrays.items()
    }


def call_with_file(compiled: CompiledGraph, inputs: str | Path, output: str | Path) -> dict[str, Any]:
    """Call a graph with the arrays in `inputs`, and write its outputs to `output`; what came of it.

    Raises `OptionError` for inputs that do not fit, `ArtifactError` where `output` cannot be written.
    """
    arrays = read_arrays(inputs, compiled.ports)
    start = time.perf_counter()
    results = compiled.call_by_name(arrays)
    seconds = time.perf_counter() - start
    place = Path(output).absolute()
    with disk_errors("run", place), zipfile.ZipFile(place, "w") as file:
        for name, one in results.items():  # numpy.savez takes no array called "file"
            with file.open(f"{name}.npy", "w", force_zip64=True) as opened:
                np.lib.format.write_array(opened, _disguised(one), allow_pickle=False)
    described = {name: {"dtype": one.dtype.name, "shape": list(one.shape)} for name, one in results.items()}
    return {"path": str(place), "seconds": seconds, "outputs": described}


def _undisguised(array: Array, dtype: str) -> Array:
    if dtype == "bfloat16" and array.dtype == np.uint16:
        import ml_dtypes

        return array.view(ml_dtypes.bfloat16)
    return array


def _disguised(array: Array) -> Array:
    return array.view(np.uint16) if array.dtype.name == "bfloat16" else array
