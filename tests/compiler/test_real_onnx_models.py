"""Real ONNX models, from packages that may be there: compiled, saved, loaded, equal to onnxruntime."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import intaglio

RANDOM = np.random.default_rng(0)
Arrays = Mapping[str, np.ndarray]


def normal(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


SPEECH = {"input": normal(1, 576) / 10, "state": normal(2, 1, 128) / 10, "sr": np.array(16000)}
BYTES = {"bytes": RANDOM.integers(0, 256, (3, 2048)).astype(np.int32)}
IMAGE = {"x": normal(1, 3, 48, 160)}
# Package, file, inputs (those that the model takes of these).
MODELS: tuple[tuple[str, str, Arrays], ...] = (
    (
        "magika",
        "models/standard_v3_3/model.onnx",
        {"bytes": RANDOM.integers(0, 256, (3, 2048)).astype(np.int32)},
    ),
    ("silero_vad", "data/silero_vad.onnx", SPEECH),
    ("silero_vad", "data/silero_vad_op18_ifless.onnx", SPEECH),
    ("silero_vad", "data/silero_vad_half.onnx", SPEECH),
    ("rapidocr_onnxruntime", "models/ch_PP-OCRv4_det_infer.onnx", {"x": normal(1, 3, 96, 160)}),
    ("rapidocr_onnxruntime", "models/ch_PP-OCRv4_rec_infer.onnx", IMAGE),
    ("rapidocr_onnxruntime", "models/ch_ppocr_mobile_v2.0_cls_infer.onnx", {"x": normal(1, 3, 48, 192)}),
)


def find(package: str, file: str) -> Path:
    """The file, found without importing the package."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        pytest.skip(f"the package {package} is not installed")
    path = Path(found.origin).parent / file
    if not path.is_file():
        pytest.skip(f"this version of {package} has no {file}")
    return path


def original(path: Path, inputs: Arrays) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(inputs that the model takes, its outputs)."""
    session = onnxruntime.InferenceSession(path)
    taken = {one.name: inputs[one.name] for one in session.get_inputs()}
    names = [one.name for one in session.get_outputs()]
    return taken, dict(zip(names, session.run(names, taken), strict=True))


@pytest.mark.parametrize(("package", "file", "inputs"), MODELS, ids=[one[1] for one in MODELS])
def test_a_real_model_computes_the_same(package: str, file: str, inputs: Arrays, tmp_path: Path) -> None:
    path = find(package, file)
    taken, expected = original(path, inputs)
    with intaglio.compile(path, threads=1) as compiled:
        saved = compiled.save(tmp_path / "compiled")
        names = list(compiled.manifest.nodes)
        assert all(compiled.explain(name).to_text() for name in names[:: max(1, len(names) // 50)])
    with intaglio.load(saved, threads=1) as loaded:
        found = loaded(taken)
    assert list(found) == list(expected)
    for name, one in expected.items():
        assert float(np.abs(found[name] - one).max()) <= 1e-4 * max(1.0, float(np.abs(one).max()))
