"""Broken and unfit folders are refused, everything wrong with them at once, and nothing of theirs is run."""

from __future__ import annotations

import json
import runpy
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from intaglio.compiler.errors import ModelFileError, UnsupportedModelError
from intaglio.compiler.frontends.huggingface.checkpoint import Checkpoint
from intaglio.compiler.frontends.huggingface.frontend import HuggingfaceFrontend
from intaglio.compiler.frontends.tracing import trace

HELPERS = Path(__file__).parents[1] / "helpers"
FAMILIES = runpy.run_path(str(HELPERS / "families.py"))["families"]()
FOLDERS = runpy.run_path(str(HELPERS / "huggingface_folders.py"))
INDEX = "model.safetensors.index.json"
WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sound llama in one file."""
    FOLDERS["write_random_model"](FAMILIES["llama"](), tmp_path)
    return tmp_path


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """A sound llama in several files."""
    FOLDERS["write_random_model"](FAMILIES["llama"](), tmp_path, max_shard_size="100KB")
    return tmp_path


def _tensors(change: Callable[[dict[str, Any]], Any], folder: Path) -> None:
    FOLDERS["edit_weights"](folder, change)


def test_a_sharded_folder_holds_what_was_saved(sharded: Path) -> None:
    whole = FOLDERS["write_random_model"](FAMILIES["llama"](), sharded / "whole").state_dict()
    checkpoint = Checkpoint.open(sharded)
    assert len(list(sharded.glob("*.safetensors"))) > 2
    assert checkpoint.tensors.keys() == whole.keys()
    for name, tensor in checkpoint.tensors.items():
        np.testing.assert_array_equal(tensor.read(), whole[name])


def test_missing_and_truncated_shards_are_listed_at_once(sharded: Path) -> None:
    first, second, *_ = sorted(sharded.glob("*.safetensors"))
    first.unlink()
    second.write_bytes(second.read_bytes()[:-8])
    with pytest.raises(ModelFileError, match="truncated") as caught:
        trace(sharded)
    assert f"{first.name} is missing" in str(caught.value)


def test_an_index_that_names_what_is_not_there(sharded: Path) -> None:
    index = json.loads((sharded / INDEX).read_text())
    shard = next(iter(index["weight_map"].values()))
    index["weight_map"] |= {"ghost": shard, "outside": "../other.safetensors"}
    (sharded / INDEX).write_text(json.dumps(index))
    with pytest.raises(ModelFileError, match=r"\.\./other.safetensors.*is not the name of a file") as caught:
        trace(sharded)
    assert "does not hold ghost" in str(caught.value)


def test_tensors_that_do_not_fit_the_config_are_listed_at_once(folder: Path) -> None:
    def change(tensors: dict[str, Any]) -> Any:
        del tensors["model.norm.weight"]
        tensors["lm_head.weight"] = torch.zeros(131, 32)
        tensors["model.layers.1.mlp.up_proj.weight"] = torch.zeros(96, 64, dtype=torch.int32)
        return {**tensors, "model.layers.7.mlp.up_proj.weight": torch.zeros(2)}

    _tensors(change, folder)
    with pytest.raises(ModelFileError, match="does not fit LlamaForCausalLM") as caught:
        trace(folder)
    for told in (
        "model.norm.weight is missing",
        "lm_head.weight has the shape [131, 32], the config asks for [131, 64]",
        "model.layers.1.mlp.up_proj.weight has the dtype INT32",
        "model.layers.7.mlp.up_proj.weight belongs to no parameter",
    ):
        assert told in str(caught.value)


def test_buffers_that_old_versions_saved_are_ignored(folder: Path) -> None:
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    _tensors(lambda tensors: {**tensors, name: torch.zeros(8)}, folder)
    assert trace(folder).architecture is not None


def _header(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    change(header)
    written = json.dumps(header).encode()
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(written)) + written + data[8 + length :])


def test_a_table_that_contradicts_itself_is_told_whole(folder: Path) -> None:
    def change(header: dict[str, Any]) -> None:
        header["lm_head.weight"]["dtype"] = "F4"
        header["model.norm.weight"]["shape"] = [63]
        start = header["model.embed_tokens.weight"]["data_offsets"][0] + 4
        header["model.layers.0.input_layernorm.weight"]["data_offsets"] = [start, start + 256]
        header["model.layers.1.input_layernorm.weight"] = "here"

    _header(folder, change)
    with pytest.raises(ModelFileError, match="broken") as caught:
        trace(folder)
    for told in ("dtype 'F4'", "takes 252 bytes, data_offsets give it 256", "overlaps", "lacks dtype"):
        assert told in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\x00" * 4, b"\xff" * 64, struct.pack("<Q", 4) + b"nope"])
def test_files_that_are_no_safetensors(content: bytes, folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(content)
    with pytest.raises(ModelFileError, match=WEIGHTS):
        trace(folder)


def test_pickled_weights_are_never_opened(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")
    with pytest.raises(UnsupportedModelError, match=r"pytorch_model\.bin.*never opened"):
        trace(folder)


def test_custom_code_is_never_run(folder: Path) -> None:
    (folder / "modeling_own.py").write_text(f"open({str(folder / 'ran')!r}, 'w').close()")
    code = {"AutoConfig": "modeling_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.Own"}
    FOLDERS["edit_config"](folder, auto_map=code)
    assert trace(folder).architecture is not None  # transformers knows llamas itself
    FOLDERS["edit_config"](folder, model_type="own")
    with pytest.raises(UnsupportedModelError, match=r"modeling_own\.OwnConfig.*custom code is never run"):
        trace(folder)
    assert not (folder / "ran").exists()


def test_unknown_types_and_quantised_weights_are_listed_at_once(folder: Path) -> None:
    FOLDERS["edit_config"](folder, model_type="unheard", quantization_config={"quant_method": "gptq"})
    with pytest.raises(UnsupportedModelError, match="'unheard' is not known") as caught:
        trace(folder)
    assert len(caught.value.problems) == 2
    assert "quantised by 'gptq'" in caught.value.problems[1]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "is not JSON"),
        ("[]", "holds list"),
        ('{"model_type": "llama", "hidden_size": "x"}', "makes no llama"),
    ],
)
def test_a_config_that_makes_no_sense(content: str, told: str, folder: Path) -> None:
    (folder / "config.json").write_text(content)
    with pytest.raises(ModelFileError, match=told):
        trace(folder)


def test_problems_of_config_and_weights_are_told_together(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    (folder / WEIGHTS).write_bytes(b"")
    with pytest.raises(ModelFileError, match=r"(?s)is not JSON.*it is empty"):
        trace(folder)


def test_folders_are_claimed_by_what_they_hold(tmp_path: Path) -> None:
    frontend = HuggingfaceFrontend()
    assert not frontend.claims(tmp_path)
    (tmp_path / "config.json").touch()
    assert frontend.claims(tmp_path)
    assert not frontend.claims(tmp_path / "config.json")
