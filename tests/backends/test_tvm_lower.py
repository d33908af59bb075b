"""Lowering: what becomes of regions, and what is refused, all at once."""

from __future__ import annotations

import itertools

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
    assert {"QuantizedMatrixVector", "QuantizedFewVectors"} <= set(gate.kernels)
    assert result.program.bytes_per_token == sum(one.bytes for one in result.sites)
    assert result.program.multiply_adds_per_token == 2 * (64 * 128 + 64 * 64 + 3 * 64 * 96) + 300 * 64
    assert result.program.cache_bytes_per_position == 2 * 2 * 4 * 32


def test_kernels_follow_the_rows_of_a_table(fused):
    """Up to 64 rows go to the kernels for a few; tables of few rows share them."""
    program = lower(fused(quantization="Q4_0"), capacity=200, chunk=100, batch=3).program
    tables = {one.name: one for one in program.tables}
    assert {name: one.tokens for name, one in tables.items()} == {
        "decode": 1,
        "prefill": 100,
        "score": 64,
        "short": 64,
        "batch": 3,
    }

    def kernels(name: str) -> list[str]:
        gates = [one for one in tables[name].stages if one.site.endswith("gate_up_proj")]
        return [program.kernels[one.kernel].name for one in gates][-1:]

    assert kernels("prefill") == ["QuantizedMatrixMatrix"]
    assert kernels("short") == kernels("score") == kernels("batch") == ["QuantizedFewVectors"]
    few = [one for one in program.kernels if one.name == "QuantizedFewVectors"]
    assert len(few) == 5  # qkv, o, gate and up, down, the head: whatever the table


def test_the_cache_of_a_batch_has_slots(fused):
    one, three = (lower(fused("keep"), capacity=24, chunk=16, batch=size).program for size in (1, 3))
    assert three.space_bytes("state") == 3 * one.space_bytes("state")
    assert three.batch == 3
    assert [table.name for table in one.tables] == ["decode", "prefill", "score"]


@pytest.mark.parametrize(
    ("tokens", "table"), [(1, "decode"), (2, "short"), (64, "short"), (65, "prefill"), (900, "prefill")]
)
def test_the_table_for_a_prompt(fused, tokens, table):
    assert lower(fused("keep"), capacity=200, chunk=100).program.table_for(tokens).name == table


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
    """Two buffers that live between calls share no byte, and all are aligned."""
    program = lowered(fused()).program
    assert all(one.offset % 64 == 0 for one in program.buffers)
    for space in ("weights", "state", "logits", "tokens"):
        mine = sorted((one.offset, one.bytes) for one in program.buffers if one.space == space)
        assert all(first + size <= second for (first, size), (second, _) in itertools.pairwise(mine))


def test_what_has_no_kernel_goes_to_onnxruntime_with_the_reason(fused):
    """Attention of both layers, with all that is unknown about it."""
    model = fused()
    for function in model.functions.values():
        for node in function:
            if node.op_type == "Attention":
                node.attributes["qk_matmul_output_mode"] = ir.AttrInt64("qk_matmul_output_mode", 2)
                node.attributes["right_window_size"] = ir.AttrInt64("right_window_size", 3)
    result = lowered(model)
    foreign = [one for one in result.sites if one.backend == "onnxruntime"]
    assert [one.site for one in foreign] == [f"layers.{layer}.self_attn.attention" for layer in (0, 1)]
    assert all("qk_matmul_output_mode 2, right_window_size 3" in one.reason for one in foreign)
    assert [one.handover_bytes for one in foreign] == [4 * (128 + 64)] * 2
    assert [one.caches for one in result.program.foreign] == [
        (f"key_cache.{layer}", f"value_cache.{layer}") for layer in (0, 1)
    ]
    assert [len(table.foreign) for table in result.program.tables] == [2, 2, 2]


def test_a_model_that_was_not_fused_is_one_region_of_onnxruntime(tiny_gguf):
    model = trace(tiny_gguf()).model
    result = lowered(model)
    assert [len(table.stages) for table in result.program.tables] == [1, 1, 0]  # maxima
    assert len(result.program.foreign) == 1
    assert sum("Attention fits no region" in one.reason for one in result.sites) == 2


def test_values_that_cannot_be_handed_over_are_listed(fused):
    """The row that a reduction leaves is no row of [batch, sequence, columns]."""
    model = fused()
    first = next(node for node in model.graph if node.op_type == "LinearAdd")
    x = first.outputs[0]
    reduced = ir.node("ReduceMean", [x], {"keepdims": 0, "noop_with_empty_axes": 0}, name="stray")
    reduced.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    reduced.outputs[0].shape = ir.Shape([])
    model.graph.insert_after(first, reduced)
    second = next(node for node in model.graph if node.op_type == "NormGatedLinear")
    second.replace_input_with(0, reduced.outputs[0])
    with pytest.raises(UnsupportedModelError, match="cannot share") as caught:
        lowered(model)
    assert len(caught.value.problems) == 1


def test_activation_groups_without_a_kernel(fused):
    """Groups of four activations: the layer runs in onnxruntime, the others do not."""
    result = lowered(fused("keep, layers.0.self_attn.o_proj=int8-g32:a8g4"))
    (foreign,) = [one for one in result.sites if one.backend == "onnxruntime"]
    assert foreign.site == "layers.0.self_attn.o_proj"
    assert "activation group 4 must be a multiple of 8" in foreign.reason
