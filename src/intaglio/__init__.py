"""Intaglio: a graph compiler and hardware co-design toolchain for neural networks.

    compiled = intaglio.compile("model.gguf", target="cpu")
    print(compiled.generate("The capital of France is"))

`compile` takes GGUF and ONNX files, Hugging Face folders, torch modules and ONNX models in memory; what is no
language model is called with inputs of its own.

What needs more than the standard library is loaded when its name is first used, so that `import intaglio`
stays quick and brings in neither torch nor TVM.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from intaglio.compiler.errors import (
    ArtifactError,
    CodegenError,
    ContextLengthError,
    ForeignArtifactError,
    IntaglioError,
    InvariantError,
    ModelError,
    ModelFileError,
    OptionError,
    PassError,
    TamperedArtifactError,
    TargetError,
    UnsupportedModelError,
)

if TYPE_CHECKING:
    from intaglio.compiler.compiled_model import CompiledModel
    from intaglio.compiler.driver import compile, load
    from intaglio.compiler.plan import Plan
    from intaglio.compiler.workload import Workload

__version__ = "0.1.0"

__all__ = [
    "ArtifactError",
    "CodegenError",
    "CompiledModel",
    "ContextLengthError",
    "ForeignArtifactError",
    "IntaglioError",
    "InvariantError",
    "ModelError",
    "ModelFileError",
    "OptionError",
    "PassError",
    "Plan",
    "TamperedArtifactError",
    "TargetError",
    "UnsupportedModelError",
    "Workload",
    "__version__",
    "compile",
    "load",
]

_HOMES: Final = {
    "CompiledModel": "intaglio.compiler.compiled_model",
    "Plan": "intaglio.compiler.plan",
    "Workload": "intaglio.compiler.workload",
    "compile": "intaglio.compiler.driver",
    "load": "intaglio.compiler.driver",
}


def __getattr__(name: str) -> Any:
    """Load a public name from its home; the next use finds it in the module."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
