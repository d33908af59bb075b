"""The attention kernels against their references, on odd sizes and NaN-filled buffers."""

from __future__ import annotations

import dataclasses
import itertools
import json

import numpy as np
import pytest

from intaglio.kernels.attention.cache import RotateAndCache
from intaglio.kernels.attention.combine import CombineAttention
from intaglio.kernels.attention.decode import DecodeAttention
from intaglio.kernels.attention.heads import Heads
from intaglio.kernels.attention.prefill import PrefillAttention
from intaglio.kernels.attention.reference import causal_attention, prepare
from intaglio.kernels.attention.reference_cache import RELATIVE_STEP, pack_cache, unpack_cache
from intaglio.kernels.catalogue import kernel_from_json
from intaglio.kernels.rotary_embedding.reference import tables

CAPACITY = 256
NORMS = {"query_norm": 1e-6, "key_norm": 1e-5}
# The first 3 are sizes and the rest options of Heads, as families of models combine them.
CASES = {
    "llama": (9, 3, 64, {}),
    "small": (4, 4, 20, {}),
    "tiny": (3, 1, 8, {"window": 0}),
    "single-lanes": (2, 1, 18, {"window": 5}),
    "qwen2": (7, 1, 64, {"bias": True}),
    "qwen3": (4, 2, 128, NORMS),
    "gemma2": (4, 2, 128, {"softcap": 50.0, "scale": 144**-0.5, "window": 63}),
    "gemma3": (4, 1, 256, NORMS | {"window": 64, "scale": 0.125}),
    "mistral": (4, 1, 128, {"window": 48}),
    "phi3": (2, 2, 96, {"window": 16, "rotary_dim": 72}),
    "gpt2": (4, 4, 80, {"rotary_dim": 0, "bias": True, "scale": 0.05}),
    "neox": (3, 3, 80, {"rotary_dim": 20, "bias": True}),
    "gptj": (2, 2, 256, {"rotary_dim": 64, "interleaved": True}),
    "glm": (16, 1, 64, {"rotary_dim": 32, "interleaved": True, "bias": True}),
    "falcon": (20, 1, 16, {}),
    "wide": (5, 1, 192, {"key_norm": 1e-6, "interleaved": True, "softcap": 4.0, "window": 130}),
}
# Each with the family that most machines have; with wider ones, what goes ways of its own there; and every
# type of cache with heads of whole vectors, of part of one, of several, with odd words, and with a window.
TARGETS = {
    "cpu:x86-64-v3": {
        "fp32": tuple(CASES),
        "fp16": ("gemma3", "small"),
        "bf16": ("llama", "neox", "single-lanes"),
        "int8": ("tiny", "single-lanes", "wide"),
    },
    "cpu:avx512-vnni": {
        "fp32": ("llama", "qwen2", "gemma2", "gptj", "falcon"),
        "fp16": ("falcon", "phi3"),
        "bf16": ("glm", "single-lanes", "mistral"),
        "int8": ("llama", "tiny", "gemma2"),
    },
    "cpu:avx512-bf16": {
        "bf16": ("llama", "small", "gemma3", "tiny", "falcon"),
        "int8": ("gemma2", "single-lanes", "neox"),
    },
}
each_case = pytest.mark.parametrize(
    ("target", "name", "cache"),
    [
        (target, name, cache)
        for target, caches in TARGETS.items()
        for cache, names in caches.items()
        for name in names
    ],
    indirect=["target"],
)
# Products of bfloat16 round queries and weights: relative to the largest, since sums may cancel.
ROUNDING = 1e-2
POSITIONS = [0, 15, 16, 17, 63, 64, 65, 130]
CHUNKS = [
    (0, 1, 2),
    (0, 67, 1),
    (61, 9, 2),
    (64, 65, 1),
    (5, 128, 2),
    (130, 17, 2),
]  # position, tokens, workers


