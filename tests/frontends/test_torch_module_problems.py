"""Modules that cannot be compiled, and calls that do not fit: everything wrong at once, with places."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from intaglio.compiler.errors import OptionError, UnsupportedModelError
from intaglio.compiler.frontends.frontend import TraceOptions
from intaglio.compiler.frontends.tracing import trace


def problems(module: nn.Module, *arguments: Any, shapes: Any = None) -> str:
    """What is wrong with a module, as it is told."""
    with pytest.raises(UnsupportedModelError) as caught:
        trace(module, TraceOptions(example_inputs=arguments, dynamic_shapes=shapes))
    assert caught.value.problems
    return str(caught.value)


class Choosy(nn.Module):
    """Looks at values in three places."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:
            x = self.layer(x)
        for _ in range(int(x.max())):
            x = x + 1
        return x * 2 if x.mean().item() > 0 else x


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Choosy(), Choosy()])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def test_decisions_by_values_are_told_with_their_lines_in_all_modules(
    capfd: pytest.CaptureFixture[str],
) -> None:
    told = problems(Outer(), torch.ones(2, 4))
    for block in ("blocks.0 (Choosy)", "blocks.1 (Choosy)"):
        assert told.count(block) == 3
    first = Choosy.forward.__code__.co_firstlineno
    assert f"test_torch_module_problems.py line {first + 1}: the truth of a tensor" in told
    assert f"line {first + 3}: int() of a tensor" in told
    assert "torch.where" in told
    assert "torch.cond" in told
    assert capfd.readouterr() == ("", "")


class Strange(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.eigh(x)[1] + torch.special.bessel_j0(x)


class Stateful(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.Sequential(Strange(), Strange())
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> Any:
        self.calls += 1
        x.mul_(2)
        return self.parts(x), 3, "text"


def test_unknown_operators_state_and_results_are_told_together() -> None:
    module = Stateful()
    told = problems(module, torch.ones(4, 4))
    assert "buffer 'calls' is changed: a compiled graph has no state" in told
    assert "argument 'x' is changed" in told
    assert "result 1 is the constant 3" in told
    assert "result 2 is the constant 'text'" in told
    for part in ("parts.0 (Strange)", "parts.1 (Strange)"):
        assert f"{part}: aten._linalg_eigh.default has no ONNX equivalent" in told
        assert f"{part}: prims.bessel_j0.default has no ONNX equivalent" in told
    assert module.calls == 0


def test_a_call_that_a_rule_cannot_translate_is_placed() -> None:
    def refuse(x: Any) -> Any:
        raise NotImplementedError("not for you")

    from intaglio.compiler.frontends.torch_module.export import export_module

    module = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    with pytest.raises(UnsupportedModelError, match=r"1 \(ReLU\): aten.relu.default: not for you"):
        export_module(module, (torch.ones(2),), translations={torch.ops.aten.relu.default: refuse})


def test_complex_arguments_are_refused() -> None:
    told = problems(nn.Identity(), torch.ones(2, dtype=torch.complex64))
    assert "argument 'input' is complex: take torch.view_as_real" in told


def test_torchscript_is_refused() -> None:
    class Scripted(torch.jit.ScriptModule):
        pass

    with pytest.raises(UnsupportedModelError, match="TorchScript"):
        trace(Scripted(), TraceOptions(example_inputs=()))


def test_an_error_of_the_module_itself_is_placed() -> None:
    told = problems(nn.Sequential(nn.Linear(3, 3), nn.Linear(4, 4)), torch.ones(2, 3))
    assert "1 (Linear): RuntimeError" in told


def test_a_size_that_is_fixed_in_the_code_cannot_be_dynamic() -> None:
    class Fixed(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.reshape(3, 4)

    assert "x = 3" in problems(Fixed(), torch.ones(3, 4), shapes={"x": {0: "x"}})


def test_a_promised_range_is_kept_or_refused() -> None:
    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.places = nn.Parameter(torch.ones(8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.places[: x.shape[0]]

    promised = [{0: torch.export.Dim("length", max=99)}]
    assert "length = Dim('length', max=8)" in problems(Table(), torch.ones(3), shapes=promised)
    trace(Table(), TraceOptions(example_inputs=(torch.ones(3),), dynamic_shapes=[{0: "length"}]))


def test_examples_are_asked_for_with_the_modules_own_signature() -> None:
    with pytest.raises(OptionError, match=r"example_inputs: .* forward\(input: torch.Tensor\)"):
        trace(nn.Linear(2, 2))
    with pytest.raises(OptionError, match="example_inputs, not int"):
        trace(nn.Linear(2, 2), TraceOptions(example_inputs=3))  # type: ignore[arg-type]
    with pytest.raises(OptionError, match=r"do not fit Linear.forward: too many"):
        trace(nn.Linear(2, 2), TraceOptions(example_inputs=(1, 2)))
    with pytest.raises(OptionError, match="padding has no effect"):
        trace(nn.Linear(2, 2), TraceOptions(example_inputs=(torch.ones(2),), padding=True))


class Two(nn.Module):
    def forward(self, x: torch.Tensor, pair: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return x + pair[0] + pair[1]


@pytest.mark.parametrize(
    ("shapes", "told"),
    [
        ({"x": {5: "a", 0: "b c"}, "y": None}, ["'y' is no argument", "no axis 5 in", "'b c' is no size"]),
        ({"x": {0: "n"}, "pair": [{0: "n"}, None]}, ["'n' is 2 in x axis 0, 3 in pair[0] axis 0"]),
        ({"x": "n", "pair": {"a": None}}, ["'n' is no shape of 2 axes", "pair: tuple cannot have the shape"]),
        ([None], ["1 entries for 2 arguments"]),
        (7, ["dynamic_shapes is 7"]),
    ],
)
def test_shapes_that_do_not_fit_are_told_together(shapes: Any, told: list[str]) -> None:
    examples = (torch.ones(2, 3), (torch.ones(3), torch.ones(3)))
    with pytest.raises(OptionError) as caught:
        trace(Two(), TraceOptions(example_inputs=examples, dynamic_shapes=shapes))
    assert all(one in str(caught.value) for one in told)


def test_calls_that_differ_from_the_example_are_told_whole() -> None:
    call = trace(Two(), TraceOptions(example_inputs=(torch.ones(2, 3), (torch.ones(3), torch.ones(3))))).call
    assert call is not None
    assert call.inputs((1,), {"pair": (2, 3)}) == {"x": 1, "pair.0": 2, "pair.1": 3}
    assert call.inputs((), {"pair": (2, 3), "x": 1}) == {"x": 1, "pair.0": 2, "pair.1": 3}
    with pytest.raises(OptionError, match=r"arguments\[1\] has 1 values, compiled with 2.*'z' is unknown"):
        call.inputs((1, (2,)), {"z": 1})
    with pytest.raises(OptionError, match="arguments has 3 values"):
        call.inputs((1, (2, 3), 4), {})
