"""What `import intaglio` offers, and what it costs."""

from __future__ import annotations

import importlib
import json
import statistics
import subprocess
import sys
import time

import pytest

import intaglio
import intaglio.compiler.errors

PUBLIC = {"CompiledModel", "Plan", "Workload", "__version__", "compile", "load"}
HEAVY = {
    "torch",
    "tvm",
    "onnxruntime",
    "numpy",
    "onnx",
    "onnx_ir",
    "transformers",
    "rich",
    "importlib.metadata",
}
FOLDERS = {"kernels", "compiler", "passes", "cost_models", "backends"}
SECONDS = 0.3


def error_names() -> set[str]:
    members = vars(intaglio.compiler.errors).values()
    return {one.__name__ for one in members if isinstance(one, type) and issubclass(one, Exception)}


def seconds(code: str) -> float:
    """Median of five fresh interpreters running `code`."""
    taken = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def test_exported_names() -> None:
    assert set(intaglio.__all__) == PUBLIC | error_names()
    assert intaglio.__all__ == sorted(intaglio.__all__)
    assert dir(intaglio) == intaglio.__all__


@pytest.mark.parametrize("name", sorted(set(intaglio.__all__) - {"__version__"}))
def test_an_exported_name_comes_from_its_home(name: str) -> None:
    value = getattr(intaglio, name)
    assert value.__name__ == name
    assert getattr(importlib.import_module(value.__module__), name) is value
    assert value.__module__.startswith("intaglio.compiler.")


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(AttributeError, match=r"'intaglio' has no attribute 'Compile'"):
        _ = intaglio.Compile


def test_import_loads_nothing_heavy_and_no_bare_folder() -> None:
    code = "import json, sys, intaglio; print(json.dumps(sorted(sys.modules)))"
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    loaded = set(json.loads(printed))
    assert loaded & (HEAVY | FOLDERS) == set()


def test_import_is_quick() -> None:
    assert seconds("import intaglio") - seconds("pass") < SECONDS
