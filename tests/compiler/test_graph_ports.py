"""What a graph is called with: names, types, sizes, and what does not fit."""

from __future__ import annotations

import json
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
import torch

from intaglio.compiler.array_exchange import to_numpy, to_torch
from intaglio.compiler.errors import OptionError, UnsupportedModelError
from intaglio.compiler.frontends.call_signature import CallSignature
from intaglio.compiler.graph_benchmark import generated_inputs
from intaglio.compiler.graph_ports import GraphPort, GraphPorts

PORTS = GraphPorts(
    {
        "x": GraphPort("float32", ("batch", 3)),
        "ids": GraphPort("int64", ("batch", None)),
        "scale": GraphPort("bfloat16", ()),
    },
    {"y": GraphPort("float32", None)},
    CallSignature(("x", ["ids"]), {"scale": "scale"}, {"result": "y"}),
)


def values(**changed: Any) -> dict[str, Any]:
    usual = {"x": np.zeros((2, 3), np.float32), "ids": np.zeros((2, 5), np.int64), "scale": 1.5}
    return {**usual, **changed}


def test_ports_survive_json() -> None:
    assert GraphPorts.from_data(json.loads(json.dumps(PORTS.to_data()))) == PORTS
    bare = GraphPorts(PORTS.inputs, PORTS.outputs)
    assert GraphPorts.from_data(json.loads(json.dumps(bare.to_data()))) == bare


def test_what_fits_comes_as_arrays() -> None:
    arrays = PORTS.arrays(values(x=torch.ones(2, 3, requires_grad=True)))
    assert {name: one.dtype.name for name, one in arrays.items()} == {
        "x": "float32",
        "ids": "int64",
        "scale": "bfloat16",
    }
    assert float(arrays["x"].sum()) == 6


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"x": np.zeros((2, 3))}, "'x' is float64, not float32"),
        ({"x": np.zeros((2, 4), np.float32)}, "'x' is [2, 4], not float32[batch, 3]"),
        ({"x": np.zeros(3, np.float32)}, "'x' is [3], not float32[batch, 3]"),
        ({"ids": np.zeros((4, 1), np.int64)}, "'ids' has batch=4, 'x' has batch=2"),
        ({"ids": [[1], [2, 3]]}, "'ids' is object, not int64"),
        ({"scale": "loud"}, "'scale' is object, not bfloat16"),
        ({"more": 1}, "'more' is no input"),
    ],
)
def test_what_does_not_fit_is_told(changed: dict[str, Any], problem: str) -> None:
    with pytest.raises(OptionError) as caught:
        PORTS.arrays(values(**changed))
    assert problem in str(caught.value)


def test_everything_is_told_at_once() -> None:
    with pytest.raises(OptionError) as caught:
        PORTS.arrays({"x": np.zeros((2, 4)), "other": 1})
    assert str(caught.value).count("\n  - ") == 5


def test_names_of_sizes_bind_only_where_they_are_ours() -> None:
    """In ONNX files of others they are comments."""
    bare = GraphPorts(PORTS.inputs, PORTS.outputs)
    assert bare.arrays(values(ids=np.zeros((4, 1), np.int64)))["ids"].shape == (4, 1)


def test_tensors_share_memory_where_they_can() -> None:
    tensor = torch.arange(4.0)
    array = to_numpy(tensor, np.dtype("float32"))
    array[0] = 7
    assert tensor[0] == 7
    assert to_torch(array)[0] == 7
    narrow = np.array([1.5, -2], ml_dtypes.bfloat16)
    assert to_torch(narrow).tolist() == [1.5, -2]
    assert to_torch(narrow).dtype == torch.bfloat16
    assert to_numpy(to_torch(narrow), narrow.dtype).dtype == ml_dtypes.bfloat16


def test_inputs_can_be_made() -> None:
    made = generated_inputs(PORTS)
    assert {name: one.shape for name, one in made.items()} == {"x": (1, 3), "ids": (1, 16), "scale": ()}
    assert (made["ids"] == 1).all()
    PORTS.arrays(made)
    with pytest.raises(OptionError, match="z may have any rank"):
        generated_inputs(GraphPorts({"z": GraphPort("float32", None)}, {}))


def graph(*types: ir.TypeProtocol | None) -> ir.Model:
    inputs = [ir.Value(name=f"v{index}", type=kind) for index, kind in enumerate(types)]
    return ir.Model(ir.Graph(inputs, [], nodes=[], opset_imports={"": 25}), ir_version=10)


def test_ports_that_are_no_arrays_are_listed() -> None:
    tensor = ir.TensorType(ir.DataType.FLOAT)
    with pytest.raises(UnsupportedModelError) as caught:
        GraphPorts.of(graph(tensor, ir.SequenceType(tensor), None, ir.TensorType(ir.DataType.INT4)), None)
    assert [one.split()[1] for one in caught.value.problems] == ["'v1'", "'v2'", "'v3'"]


def test_negative_sizes_are_open() -> None:
    model = graph(ir.TensorType(ir.DataType.FLOAT))
    model.graph.inputs[0].shape = ir.Shape([-1, 3, "n", None])
    assert GraphPorts.of(model, None).inputs["v0"].shape == (None, 3, "n", None)
