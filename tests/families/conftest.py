"""Compiles models of folders quickly: imports TVM once, builds each kernel once, traces a model once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from intaglio.compiler import building
from intaglio.compiler.frontends.frontend import TraceOptions
from intaglio.compiler.frontends.traced import Traced


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def trace_once() -> Callable[..., Traced]:
    """`trace` that reads a folder once; every caller gets a graph of its own."""
    found: dict[str, Traced] = {}
    original = building.trace  # kept, since tests put this one in its place

    def trace(model: Any, options: TraceOptions | None = None) -> Traced:
        key = repr((model, options or TraceOptions()))
        if key not in found:
            found[key] = original(model, options)
        return dataclasses.replace(found[key], model=found[key].model.clone())

    return trace


@pytest.fixture
def quick(
    monkeypatch: pytest.MonkeyPatch, trace_once: Callable[..., Traced], quick_build: Callable[..., None]
) -> Callable[..., Traced]:
    """Makes `intaglio.compile` quick while a test runs; the value is the tracer."""
    monkeypatch.setattr("intaglio.compiler.building.trace", trace_once)
    monkeypatch.setattr("intaglio.compiler.pipeline.build_library", quick_build)
    monkeypatch.setattr("intaglio.compiler.native_graph.build_library", quick_build)
    return trace_once
