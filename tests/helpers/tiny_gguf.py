"""Writes a tiny random llama as a GGUF file with a working byte-level tokenizer, for any test to use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import gguf
import numpy as np
from numpy.typing import NDArray

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
COMMON_MERGES = (
    "Ġ t",
    "h e",
    "Ġt he",
    "Ġ a",
    "i n",
    "e r",
    "o n",
    "r e",
    "Ġ s",
    "Ġ Ġ",
    "Ġ c",
    "a t",
    "e n",
    "Ġ w",
)
HALVES = {  # scales of scales, and of minima, by their places in a block
    "Q2_K": {80: 5e-3, 82: 5e-3},
    "Q3_K": {108: 1e-3},
    "Q4_K": {0: 1e-4, 2: 1e-3},
    "Q5_K": {0: 5e-5, 2: 1e-3},
    "Q6_K": {208: 5e-5},
}
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def byte_alphabet() -> list[str]:
    """The 256 printable characters by which GPT-2 vocabularies spell bytes, in byte order."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    spare = iter(range(256, 512))
    return [chr(byte if byte in printable else next(spare)) for byte in range(256)]


def byte_level_vocabulary(size: int) -> tuple[list[str], list[str]]:
    """`size` tokens (special ones, then bytes, then merged pairs) and the merges that make the pairs."""
    tokens = [*SPECIAL_TOKENS, *byte_alphabet()]
    letters = "abcdefghijklmnopqrstuvwxyz"
    candidates = [*COMMON_MERGES, *(f"{first} {second}" for first in letters for second in letters)]
    merges: list[str] = []
    for merge in dict.fromkeys(candidates):
        if len(tokens) >= size:
            break
        if (merged := merge.replace(" ", "")) not in tokens:
            merges.append(merge)
            tokens.append(merged)
    if len(tokens) != size or not merges:
        raise ValueError(f"A tiny vocabulary with a tokenizer has 260 to 940 tokens, not {size}.")
    return tokens, merges


def interleave_heads(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Reorder the rows of a q or k weight as llama.cpp's converter does (rotated pairs become neighbours)."""
    rows = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return np.ascontiguousarray(rows.swapaxes(1, 2)).reshape(weight.shape)


class Shapes(NamedTuple):
    """Sizes of the weights."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    feed_forward: int
    vocabulary: int


def weights(
    shapes: Shapes, random: np.random.Generator, tied: bool
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Random weights `[out, in]` by their names in the file."""
    hidden, query, key = shapes.hidden, shapes.heads * shapes.head_dim, shapes.kv_heads * shapes.head_dim

    def matrix(rows: int, columns: int) -> NDArray[np.float32]:
        return random.standard_normal((rows, columns)).astype(np.float32) / np.float32(columns**0.5)

    def norm() -> NDArray[np.float32]:
        return random.uniform(0.5, 1.5, hidden).astype(np.float32)

    yield "token_embd.weight", 4 * matrix(shapes.vocabulary, hidden)
    for layer in range(shapes.layers):
        yield f"blk.{layer}.attn_norm.weight", norm()
        yield f"blk.{layer}.attn_q.weight", interleave_heads(matrix(query, hidden), shapes.heads)
        yield f"blk.{layer}.attn_k.weight", interleave_heads(matrix(key, hidden), shapes.kv_heads)
        yield f"blk.{layer}.attn_v.weight", matrix(key, hidden)
        yield f"blk.{layer}.attn_output.weight", matrix(hidden, query)
        yield f"blk.{layer}.ffn_norm.weight", norm()
        yield f"blk.{layer}.ffn_gate.weight", matrix(shapes.feed_forward, hidden)
        yield f"blk.{layer}.ffn_up.weight", matrix(shapes.feed_forward, hidden)
        yield f"blk.{layer}.ffn_down.weight", matrix(hidden, shapes.feed_forward)
    yield "output_norm.weight", norm()
    if not tied:
        yield "output.weight", matrix(shapes.vocabulary, hidden)


def quantized(weight: NDArray[np.float32], kind: gguf.GGMLQuantizationType) -> NDArray[np.generic]:
    """Raw blocks of `weight`; random ones of like size for k-quants, which the gguf package cannot make."""
    halves = HALVES.get(kind.name)
    if halves is None:
        blocks: NDArray[np.generic] = gguf.quants.quantize(weight, kind)
        return blocks
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    random = np.random.default_rng(weight.shape)
    raw = random.integers(0, 256, (weight.shape[0], weight.shape[1] // elements, size), np.uint8)
    for start, value in halves.items():
        raw[..., start : start + 2] = np.array([value], np.float16).view(np.uint8)
    return raw.reshape(weight.shape[0], -1)


def write_tiny_llama(
    path: Path,
    *,
    layers: int = 2,
    hidden: int = 64,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int | None = None,
    feed_forward: int = 96,
    vocabulary: int = 300,
    context: int = 128,
    quantization: str = "Q4_0",
    embedding_quantization: str = "Q8_0",
    tied: bool = True,
    tokenizer: bool = True,
    rope_base: float = 10000.0,
    seed: int = 0,
    metadata: dict[str, str | int | float | bool] | None = None,
    leave_out: tuple[str, ...] = (),
    extra_tensors: dict[str, NDArray[np.float32]] | None = None,
) -> Path:
    """Write the model to `path`. Row lengths must be multiples of the block size of `quantization`.

    `metadata` adds or replaces keys, `leave_out` names tensors not to write, `extra_tensors` come as float32.
    """
    dimension = head_dim or hidden // heads
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(layers)
    writer.add_context_length(context)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(feed_forward)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_freq_base(rope_base)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(vocabulary)
    writer.add_rope_dimension_count(dimension)
    if head_dim is not None:
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    if tokenizer:
        _add_tokenizer(writer, vocabulary)
    for key, value in (metadata or {}).items():
        _add_value(writer, key, value)

    shapes = Shapes(layers, hidden, heads, kv_heads, dimension, feed_forward, vocabulary)
    kinds = {"norm": "F32", "embd": embedding_quantization}
    for name, weight in weights(shapes, np.random.default_rng(seed), tied):
        if name not in leave_out:
            kind = next((kind for part, kind in kinds.items() if part in name), quantization)
            quantization_type = gguf.GGMLQuantizationType[kind]
            writer.add_tensor(name, quantized(weight, quantization_type), raw_dtype=quantization_type)
    for name, weight in (extra_tensors or {}).items():
        writer.add_tensor(name, weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_value(writer: gguf.GGUFWriter, key: str, value: str | int | float | bool) -> None:
    kinds = {
        str: gguf.GGUFValueType.STRING,
        bool: gguf.GGUFValueType.BOOL,
        int: gguf.GGUFValueType.UINT32,
        float: gguf.GGUFValueType.FLOAT32,
    }
    writer.add_key_value(key, value, kinds[type(value)])


def _add_tokenizer(writer: gguf.GGUFWriter, vocabulary: int) -> None:
    tokens, merges = byte_level_vocabulary(vocabulary)
    control = len(SPECIAL_TOKENS)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * control + [1] * (len(tokens) - control))
    writer.add_token_merges(merges)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)
