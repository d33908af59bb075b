"""Tracing a folder takes one layer of each kind and next to no memory, however large the model."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from intaglio.compiler.frontends.torch_module.export import export_module
from intaglio.compiler.frontends.tracing import trace

BYTES = 2  # per bfloat16
SMOLLM2 = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
}
LLAMA_1B = {
    "vocab_size": 128256,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}


def _write_sparse(folder: Path, **sizes: int) -> int:
    """A llama of zeros in a file that takes no space on disk; how many bytes it has."""
    config = transformers.LlamaConfig(**sizes, tie_word_embeddings=True, max_position_embeddings=8192)
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config)
    table: dict[str, Any] = {}
    end = 0
    for name, parameter in model.named_parameters():
        start, end = end, end + BYTES * parameter.numel()
        table[name] = {"dtype": "BF16", "shape": list(parameter.shape), "data_offsets": [start, end]}
    header = json.dumps(table).encode()
    config.save_pretrained(folder)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + end)
    return end


def _anonymous() -> int:
    """Bytes of memory of this process that belong to no file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def test_thirty_equal_layers_are_traced_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exported = []

    def record(module: torch.nn.Module, *arguments: Any, **keywords: Any) -> Any:
        exported.append(sum(name.endswith("q_proj") for name, _ in module.named_modules()))
        return export_module(module, *arguments, **keywords)

    monkeypatch.setattr("intaglio.compiler.frontends.huggingface.decoder_trace.export_module", record)
    _write_sparse(tmp_path, **SMOLLM2)
    traced = trace(tmp_path)
    assert exported == [1]
    assert sum(node.op_type == "Attention" for node in traced.model.graph) == 30


@pytest.mark.slow
def test_a_billion_parameters_take_no_memory_to_trace(tmp_path: Path) -> None:
    size = _write_sparse(tmp_path, **LLAMA_1B)
    before = _anonymous()
    traced = trace(tmp_path)
    assert size > 2e9
    assert traced.source.bytes > size
    assert _anonymous() - before < 300e6
