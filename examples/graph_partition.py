"""Compile an ONNX graph for the shapes of its calls, and see which way of running it was the fastest.

python examples/graph_partition.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import intaglio


def small_network(path: Path) -> None:
    """A convolution, an activation, an average, and a linear layer; height and width are open."""
    random = np.random.default_rng(0)
    weights = {"filters": (32, 3, 3, 3), "bias": (32,), "head": (32, 10)}
    stored = [
        numpy_helper.from_array(random.standard_normal(shape).astype(np.float32), name)
        for name, shape in weights.items()
    ]
    nodes = [
        helper.make_node("Conv", ["image", "filters", "bias"], ["features"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["features"], ["active"]),
        helper.make_node("GlobalAveragePool", ["active"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "head"], ["logits"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, "height", "width"])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 10])
    graph = helper.make_graph(nodes, "network", [image], [logits], stored)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)


def main() -> None:
    """Compile for two sizes, call with three."""
    calls = [{"image": np.ones((1, 3, size, size), np.float32)} for size in (32, 48, 64)]
    with tempfile.TemporaryDirectory() as folder:
        small_network(Path(folder) / "network.onnx")
        with intaglio.compile(Path(folder) / "network.onnx", example_inputs=calls[:2]) as model:
            for call in calls:  # the last one has no program: onnxruntime runs it
                print(call["image"].shape, "→", model(call)["logits"].shape)
            for line in model.report.candidates:
                print(line)


if __name__ == "__main__":
    main()
