"""Torch modules the whole way: compiled, called with what they were called with, saved and loaded."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import intaglio
from intaglio.compiler.compiled_model import CompiledModel

BATCH = torch.export.Dim("batch")


class Classifier(torch.nn.Module):
    """A small CNN with a nest of inputs and of results."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(8)
        self.head = torch.nn.Linear(8, 5)

    def forward(
        self, images: torch.Tensor, extra: dict[str, torch.Tensor], *, gain: torch.Tensor
    ) -> dict[str, object]:
        features = torch.relu(self.norm(self.convolution(images)))
        logits = self.head(features.mean((-1, -2))) * gain + extra["bias"]
        return {"logits": logits, "parts": (features, logits.argmax(-1))}


def arguments(batch: int) -> tuple[tuple[torch.Tensor, dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    torch.manual_seed(batch)
    return (torch.randn(batch, 3, 8, 8), {"bias": torch.randn(5)}), {"gain": torch.tensor(2.0)}


@pytest.fixture(scope="module")
def module() -> torch.nn.Module:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    return Classifier().eval()


@pytest.fixture(scope="module")
def compiled(module: torch.nn.Module) -> Iterator[CompiledModel]:
    (images, extra), keywords = arguments(2)
    with intaglio.compile(
        module,
        example_inputs={"images": images, "extra": extra, **keywords},
        dynamic_shapes={"images": {0: BATCH}, "extra": {"bias": None}, "gain": None},
        threads=1,
    ) as model:
        yield model


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_results_are_the_module_s(module: torch.nn.Module, compiled: CompiledModel, batch: int) -> None:
    (images, extra), keywords = arguments(batch)
    wanted = module(images, extra, **keywords)
    found = compiled(images=images, extra=extra, **keywords)
    assert isinstance(found["parts"], tuple)
    torch.testing.assert_close(found["logits"], wanted["logits"].detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["parts"][0], wanted["parts"][0].detach(), rtol=1e-4, atol=1e-5)
    assert torch.equal(found["parts"][1], wanted["parts"][1])


def test_arrays_give_arrays_after_loading_too(compiled: CompiledModel, tmp_path: Path) -> None:
    (images, extra), keywords = arguments(3)
    wanted = compiled(images=images, extra=extra, **keywords)
    with intaglio.load(compiled.save(tmp_path / "compiled"), threads=1) as loaded:
        found = loaded(images=images.numpy(), extra={"bias": extra["bias"].numpy()}, gain=np.float32(2))
    assert isinstance(found["logits"], np.ndarray)
    np.testing.assert_array_equal(found["logits"], wanted["logits"].numpy())


def test_other_nests_are_refused(compiled: CompiledModel) -> None:
    (images, _), keywords = arguments(1)
    with pytest.raises(intaglio.OptionError, match="'bias' is missing"):
        compiled(images=images, extra={}, **keywords)
    with pytest.raises(intaglio.OptionError, match="'extra' is missing"):
        compiled(images=images, **keywords)


def test_a_module_needs_example_inputs(module: torch.nn.Module) -> None:
    with pytest.raises(intaglio.OptionError, match="example_inputs"):
        intaglio.compile(module)


def test_a_module_is_measured_against_its_export(compiled: CompiledModel) -> None:
    measured = compiled.bench(rounds=1)
    assert measured.speedup is not None
    assert measured.shapes["images"] == [1, 3, 8, 8]
    assert "torch.nn.Module Classifier" in compiled.report.to_text()


def test_layers_are_named_and_rounded() -> None:
    torch.manual_seed(0)
    up, down = torch.nn.Linear(64, 96), torch.nn.Linear(96, 32)
    layers = torch.nn.Sequential(OrderedDict(up=up, middle=torch.nn.ReLU(), down=down)).eval()
    x = torch.randn(4, 64)
    with intaglio.compile(layers, example_inputs=(x,), plan="keep, down=int4-g32", threads=1) as compiled:
        treatments = {one["site"]: one["treatment"] for one in compiled.manifest.sites[1:]}
        assert treatments == {"up": "keep:a8g32", "down": "int4-g32:a8g32"}
        found = compiled(x)
    error = torch.linalg.norm(found - layers(x)) / torch.linalg.norm(layers(x))
    assert 1e-3 < error < 0.3
