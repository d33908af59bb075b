"""Whole graphs: same inputs, outputs and numbers, canonical ops inside, for any batch and sequence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from intaglio.passes.normalize import Expected, normalize_graph

pytest.importorskip("onnxruntime")
from intaglio.backends.onnxruntime.session import OnnxRuntimeSession
from intaglio.compiler.frontends.torch_module.export import export_module

WIDTH, HEADS = 16, 2


class RmsNorm(torch.nn.Module):
    """As transformers spells it, Gemma's `1 + w` included."""

    def __init__(self, offset: float) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.rand(WIDTH))
        self.offset = offset

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        normal = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
        return (normal * (self.offset + self.weight.float())).type_as(x)


class Block(torch.nn.Module):
    """A layer of an encoder, every part spelled out."""

    def __init__(self, offset: float, causal: bool) -> None:
        super().__init__()
        self.first, self.second = RmsNorm(offset), torch.nn.LayerNorm(WIDTH)
        self.qkv, self.out = torch.nn.Linear(WIDTH, 3 * WIDTH), torch.nn.Linear(WIDTH, WIDTH, bias=False)
        self.gate_up, self.down = torch.nn.Linear(WIDTH, 48), torch.nn.Linear(24, WIDTH)
        self.causal = causal

    def forward(self, x: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        x = x + self.out(self.mixed(self.first(x), keep))
        gate, up = self.gate_up(self.second(x)).chunk(2, dim=-1)
        hidden = torch.nn.functional.silu(gate) if self.causal else torch.nn.functional.gelu(gate)
        return x + self.down(hidden * up)

    def mixed(self, x: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        batch, sequence, _ = x.shape
        parts = self.qkv(x).split(WIDTH, dim=-1)
        q, k, v = (one.view(batch, sequence, HEADS, -1).transpose(1, 2) for one in parts)
        scores = q @ k.transpose(2, 3) * 8**-0.5
        scores = scores + (1.0 - keep[:, None, None, :].float()) * torch.finfo(torch.float32).min
        if self.causal:
            steps = torch.arange(sequence)
            scores = scores.masked_fill(steps[None, :] > steps[:, None], float("-inf"))
        weights = torch.softmax(scores, -1, dtype=torch.float32).to(q.dtype)
        return (weights @ v).transpose(1, 2).reshape(batch, sequence, -1)


@pytest.mark.parametrize(("offset", "causal"), [(0.0, False), (1.0, True)])
def test_a_module_becomes_canonical(offset: float, causal: bool) -> None:
    torch.manual_seed(0)
    block = Block(offset, causal).eval()
    example = (torch.randn(2, 5, WIDTH), torch.ones(2, 5, dtype=torch.int64))
    names = {0: "batch", 1: "sequence"}
    model = export_module(block, example, dynamic_shapes=(names, names))
    signature = [(one.name, one.dtype, one.shape) for one in (*model.graph.inputs, *model.graph.outputs)]
    result = normalize_graph(model, expected=Expected(attentions=1, norms=2, gated=1, rotary_embeddings=0))
    assert result.declined == ()
    assert signature == [
        (one.name, one.dtype, one.shape) for one in (*model.graph.inputs, *model.graph.outputs)
    ]
    ops = Counter(node.op_type for node in model.graph)
    assert {
        one: ops[one] for one in ("MatMul", "Softmax", "Gemm", "RMSNormalization", "LayerNormalization")
    } == {
        "MatMul": 4,
        "Softmax": 0,
        "Gemm": 0,
        "RMSNormalization": 1,
        "LayerNormalization": 1,
    }
    assert ops["SwiGLU" if causal else "GeGLU"] == ops["Attention"] == 1
    attention = next(node for node in model.graph if node.op_type == "Attention")
    assert attention.attributes["is_causal"].as_int() == int(causal)
    assert attention.inputs[3].dtype == ir.DataType.BOOL
    session = OnnxRuntimeSession(model, threads=1)
    for batch, sequence in ((1, 1), (3, 7)):
        x, keep = torch.randn(batch, sequence, WIDTH), torch.ones(batch, sequence, dtype=torch.int64)
        keep[-1, sequence // 2 + 1 :] = 0
        with torch.no_grad():
            expected = block(x, keep).numpy()
        feeds = dict(
            zip([str(one.name) for one in model.graph.inputs], (x.numpy(), keep.numpy()), strict=True)
        )
        (found,) = session.run(feeds).values()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_a_model_of_an_old_opset_is_left_alone(parse: Callable[..., ir.Model]) -> None:
    model = parse("g (float[2] x) => (float[2] y) { a = Identity(x)  y = Neg(a) }")
    model.metadata_props["intaglio.opset_kept"] = "Upsample has no successor"
    before = len(model.graph)
    result = normalize_graph(model, expected=Expected(attentions=1))
    assert [one.reason for one in result.declined] == ["Upsample has no successor"]
    assert len(model.graph) == before


def test_what_was_expected_and_is_not_there_is_told(parse: Callable[..., ir.Model]) -> None:
    model = parse("g (float[2] x) => (float[2] y) { y = Neg(x) }")
    expected = Expected(attentions=1, rotary_embeddings=2, norms=3, gated=4)
    assert [one.reason for one in normalize_graph(model, expected=expected).declined] == [
        "expected 3 norms, found 0",
        "expected 4 gated activations, found 0",
        "expected 2 rotary embeddings, found 0",
        "expected 1 Attention, found 0",
    ]


BRANCHES = """
<ir_version: 10, opset_import: ["" : 25]>
g (bool flag, float[b, 4] x) => (float[b, 4] y)
<float[4] one = {1, 1, 1, 1}>
{
  a = Identity(x)
  s = Mul(a, one)
  z = If (flag) <
    then_branch = t () => (float[b, 4] u) { i = Identity(a)  u = Add(i, s) },
    else_branch = e () => (float[b, 4] v) { v = Identity(s) }
  >
  y = Identity(z)
}
"""


def test_branches_keep_what_they_read() -> None:
    model = ir.from_onnx_text(BRANCHES)
    normalize_graph(model)
    onnx.checker.check_model(ir.to_proto(model))
    session = OnnxRuntimeSession(model, threads=1)
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    for flag, factor in ((True, 2), (False, 1)):
        found = session.run({"flag": np.array(flag), "x": x})["y"]
        np.testing.assert_allclose(found, factor * x)
    bodies: list[Any] = [
        one for node in model.graph for one in node.attributes.values() if one.name.endswith("branch")
    ]
    assert sorted(len(one.as_graph()) for one in bodies) == [1, 2]


def test_a_fused_encoder_layer_of_onnxruntime(parse: Callable[..., ir.Model]) -> None:
    """As onnxruntime's optimiser leaves it: everything of `com.microsoft`."""
    random = np.random.default_rng(0)
    weights = {
        "m": random.standard_normal((WIDTH, 3 * WIDTH)),
        "c": random.standard_normal(3 * WIDTH),
        "o": random.standard_normal((WIDTH, WIDTH)),
        "w": random.standard_normal(WIDTH),
        "b": random.standard_normal(WIDTH),
        "up": random.standard_normal((WIDTH, 32)),
        "ub": random.standard_normal(32),
        "down": random.standard_normal((32, WIDTH)),
    }
    text = f"""g (float[batch, sequence, {WIDTH}] x, int32[batch, sequence] mask)
      => (float[batch, sequence, {WIDTH}] y) {{
      a = com.microsoft.Attention<num_heads = 2>(x, m, c, mask)
      p = MatMul(a, o)
      n = com.microsoft.SkipLayerNormalization<epsilon = 0.00001>(p, x, w, b)
      u = MatMul(n, up)
      h = com.microsoft.BiasGelu(u, ub)
      d = MatMul(h, down)
      y = com.microsoft.SkipLayerNormalization<epsilon = 0.00001>(d, n, w, b) }}"""
    header = '<ir_version: 10, opset_import: ["" : 25, "com.microsoft" : 1]> '
    model = parse(text, header=header, **{name: one.astype(np.float32) for name, one in weights.items()})
    x = random.standard_normal((2, 5, WIDTH)).astype(np.float32)
    feeds = {"x": x, "mask": np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], np.int32)}
    expected = OnnxRuntimeSession(model, threads=1).run(feeds)["y"]
    result = normalize_graph(model, expected=Expected(attentions=1, norms=2))
    assert result.declined == ()
    assert {node.domain for node in model.graph} == {""}
    sites = [node.metadata_props.get("intaglio.site") for node in model.graph if node.op_type == "MatMul"]
    assert len(set(sites)) == len(sites) == 4
    found = OnnxRuntimeSession(model, threads=1).run(feeds)["y"]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
