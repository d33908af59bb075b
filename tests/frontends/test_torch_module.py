"""Modules traced whole: equal to eager PyTorch by onnxruntime, weights in place, modules as they were."""

from __future__ import annotations

import sys
from collections import namedtuple
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import nn

from intaglio.compiler.frontends.call_signature import CallSignature, Fixed
from intaglio.compiler.frontends.frontend import TraceOptions
from intaglio.compiler.frontends.torch_module.export import export_module
from intaglio.compiler.frontends.torch_module.frontend import TorchModuleFrontend
from intaglio.compiler.frontends.traced import Traced
from intaglio.compiler.frontends.tracing import trace

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}


def traced(module: nn.Module, examples: Any, shapes: Any = None) -> Traced:
    return trace(module, TraceOptions(example_inputs=examples, dynamic_shapes=shapes))


def run(result: Traced, *arguments: Any, **keywords: Any) -> Any:
    """The graph's answer in onnxruntime, nested as the module's."""
    assert result.call is not None
    session = onnxruntime.InferenceSession(ir.to_proto(result.model).SerializeToString())
    fed = {name: one.numpy() for name, one in result.call.inputs(arguments, keywords).items()}
    names = [one.name for one in session.get_outputs()]
    return result.call.outputs(dict(zip(names, session.run(None, fed), strict=True)))


def agree(result: Traced, module: nn.Module, *arguments: torch.Tensor) -> None:
    """Graph and module answer alike; both give one tensor."""
    with torch.no_grad():
        wanted = module.eval()(*arguments)
    np.testing.assert_allclose(run(result, *arguments), wanted.numpy(), atol=TOLERANCE[wanted.dtype])


def seeded(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for one in (*module.parameters(), *module.buffers()):
        if one.is_floating_point():
            one.data += 0.1 * torch.rand(one.shape, generator=generator).to(one.dtype)
    return module


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.LSTM(5, 7, num_layers=2, bidirectional=True, batch_first=True)
        self.second = nn.GRU(14, 3, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.second(self.first(x)[0])[0]
        return result


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.GroupNorm(4, 8),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 5),
    )


MODULES: dict[str, tuple[Any, torch.Tensor, torch.Tensor, Any]] = {
    "MLP": (
        lambda: nn.Sequential(nn.Linear(4, 9), nn.GELU(), nn.Linear(9, 2)),
        torch.zeros(1, 4),
        torch.rand(5, 4),
        [{0: "batch"}],
    ),
    "CNN": (convolutions, torch.zeros(1, 3, 12, 12), torch.rand(3, 3, 12, 12), {"input": {0: "batch"}}),
    "recurrent": (Recurrent, torch.zeros(2, 4, 5), torch.rand(3, 9, 5), [{0: "batch", 1: "sequence"}]),
    "transformer": (
        lambda: nn.TransformerEncoderLayer(8, 2, 11, batch_first=True),
        torch.zeros(2, 3, 8),
        torch.rand(1, 7, 8),
        {"src": {0: "batch", 1: "sequence"}},
    ),
    "bag of embeddings": (
        lambda: nn.EmbeddingBag(10, 6, mode="mean"),
        torch.zeros(2, 4, dtype=torch.int64),
        torch.tensor([[1, 2, 3, 9], [0, 0, 5, 1]]),
        None,
    ),
}


@pytest.mark.parametrize("name", MODULES)
def test_modules_compute_what_pytorch_computes(name: str) -> None:
    make, example, given, shapes = MODULES[name]
    module = seeded(make())
    agree(traced(module, (example,), shapes), module, given)


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [
        (torch.float64, ir.DataType.DOUBLE),
        (torch.float16, ir.DataType.FLOAT16),
        (torch.bfloat16, ir.DataType.BFLOAT16),
    ],
)
def test_element_types_are_kept(dtype: torch.dtype, kind: ir.DataType) -> None:
    module = seeded(nn.Linear(6, 3)).to(dtype)
    result = traced(module, (torch.zeros(2, 6, dtype=dtype),))
    graph = result.model.graph
    assert {one.dtype for one in (*graph.inputs, *graph.outputs, *graph.initializers.values())} == {kind}
    weight = graph.initializers["weight"].const_value
    assert weight is not None
    np.testing.assert_array_equal(weight.numpy().astype(np.float64), module.weight.detach().to(torch.float64))
    if dtype != torch.bfloat16:  # onnxruntime has no such kernels on CPUs
        agree(result, module, torch.rand(2, 6).to(dtype))


