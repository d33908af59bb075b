"""Tensors of a checkpoint find the parameters that they are, whatever they are called and however cut."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
import transformers

from intaglio.compiler.errors import UnsupportedModelError
from intaglio.compiler.frontends.huggingface.arrays import (
    Array,
    Held,
    Joined,
    Stacked,
    lazy_tensor,
    part,
    taken,
    transposed,
)
from intaglio.compiler.frontends.huggingface.causal_attention import Visible, visible
from intaglio.compiler.frontends.huggingface.checkpoint import Checkpoint
from intaglio.compiler.frontends.huggingface.layers import find_layers
from intaglio.compiler.frontends.huggingface.meta_model import MetaModel, build_on_meta
from intaglio.compiler.frontends.huggingface.parameters import parameters_for

HELPERS = Path(__file__).parents[1] / "helpers"
FAMILIES = runpy.run_path(str(HELPERS / "families.py"))["families"]()
FOLDERS = runpy.run_path(str(HELPERS / "huggingface_folders.py"))


def _meta(config: Any, **fields: Any) -> MetaModel:
    for name, value in fields.items():
        setattr(config, name, value)
    return build_on_meta(type(transformers.AutoModelForCausalLM.from_config(config)), config)


def _read(family: str, folder: Path, rename: Callable[[str], str]) -> tuple[Any, dict[str, Array]]:
    """The original, and the arrays found after every tensor was renamed."""
    original = FOLDERS["write_random_model"](FAMILIES[family](), folder)
    FOLDERS["edit_weights"](folder, lambda tensors: {rename(name): one for name, one in tensors.items()})
    return original, parameters_for(_meta(FAMILIES[family]()).module, Checkpoint.open(folder))


def _check_equal(original: Any, arrays: dict[str, Array]) -> None:
    expected = original.state_dict()
    assert arrays.keys() == expected.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array.read(), expected[name], err_msg=name)


@pytest.mark.parametrize(
    ("family", "rename"),
    [
        ("llama, tied", lambda name: name.removeprefix("model.")),  # saved from the base model
        ("gpt2", lambda name: name.removeprefix("transformer.")),
        ("gpt_neox", lambda name: name.replace("lm_head", "embed_out")),  # what it was called once
        ("mixtral", lambda name: name),  # saved expert by expert
    ],
)
def test_names_and_layouts_of_other_versions(
    family: str, rename: Callable[[str], str], tmp_path: Path
) -> None:
    _check_equal(*_read(family, tmp_path, rename))


def test_experts_that_are_saved_joined(tmp_path: Path) -> None:
    original = FOLDERS["write_random_model"](FAMILIES["mixtral"](), tmp_path)
    FOLDERS["edit_weights"](tmp_path, lambda _: original.state_dict())
    _check_equal(original, parameters_for(_meta(FAMILIES["mixtral"]()).module, Checkpoint.open(tmp_path)))


def test_tied_parameters_are_one_array(tmp_path: Path) -> None:
    _, arrays = _read("llama, tied", tmp_path, lambda name: name)
    assert arrays["lm_head.weight"] is arrays["model.embed_tokens.weight"]


def test_buffers_are_computed_as_in_the_original() -> None:
    config = FAMILIES["llama, llama3 rope and biases"]()
    original = transformers.AutoModelForCausalLM.from_config(config)
    buffers = _meta(config).buffers
    assert buffers.keys() == {name for name, _ in original.named_buffers()}
    for name, buffer in original.named_buffers():
        np.testing.assert_array_equal(buffers[name], buffer)


def _numbered(*shape: int) -> Held:
    return Held(np.arange(int(np.prod(shape)), dtype=np.float32).reshape(shape))


def test_parts_of_stacks_and_joins_are_the_tensors_themselves() -> None:
    gates, ups = [_numbered(3, 5) for _ in range(2)], [_numbered(2, 5) for _ in range(2)]
    whole = Joined((Stacked(tuple(gates)), Stacked(tuple(ups))), 1)
    assert whole.shape == (2, 5, 5)
    second = taken(whole, 1)
    assert part(second, 0, 0, 3) is gates[1]
    assert part(second, 0, 3, 5) is ups[1]
    across = part(second, 0, 1, 4)
    np.testing.assert_array_equal(across.read(), whole.read()[1, 1:4])
    assert across.shape == (3, 5)


def test_parts_and_transposes_of_stored_tensors() -> None:
    whole = _numbered(2, 3, 4)
    np.testing.assert_array_equal(taken(whole, 1).read(), whole.numbers[1])
    np.testing.assert_array_equal(part(whole, 2, 1, 3).read(), whole.numbers[:, :, 1:3])
    turned = transposed(whole, (0, 2, 1))
    assert turned.shape == (2, 4, 3)
    assert turned.read().flags["C_CONTIGUOUS"]
    tensor = lazy_tensor(turned, "turned")
    assert (tensor.dtype, tensor.shape) == (ir.DataType.FLOAT, ir.Shape([2, 4, 3]))
    np.testing.assert_array_equal(tensor.numpy(), whole.numbers.transpose(0, 2, 1))


def test_layers_of_equal_build_are_of_one_kind() -> None:
    module = _meta(FAMILIES["gemma3_text"]()).module
    layers = find_layers(module, 3)
    assert layers is not None
    assert (layers.path, layers.kinds, layers.representatives) == ("model.layers", (0, 1, 0), (0, 1))
    assert find_layers(module, 4) is None


def test_masks_are_known_by_what_they_let_through() -> None:
    def window(_: Any, __: Any, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return (key <= query) & (key > query - 300)

    def chunks(_: Any, __: Any, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return (key <= query) & (key // 8 == query // 8)

    assert visible(lambda _, __, query, key: key <= query, 1000) == Visible(None)
    assert visible(window, 1000) == Visible(299)
    assert visible(window, 300) == Visible(299)  # also where the window is as long as the context
    for mask in (chunks, lambda _, __, query, key: key <= query + 1, lambda *_: torch.ones(1, 1) > 0):
        with pytest.raises(UnsupportedModelError, match="not causal"):
            visible(mask, 1000)
    with pytest.raises(UnsupportedModelError, match="depends on more than positions"):
        visible(lambda batch, _, query, key: torch.zeros(1)[query], 1000)