class Case:
    """Random projections of `tokens` tokens after `position` others, and what must come out."""

    def __init__(
        self, name: str, position: int, tokens: int, random, *, factor: float = 1.0, cache: str = "fp32"
    ) -> None:
        heads, kv_heads, size, options = CASES[name]
        columns = (heads + 2 * kv_heads) * size
        self.stride = -(-columns // 16) * 16
        self.heads = Heads(heads, kv_heads, size, CAPACITY, self.stride, **options, cache=cache)
        self.position, self.tokens = position, tokens
        half = self.heads.rotated // 2
        cosine, sine = (table.astype(np.float32) for table in tables(CAPACITY, 2 * half, 10000.0))
        rows = (factor * random.normal(size=(position + tokens, columns))).astype(np.float32)
        self.buffers = {
            "projection": np.full((tokens + 8, self.stride), np.nan, np.float32),
            "cosines": cosine,
            "sines": sine,
            "bias": np.full(self.stride, np.nan, np.float32),
            "query_norm": random.uniform(0.5, 1.5, size).astype(np.float32),
            "key_norm": random.uniform(0.5, 1.5, size).astype(np.float32),
        }
        self.buffers["projection"][:tokens, :columns] = rows[position:]
        self.buffers["bias"][:columns] = random.normal(size=columns)
        self.prepare(rows.astype(np.float64))
        self.fill()

    def prepare(self, rows: np.ndarray) -> None:
        heads, position = self.heads, self.position
        given = {name: buffer.astype(np.float64) for name, buffer in self.buffers.items()}
        rows = rows + given["bias"][: rows.shape[1]] if heads.bias else rows
        parts = rows.reshape(len(rows), -1, heads.head_dim).swapaxes(0, 1)
        q, k, self.v = np.split(parts, [heads.heads, heads.heads + heads.kv_heads])

        def prepared(part: np.ndarray, norm: str) -> np.ndarray:
            epsilon = getattr(heads, norm)
            weight = None if epsilon is None else given[norm]
            angles = (given[name][: len(rows)] for name in ("cosines", "sines"))
            options = {"epsilon": epsilon or 0.0, "interleaved": heads.interleaved}
            return prepare(part, *angles, weight=weight, **options)

        self.q, self.k = prepared(q, "query_norm")[:, position:], prepared(k, "key_norm")
        options = {"scale": heads.scale, "softcap": heads.softcap, "window": heads.window}
        self.columns = heads.heads * heads.head_dim
        self.options = options

    def fill(self) -> None:
        """Put what is seen of earlier tokens into the cache, as the kernels lay it out; NaN elsewhere."""
        heads = self.heads
        window = heads.window if heads.window >= 0 else self.position
        # Whole words: what shares one with a position in sight was written in its time.
        seen = slice(max(0, self.position - window) // heads.unit * heads.unit, self.position)
        keys, values = (np.full((heads.kv_heads, CAPACITY, heads.head_dim), np.nan) for _ in range(2))
        keys[:, seen], values[:, seen] = self.k[:, seen], self.v[:, seen]
        with np.errstate(invalid="ignore"):
            self.buffers |= pack_cache(keys, values, heads)

    def check_cache(self, buffers: dict[str, np.ndarray]) -> None:
        """The new tokens are in the cache, and nothing beyond them; what must come out follows from it."""
        heads, end = self.heads, self.position + self.tokens
        new = slice(self.position, end)
        keys, values = unpack_cache(buffers, heads)
        for found, wanted in ((keys[:, new], self.k[:, new]), (values[:, new], self.v[:, new])):
            largest = np.abs(wanted).max(axis=-1, keepdims=True)
            step = largest / 254 if heads.scaled else np.abs(wanted) * RELATIVE_STEP[heads.cache]
            assert (np.abs(found - wanted) <= step * 1.0001 + 4e-6 * largest).all()
        assert np.isnan(keys[:, end:]).all()
        assert np.isnan(values[:, -(-end // heads.unit) * heads.unit :]).all()
        seen = (np.nan_to_num(one[:, :end]) for one in (keys, values))
        mixed = causal_attention(self.q, *seen, self.position, **self.options)
        self.expected = mixed.swapaxes(0, 1).reshape(self.tokens, -1)

    def check(self, found: np.ndarray, tolerance: float = 2e-5, rounding: float = 0.0) -> None:
        found, absolute = found[:, : self.columns], max(tolerance / 5, rounding * np.abs(self.expected).max())
        np.testing.assert_allclose(found, self.expected, rtol=tolerance, atol=absolute)

    @property
    def result_stride(self) -> int:
        return -(-self.columns // 16) * 16


def decode(case: Case, run_kernel, nan, workers: int) -> np.ndarray:
    """Decode one token; every worker's copy of the result."""
    heads = case.heads
    parts = {"partial": nan(workers, heads.heads, heads.head_dim), "statistics": nan(workers, heads.heads, 2)}
    done = run_kernel(DecodeAttention(heads), case.buffers | parts, position=case.position, workers=workers)
    case.check_cache(done)
    result = {"result": nan(workers, case.result_stride)}
    return run_kernel(CombineAttention(heads, case.result_stride), done | result, workers=workers)["result"]


def prefill(case: Case, run_kernel, nan, workers: int) -> np.ndarray:
    """Take in all tokens; their rows of the result."""
    options = {"count": case.tokens, "position": case.position, "workers": workers}
    done = run_kernel(RotateAndCache(case.heads), case.buffers, **options)
    case.check_cache(done)
    queries = done["projection"][: case.tokens, : case.columns]
    scaled = case.q.swapaxes(0, 1).reshape(queries.shape) * case.heads.score_scale
    np.testing.assert_allclose(queries, scaled, rtol=1e-5, atol=4e-6)
    kernel = PrefillAttention(case.heads, case.result_stride)
    result = {"result": nan(case.tokens + 8, case.result_stride)}
    result["scratch"] = nan(workers * kernel.scratch_bytes // 4)
    return run_kernel(kernel, done | result, **options)["result"][: case.tokens]


@each_case
def test_decode(name, cache, target, run_kernel, random, nan):
    rounding = ROUNDING if "bf16" in target.name and cache == "bf16" else 0.0
    for position, workers in itertools.product(POSITIONS, (1, 2)):
        case = Case(name, position, 1, random, cache=cache)
        rows = decode(case, run_kernel, nan, workers)
        for row in rows:
            case.check(row[None], rounding=rounding)
        assert (rows[:, case.columns :] == 0).all()


@each_case
def test_prefill(name, cache, target, run_kernel, random, nan):
    for position, tokens, workers in CHUNKS:
        case = Case(name, position, tokens, random, cache=cache)
        rounding = ROUNDING if "bf16" in target.name else 0.0
        case.check(prefill(case, run_kernel, nan, workers), rounding=rounding)


def test_workers_may_have_a_projection_of_their_own(run_kernel, random, nan):
    case = Case("qwen2", 40, 1, random)
    case.heads = dataclasses.replace(case.heads, own=True)
    case.buffers["projection"][1] = case.buffers["projection"][0]
    for row in decode(case, run_kernel, nan, 2):
        case.check(row[None])


@pytest.mark.parametrize("name", ["qwen2", "gemma2"])
def test_large_scores_do_not_overflow(name, run_kernel, random, nan):
    """Scores of several hundred: e^x alone would be infinite, and tanh is 1."""
    case = Case(name, 0, 40, random, factor=12.0)
    case.check(prefill(case, run_kernel, nan, 1), tolerance=2e-3)


def test_options_survive_json():
    heads = Heads(4, 2, 64, CAPACITY, 512, softcap=50.0, window=7, rotary_dim=32, bias=True, key_norm=1e-6)
    parameters = json.loads(json.dumps(dataclasses.asdict(DecodeAttention(heads))))
    assert kernel_from_json("DecodeAttention", parameters) == DecodeAttention(heads)


def test_pointers_name_what_is_needed():
    plain, full = Heads(4, 2, 64, 64, 512), Heads(4, 2, 64, 64, 512, bias=True, rotary_dim=0, **NORMS)
    ends = ["partial", "statistics"]
    assert [*DecodeAttention(plain).pointers] == ["projection", "cosines", "sines", "keys", "values", *ends]
    optional = ["keys", "values", "bias", "query_norm", "key_norm"]
    assert [*DecodeAttention(full).pointers] == ["projection", *optional, *ends]
    assert [*RotateAndCache(full).pointers] == ["projection", *optional]
