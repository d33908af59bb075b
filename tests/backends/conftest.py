"""Tiny decoders, compiled for this machine and run by the reference backend on the graph that was lowered."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import intaglio
from intaglio.backends.reference import ReferenceSession
from intaglio.backends.tvm import NativeSession, Program
from intaglio.compiler.compiled_model import CompiledModel
from intaglio.compiler.frontends.tracing import trace
from intaglio.compiler.plan import Plan
from intaglio.compiler.reference_session import GraphSession
from intaglio.compiler.settings import resolve_plan
from intaglio.passes.normalize import Expected, normalize
from intaglio.passes.quantize import apply_treatments

CHUNK, CONTEXT = 16, 72


class Decoder:
    """One model twice: as native code, and as the treated canonical graph in the reference backend."""

    def __init__(self, path: Path, plan: Plan) -> None:
        workload = intaglio.Workload(prefill=CHUNK, decode=CHUNK)
        self.compiled: CompiledModel = intaglio.compile(
            path, workload=workload, plan=plan, context=CONTEXT, threads=1
        )
        self.program: Program = self.compiled.program
        self.files = {"weights": self.compiled.folder / "weights.bin"}
        self.files["library"] = self.compiled.folder / "program.so"
        vocabulary = self.program.vocabulary
        self.tokens = np.random.default_rng(5).integers(0, vocabulary, 40).tolist()
        self.expected = _reference(path, plan).score(self.tokens)

    def session(self, threads: int = 1) -> NativeSession:
        return NativeSession(self.program, threads=threads, **self.files)


def _reference(path: Path, plan: Plan) -> GraphSession:
    torch.set_num_threads(1)
    traced = trace(path)
    normalize(
        traced.model,
        expected=Expected(attentions=traced.architecture.layers, gated=traced.architecture.layers),
        capacity=CONTEXT,
    )
    apply_treatments(traced.model, *plan.treatments)
    return GraphSession(traced.model, ReferenceSession(traced.model, keep_constants=True))


def _exact(plan: Plan) -> Plan:
    return dataclasses.replace(plan, cache=plan.cache or "fp32")


@pytest.fixture(scope="session")
def tiny_decoder(tiny_gguf: Callable[..., Path], quick_build: Callable[..., None]) -> Callable[..., Decoder]:
    """`tiny_decoder(plan, quantization="Q4_1", …)`; the options are those of `tiny_gguf`.

    Keys and values are float32 unless the plan says otherwise: where they are rounded, so may products be.
    """
    made: dict[str, Decoder] = {}

    def make(plan: str | None = None, **options: Any) -> Decoder:
        key = repr((plan, sorted(options.items())))
        if key not in made:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("intaglio.compiler.pipeline.build_library", quick_build)
                made[key] = Decoder(tiny_gguf(**options), _exact(resolve_plan(plan)))
        return made[key]

    return make
