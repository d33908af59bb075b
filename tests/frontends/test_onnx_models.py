"""Models that people ship in Python packages compute in our IR what they compute in their files."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from intaglio.backends.onnxruntime.session import OnnxRuntimeSession
from intaglio.compiler.frontends.traced import Traced
from intaglio.compiler.frontends.tracing import trace
from intaglio.compiler.ir import OPSET_KEPT, check, to_text
from intaglio.passes.normalize import normalize_graph

SILERO = "silero_vad/data"
OCR = "rapidocr_onnxruntime/models"

# Each file with shapes of its inputs for two calls; int: a scalar of that value.
Shapes = dict[str, tuple[int, ...] | int]
MODELS: dict[str, tuple[str, tuple[Shapes, Shapes]]] = {
    "magika": ("magika/models/standard_v3_3/model.onnx", ({"bytes": (1, 2048)}, {"bytes": (3, 2048)})),
    "rapidocr det": (f"{OCR}/ch_PP-OCRv4_det_infer.onnx", ({"x": (1, 3, 64, 96)}, {"x": (1, 3, 96, 160)})),
    "rapidocr rec": (f"{OCR}/ch_PP-OCRv4_rec_infer.onnx", ({"x": (1, 3, 48, 64)}, {"x": (2, 3, 48, 128)})),
    "rapidocr cls": (
        f"{OCR}/ch_ppocr_mobile_v2.0_cls_infer.onnx",
        ({"x": (1, 3, 48, 192)}, {"x": (3, 3, 48, 192)}),
    ),
    "silero 16k": (
        f"{SILERO}/silero_vad.onnx",
        (
            {"input": (1, 576), "state": (2, 1, 128), "sr": 16000},
            {"input": (3, 576), "state": (2, 3, 128), "sr": 16000},
        ),
    ),
    "silero 8k": (
        f"{SILERO}/silero_vad.onnx",
        (
            {"input": (1, 288), "state": (2, 1, 128), "sr": 8000},
            {"input": (2, 288), "state": (2, 2, 128), "sr": 8000},
        ),
    ),
    "silero op15": (
        f"{SILERO}/silero_vad_16k_op15.onnx",
        (
            {"input": (1, 576), "state": (2, 1, 128), "sr": 16000},
            {"input": (2, 576), "state": (2, 2, 128), "sr": 16000},
        ),
    ),
    "silero op18 without If": (
        f"{SILERO}/silero_vad_op18_ifless.onnx",
        (
            {"input": (1, 576), "state": (2, 1, 128), "sr": 16000},
            {"input": (2, 576), "state": (2, 2, 128), "sr": 16000},
        ),
    ),
    "silero half": (
        f"{SILERO}/silero_vad_half.onnx",
        ({"input": (1, 576), "state": (2, 1, 128)}, {"input": (2, 576), "state": (2, 2, 128)}),
    ),
    "silero sequence": (
        f"{SILERO}/silero_vad_16k_sequence.onnx",
        (
            {"input": (1, 576), "h": (1, 1, 128), "c": (1, 1, 128)},
            {"input": (7, 576), "h": (1, 1, 128), "c": (1, 1, 128)},
        ),
    ),
    "silero openvino": (
        f"{SILERO}/silero_vad_openvino_16k.onnx",
        ({"input": (1, 576), "state": (2, 1, 128)}, {"input": (1, 576), "state": (2, 1, 128)}),
    ),
}


def installed(place: str) -> Path:
    """The file at `place` in the folder of an installed package, which is found but never imported."""
    package, _, inside = place.partition("/")
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        pytest.skip(f"the package {package} is not installed")
    return Path(found.origin).parent / inside


def feeds(session: onnxruntime.InferenceSession, shapes: Shapes) -> dict[str, np.ndarray]:
    random = np.random.default_rng(5)
    made: dict[str, np.ndarray] = {}
    for one in session.get_inputs():
        shape = shapes[one.name]
        if isinstance(shape, int):
            made[one.name] = np.array(shape, np.int64)
        elif one.type == "tensor(int32)":
            made[one.name] = random.integers(0, 257, shape).astype(np.int32)
        else:
            made[one.name] = (random.standard_normal(shape) * 0.3).astype(np.float32)
    return made


def original(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def agree(traced: Traced, path: Path, calls: tuple[Shapes, Shapes]) -> None:
    reference, session = original(path), OnnxRuntimeSession(traced.model, threads=1)
    names = [one.name for one in reference.get_outputs()]
    for shapes in calls:
        inputs = feeds(reference, shapes)
        results = session.run(inputs)
        for name, expected in zip(names, reference.run(names, inputs), strict=True):
            np.testing.assert_allclose(results[name], expected, rtol=1e-4, atol=1e-4, strict=True)


@pytest.mark.parametrize("name", MODELS)
def test_models_of_packages_compute_the_same(name: str) -> None:
    place, calls = MODELS[name]
    path = installed(place)
    traced = trace(path)
    assert traced.architecture is None
    assert (traced.source.path, traced.source.bytes) == (path, path.stat().st_size)
    assert traced.model.opset_imports[""] == 25
    assert OPSET_KEPT not in traced.model.metadata_props
    check(traced.model, decoder=False)
    agree(traced, path, calls)
    normalize_graph(traced.model)
    check(traced.model, decoder=False)
    agree(traced, path, calls)


def test_branches_are_kept_and_shown() -> None:
    model = trace(installed(f"{SILERO}/silero_vad.onnx")).model
    branches = [node for graph in model.graphs() for node in graph if node.op_type == "If"]
    assert len(branches) > 1
    assert any(node.op_type == "LSTM" for graph in model.graphs() for node in graph)
    assert "If" in to_text(model)
