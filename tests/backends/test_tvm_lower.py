"""Lowering: what becomes of regions, and what is refused, all at once."""

from __future__ import annotations

import itertools

import numpy as np
import onnx_ir as ir
import pytest

from intaglio.backends.tvm.lower import lower
from intaglio.compiler.errors import UnsupportedModelError
from intaglio.compiler.frontends.tracing import trace
from intaglio.compiler.plan import Plan
from intaglio.passes.fuse import fuse
from intaglio.passes.normalize import Expected, normalize
from intaglio.passes.quantize import apply_treatments


@pytest.fixture
def fused(tiny_gguf):
    """`fused(plan, **options)`: the fused decoder of a tiny llama."""

    def make(plan: str = "keep", **options):
        model = trace(tiny_gguf(**options)).model
        normalize(model, expected=Expected(attentions=2, gated=2), capacity=24)
        settled = Plan.parse(plan)
        apply_treatments(model, settled.sites, settled.default)
        return fuse(model).model

    return make


def lowered(model):
    return lower(model, capacity=24, chunk=16)


def test_sites(fused):
    result = lowered(fused(quantization="Q4_0"))
    sites = {one.site: one for one in result.sites}
    assert list(sites)[:6] == [
        "embed_tokens",
        "layers.0.self_attn.qkv_proj",
        "layers.0.self_attn.attention",
        "layers.0.self_attn.o_proj",
        "layers.0.mlp.gate_up_proj",
        "layers.0.mlp.down_proj",
    ]
    head, gate = sites["lm_head"], sites["layers.0.mlp.gate_up_proj"]
    assert (gate.shape, gate.format) == ((192, 64), "int4, groups of 32, float16 scales")
    assert gate.bytes == 192 * 64 // 2 + 192 * 2 * 2
    assert head.bytes == 304 * 64 + 304 * 2 * 2  # 300 rows in blocks of 16
    assert {"QuantizedMatrixVector", "QuantizedMatrixMatrix"} <= set(gate.kernels)
    assert result.program.bytes_per_token == sum(one.bytes for one in result.sites)
    assert result.program.multiply_adds_per_token == 2 * (64 * 128 + 64 * 64 + 3 * 64 * 96) + 300 * 64
    assert result.program.cache_bytes_per_position == 2 * 2 * 4 * 32


def test_layers_of_one_treatment_share_kernels(fused):
    one, all_alike = (lowered(fused(plan)) for plan in ("keep, layers.1.mlp.down_proj=int8-channel", "keep"))
    assert len(all_alike.program.kernels) < len(one.program.kernels)


def test_a_tied_table_is_stored_once(fused, tmp_path):
    tied, untied = lowered(fused()), lowered(fused(tied=False, embedding_quantization="Q4_0"))
    sizes = [one.write_weights(tmp_path / f"{index}.bin") for index, one in enumerate((tied, untied))]
    assert sizes == [one.program.weight_bytes for one in (tied, untied)]
    assert [(tmp_path / f"{index}.bin").stat().st_size for index in (0, 1)] == sizes
    tables = {
        stage.site: tied.program.buffers[stage.buffers[0]]
        for stage in tied.program.tables[0].stages
        if stage.site in ("embed_tokens", "lm_head")
        and "codes" in tied.program.buffers[stage.buffers[0]].name
    }
    assert tables["embed_tokens"] == tables["lm_head"]


def test_buffers_do_not_overlap(fused):
    """Two buffers of a space share no byte, and all are aligned."""
    program = lowered(fused()).program
    for space in ("weights", "state", "workspace", "logits", "tokens"):
        mine = sorted((one.offset, one.bytes) for one in program.buffers if one.space == space)
        assert all(offset % 64 == 0 for offset, _ in mine)
        assert all(first + size <= second for (first, size), (second, _) in itertools.pairwise(mine))


def test_everything_without_a_kernel_is_listed(fused):
    """Attention of both layers, with all that is unknown about it, and a node outside of any region."""
    model = fused()
    for function in model.functions.values():
        for node in function:
            if node.op_type == "Attention":
                node.attributes["softcap"] = ir.AttrFloat32("softcap", 30.0)
                node.attributes["scale"] = ir.AttrFloat32("scale", 1.0)
    logits = model.graph.outputs[0]
    model.graph.append(ir.node("Tanh", [logits], name="stray"))
    with pytest.raises(UnsupportedModelError) as caught:
        lowered(model)
    names = [problem.split(":")[0] for problem in caught.value.problems]
    assert len(names) == 3
    assert names[2] == "stray"
    assert all("scale 1.0" in one and "softcap 30.0" in one for one in caught.value.problems[:2])
    assert all(problem in str(caught.value) for problem in caught.value.problems)


def test_a_model_that_was_not_fused(tiny_gguf):
    model = trace(tiny_gguf()).model
    with pytest.raises(UnsupportedModelError) as caught:
        lowered(model)
    assert sum("Attention" in problem for problem in caught.value.problems) == 2
    assert sum("MatMul" in problem for problem in caught.value.problems) == 15


def test_separate_projections_are_whole_blocks(fused):
    """A key head of 8 rows leaves no place for whole vectors of values."""
    narrow = {"heads": 4, "kv_heads": 1, "head_dim": 8, "leave_out": ("blk.1.attn_v.weight",)}
    extra = {"extra_tensors": {"blk.1.attn_v.weight": np.ones((8, 64), np.float32)}}
    with pytest.raises(UnsupportedModelError, match="multiples of 16 rows") as caught:
        lowered(fused(quantization="Q8_0", **narrow, **extra))
    assert len(caught.value.problems) == 2


def test_unreadable_regions_and_unfit_sizes_come_together(fused):
    narrow = {"heads": 4, "kv_heads": 1, "head_dim": 8, "leave_out": ("blk.1.attn_v.weight",)}
    extra = {"extra_tensors": {"blk.1.attn_v.weight": np.ones((8, 64), np.float32)}}
    model = fused(quantization="Q8_0", **narrow, **extra)
    gather = next(node for one in model.functions.values() for node in one if node.op_type == "Gather")
    gather.op_type = "GatherElements"
    with pytest.raises(UnsupportedModelError) as caught:
        lowered(model)
    assert ["Gather" in problem for problem in caught.value.problems] == [True, False, False]
