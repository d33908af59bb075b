"""Fixtures for the front ends: the SmolLM2 file, and transformers' model of any llama file."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

HELPERS = Path(__file__).parents[1] / "helpers"


def load_helper(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"intaglio_test_helpers_{name}", HELPERS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def load_llama() -> Callable[..., Any]:
    """`load_llama(path) -> LlamaForCausalLM` in float32, by way of the gguf package."""
    pytest.importorskip("gguf")
    pytest.importorskip("transformers")
    function: Callable[..., Any] = load_helper("transformers_llama").load_llama
    return function