class Bags(nn.Module):
    def __init__(self, mode: str, padding: int | None, last: bool) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(10, 6, mode=mode, padding_idx=padding, include_last_offset=last)

    def forward(self, tokens: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.bag(tokens, starts)
        return result


@pytest.mark.parametrize(
    ("mode", "padding", "last"), [("sum", 3, False), ("mean", 3, True), ("max", None, False)]
)
def test_bags_of_different_sizes(mode: str, padding: int | None, last: bool) -> None:
    module = seeded(Bags(mode, padding, last))
    example = torch.zeros(4, dtype=torch.int64), torch.tensor([0, 2, 4])
    result = traced(module, example, [{0: "tokens"}, {0: "bags"}])
    agree(result, module, torch.tensor([1, 3, 3, 9, 4, 3, 2]), torch.tensor([0, 2, 2, 3, 7]))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 4)
        self.head = nn.Linear(4, 11, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("offset", torch.ones(4))
        self.register_buffer("unsaved", torch.full((4,), 2.0), persistent=False)
        self.register_buffer("unused", torch.ones(9))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = self.embedding(tokens) * self.unsaved + self.offset
        logits: torch.Tensor = self.head(hidden)
        return logits


def test_weights_stand_once_in_the_memory_of_the_module() -> None:
    module = seeded(Tied())
    result = traced(module, (torch.zeros(1, 3, dtype=torch.int64),), {"tokens": {0: "batch", 1: "length"}})
    agree(result, module, torch.tensor([[3, 10], [0, 1], [9, 9]]))
    stored = {name: one.const_value for name, one in result.model.graph.initializers.items()}
    assert stored.keys() == {"embedding.weight", "offset", "unsaved"}
    with torch.no_grad():
        module.embedding.weight[2, 1] = 77.0
    assert stored["embedding.weight"].numpy()[2, 1] == 77.0
    assert result.source.name == "torch.nn.Module Tied"
    assert result.source.bytes == 4 * (11 * 4 + 4 + 4 + 9)


def test_the_module_stays_as_it_was() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5), nn.BatchNorm1d(3))
    module[2].eval()
    before = {name: one.clone() for name, one in module.state_dict().items()}
    example = torch.rand(4, 3)
    kept = example.clone()
    result = traced(module, (example,), [{0: "batch"}])
    assert [one.training for one in module.modules()] == [True, True, True, False]
    assert all(torch.equal(one, before[name]) for name, one in module.state_dict().items())
    assert torch.equal(example, kept)
    assert not any(hasattr(one, "_forward_hooks") and one._forward_hooks for one in module.modules())
    agree(result, module, torch.rand(1, 3))


@dataclass
class Detection:
    boxes: torch.Tensor
    scores: torch.Tensor | None


torch.export.register_dataclass(Detection)
Pair = namedtuple("Pair", ["low", "high"])


class Nested(nn.Module):
    def forward(
        self,
        input: torch.Tensor,
        pair: Sequence[torch.Tensor],
        scale: int,
        extra: Mapping[str, Any] | None = None,
    ) -> Any:
        assert extra is not None
        total = input * scale + pair[0] + pair[1]
        return {
            "detection": Detection(total, None),
            "pair": Pair(total.amin(), total.amax()),
            "same": [input, input, extra["mask"]],
            "count": input.shape[0],
        }


def test_nested_arguments_and_results_go_by_name() -> None:
    shapes = {"input": {0: "rows"}, "pair": ({0: "rows"}, None)}
    one, mask = torch.rand(3, 2), torch.tensor([True, False])
    example = {"input": one, "pair": (one, torch.ones(2)), "scale": 3, "extra": {"mask": mask, "note": "x"}}
    result = traced(Nested(), example, shapes)
    inputs = {value.name: list(value.shape or ()) for value in result.model.graph.inputs}
    rows = ir.SymbolicDim("rows")
    assert inputs == {"input": [rows, 2], "pair.0": [rows, 2], "pair.1": [2], "extra.mask": [2]}
    given = torch.rand(5, 2)
    found = run(result, given, (given, torch.ones(2)), 3, extra={"mask": mask, "note": "x"})
    total = given * 3 + given + 1
    assert found.keys() == {"detection", "pair", "same", "count"}
    np.testing.assert_allclose(found["detection"]["boxes"], total, rtol=1e-6)
    assert found["detection"]["scores"] is None
    np.testing.assert_allclose(found["pair"], (total.min(), total.max()), rtol=1e-6)
    np.testing.assert_array_equal(found["same"][1], given)
    np.testing.assert_array_equal(found["same"][2], mask)
    assert found["count"] == 5


