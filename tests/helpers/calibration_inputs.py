"""Inputs of the kind that real models were trained for, made without the network: text drawn as images, code
and prose of the standard library, voices made of harmonics."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

LIBRARY = Path(ast.__file__).parent
Arrays = Mapping[str, np.ndarray]
# Five columns of seven rows each, the lowest bit on top.
FONT = {
    "A": "7e1111117e", "B": "7f49494936", "C": "3e41414122", "D": "7f4141221c", "E": "7f49494941",
    "F": "7f09090901", "G": "3e4149497a", "H": "7f0808087f", "I": "00417f4100", "J": "2040413f01",
    "K": "7f08142241", "L": "7f40404040", "M": "7f020c027f", "N": "7f0408107f", "O": "3e4141413e",
    "P": "7f09090906", "Q": "3e4151215e", "R": "7f09192946", "S": "4649494931", "T": "01017f0101",
    "U": "3f4040403f", "V": "1f2040201f", "W": "3f4038403f", "X": "6314081463", "Y": "0708700807",
    "Z": "6151494543", "0": "3e5149453e", "1": "00427f4000", "2": "4261514946", "3": "2141454b31",
    "4": "1814127f10", "5": "2745454539", "6": "3c4a494930", "7": "0171090503", "8": "3649494936",
    "9": "064949291e", ".": "0060600000", ":": "0036360000", "-": "0808080808", "(": "001c224100",
    ")": "0041221c00", "=": "1414141414", "/": "2010080402", " ": "0000000000",
}  # fmt: skip


def glyph(letter: str) -> np.ndarray:
    """Seven rows, six columns: a letter and a gap."""
    columns = np.frombuffer(bytes.fromhex(FONT[letter] + "00"), np.uint8)
    return (columns[None, :] >> np.arange(7, dtype=np.uint8)[:, None] & 1).astype(np.float32)


def line(text: str, height: int) -> np.ndarray:
    """`text` as coverage from 0 to 1, `height` rows high, its edges soft."""
    letters = [glyph(one) for one in text.upper() if one in FONT]
    return resized(np.concatenate(letters or [glyph(" ")], 1), height, 4)


def resized(image: np.ndarray, height: int, oversampling: int) -> np.ndarray:
    """Of the given height, averaged from a picture that is `oversampling` times as large."""
    width, large = round(image.shape[1] * height / 7), height * oversampling
    rows = np.arange(large) * 7 // large
    columns = np.arange(width * oversampling) * image.shape[1] // (width * oversampling)
    fine = image[rows[:, None], columns[None, :]]
    return fine.reshape(height, oversampling, width, oversampling).mean((1, 3))


@cache
def prose() -> tuple[str, ...]:
    """Docstrings of the standard library."""
    found: list[str] = []
    for path in sorted(LIBRARY.glob("*.py"))[:25]:
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8", errors="ignore")))
        kinds = ast.FunctionDef | ast.ClassDef | ast.Module
        found += [text for one in nodes if isinstance(one, kinds) and (text := ast.get_docstring(one))]
    return tuple(one for one in found if len(one) > 100)


def words(random: np.random.Generator, count: int) -> str:
    """So many words of prose."""
    text = prose()[random.integers(len(prose()))].split()
    start = int(random.integers(max(1, len(text) - count)))
    return " ".join(text[start : start + count])


def page(seed: int, height: int = 480, width: int = 640) -> Arrays:
    """A photographed page of text, as PP-OCR's detector takes it."""
    random = np.random.default_rng(seed)
    cover, top = np.zeros((height, width), np.float32), 10
    while (size := int(random.integers(10, 32))) + top < height - 8:
        drawn = line(words(random, 5), size)[:, : width - 60]
        left = int(random.integers(5, 50))
        cover[top : top + size, left : left + drawn.shape[1]] = drawn
        top += size + int(random.integers(6, 24))
    colours = photographed(cover, random)
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    return {"x": planes((colours - mean) / deviation)}


def text_line(seed: int, width: int = 320) -> Arrays:
    """One line of text, 48 pixels high, as PP-OCR's recogniser takes it."""
    random = np.random.default_rng(seed)
    drawn = line(words(random, 2), 28)[:, : width - 8]
    cover = np.zeros((48, width), np.float32)
    cover[10:38, 4 : 4 + drawn.shape[1]] = drawn
    return {"x": planes(photographed(cover, random) * 2 - 1)}


def photographed(cover: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Ink on paper of some colours, in uneven light and with noise, from 0 to 1."""
    paper, ink = random.uniform(0.7, 1, 3), random.uniform(0, 0.4, 3)
    light = np.linspace(random.uniform(0.8, 1), random.uniform(0.8, 1), cover.shape[1])[None, :, None]
    colours = (paper + (ink - paper) * cover[..., None]) * light
    return np.clip(colours + random.normal(0, 0.02, colours.shape), 0, 1)


def planes(colours: np.ndarray) -> np.ndarray:
    """`[1, 3, height, width]` float32."""
    return np.ascontiguousarray(colours.transpose(2, 0, 1)[None]).astype(np.float32)


def voice(seed: int, samples: int = 576, rate: int = 16000) -> Arrays:
    """A voiced sound, noise or silence, as silero-vad takes it."""
    random = np.random.default_rng(seed)
    time, pitch = np.arange(samples) / rate, random.uniform(80, 250)
    formant, sound = random.uniform(300, 2500), random.normal(0, random.choice([0.001, 0.01, 0.05]), samples)
    for harmonic in range(1, 25):
        loudness = np.exp(-(((harmonic * pitch - formant) / 600) ** 2)) * random.choice([0, 0.05, 0.2])
        sound += loudness * np.sin(2 * np.pi * pitch * harmonic * time + random.uniform(0, 6))
    state = random.standard_normal((2, 1, 128)) * 0.2
    return {
        "input": sound[None].astype(np.float32),
        "state": state.astype(np.float32),
        "sr": np.array(rate),
    }


@cache
def files() -> tuple[Path, ...]:
    """Files of many kinds beside the interpreter's library."""
    by_kind: dict[str, list[Path]] = {}
    near = [*LIBRARY.glob("*.*"), *LIBRARY.glob("*/*.*")]
    for path in sorted(one for one in near if one.is_file() and one.stat().st_size > 64):
        by_kind.setdefault(path.suffix.lower(), []).append(path)
    return tuple(path for kind in sorted(by_kind) for path in by_kind[kind][:40])


def file_bytes(seed: int) -> Arrays:
    """Beginning and end of a file, as magika takes them (version 3.3: 1024 bytes each, 256 is padding)."""
    random = np.random.default_rng(seed)
    content = files()[random.integers(len(files()))].read_bytes()
    beginning, end = list(content[:4096].lstrip()[:1024]), list(content[-4096:].rstrip()[-1024:])
    padding = [256] * 1024
    taken = (beginning + padding)[:1024] + (padding + end)[-1024:]
    return {"bytes": np.array([taken], np.int32)}


def sentences(seed: int, tokenizer: Any, tokens: int = 128) -> Arrays:
    """A paragraph as ids, by a tokenizer of transformers."""
    random = np.random.default_rng(seed)
    text = prose()[random.integers(len(prose()))]
    batch = tokenizer(text, max_length=tokens, truncation=True, padding="max_length", return_tensors="np")
    return {name: np.asarray(one, np.int64) for name, one in batch.items()}
