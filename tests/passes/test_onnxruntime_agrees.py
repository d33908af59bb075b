"""Inlined, every treated and fused decoder is plain ONNX: onnxruntime computes what the reference does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx_ir.passes.common import InlinePass

from intaglio.compiler.plan import Plan
from intaglio.passes.fuse import fuse
from intaglio.passes.normalize import Expected, normalize
from intaglio.passes.quantize import apply_treatments

PLANS = ["keep", "int4-g32-asymmetric", "int4-channel", "int8-g32-minimum:a16", "bf16, lm_head=fp32"]


@pytest.mark.parametrize("plan", PLANS)
def test_logits(
    tiny_decoder: Callable[..., Any], run: Callable[..., dict[str, np.ndarray]], plan: str
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    decoder = tiny_decoder(quantization="Q4_1")
    model = decoder.traced()
    normalize(
        model, expected=Expected(attentions=2, gated=2), capacity=decoder.CAPACITY, last_position_only=True
    )
    apply_treatments(model, Plan.parse(plan).sites, Plan.parse(plan).default)
    fuse(model)
    feeds = {"input_ids": decoder.tokens[:, :5], "position": np.zeros(1, np.int64)}
    caches = [one for one in model.graph.inputs if "cache" in str(one.name)]
    feeds |= {one.name: np.zeros([1, *one.shape[1:]], np.float32) for one in caches}
    expected = run(model, **feeds)
    InlinePass()(model)
    stored = ir.to_proto(model)
    onnx.checker.check_model(stored)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(
        stored.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    for name, found in zip(expected, session.run(list(expected), feeds), strict=True):
        np.testing.assert_allclose(found, expected[name], rtol=1e-4, atol=1e-4)