def test_constants_of_the_example_are_checked_in_a_call() -> None:
    class Scaled(nn.Module):
        def forward(self, x: torch.Tensor, factor: float, flip: bool, note: None = None) -> torch.Tensor:
            return -x * factor if flip else x * factor

    call = traced(Scaled(), (torch.ones(2), 2.5, True, None)).call
    assert call is not None
    assert call.arguments == ("x", Fixed(2.5), Fixed(True), None)
    assert call.inputs((1, 2.5), {"flip": True, "note": None}) == {"x": 1}
    with pytest.raises(
        ValueError, match=r"arguments\[1\] is 3.5, compiled with 2.5 as a constant; .*\[2\] is 1"
    ):
        call.inputs((1, 3.5, 1, None), {})
    assert CallSignature.from_data(call.to_data()) == call


def test_sizes_have_the_users_names_wherever_they_come_from() -> None:
    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.places = nn.Parameter(torch.rand(16, 4))

        def forward(self, x: torch.Tensor, y: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
            return torch.cat([x + self.places[: x.shape[1]], y], 1) * z[:, None, None]

    batch = torch.export.Dim("batch", max=100)
    shapes = {"x": {0: batch, 1: "left"}, "y": {0: batch, -2: "right"}, "z": [batch]}
    # Sizes of 0 and 1 in the example must not stick.
    example = (torch.rand(1, 1, 4), torch.rand(1, 0, 4), torch.rand(1))
    result = traced(Joined(), example, shapes)
    shown = [[str(size) for size in value.shape or ()] for value in (*result.model.graph.inputs,)]
    assert shown == [["batch", "left", "4"], ["batch", "right", "4"], ["batch"]]
    assert [str(one) for one in result.model.graph.outputs[0].shape or ()] == ["batch", "left + right", "4"]
    assert run(result, torch.rand(3, 16, 4), torch.rand(3, 2, 4), torch.rand(3)).shape == (3, 18, 4)


def test_branches_become_part_of_the_graph() -> None:
    class Branch(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = torch.cond(x.sum() > 0, lambda a: a * 2, lambda a: a - 1, (x,))
            return result

    result = traced(Branch(), (torch.ones(3),))
    assert "If" in {node.op_type for node in result.model.graph}
    for given in (torch.ones(3), -torch.ones(3)):
        agree(result, Branch(), given)


def test_modules_without_memory_give_initialisers_without_values() -> None:
    with torch.device("meta"):
        module, example = Tied().eval(), torch.zeros(1, 3, dtype=torch.int64)
    model = export_module(module, (example,), None, {"tokens": {0: "batch"}})
    assert {name: one.const_value for name, one in model.graph.initializers.items()} == {
        "embedding.weight": None,
        "offset": None,
        "unsaved": None,
    }
    assert list(model.graph.initializers["embedding.weight"].shape or ()) == [11, 4]


def test_graphs_are_plain_onnx_of_our_opset_with_origins(capsys: pytest.CaptureFixture[str]) -> None:
    model = export_module(nn.Sequential(nn.Linear(2, 2), nn.Softmax(-1)), (torch.ones(1, 2),))
    assert dict(model.opset_imports) == {"": 25}
    assert not model.functions
    scopes = {node.op_type: node.metadata_props["pkg.torch.onnx.name_scopes"] for node in model.graph}
    assert "'1'" in scopes["Softmax"]
    assert capsys.readouterr() == ("", "")


def test_a_translation_of_the_callers_comes_first() -> None:
    from onnxscript import opset18

    model = export_module(
        nn.ReLU(), (torch.ones(2),), translations={torch.ops.aten.relu.default: lambda x: opset18.Abs(x)}
    )
    assert [node.op_type for node in model.graph] == ["Abs"]


def test_modules_are_claimed_without_importing_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    module = nn.Linear(1, 1)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert TorchModuleFrontend().claims(module)
    assert not TorchModuleFrontend().claims(object())
