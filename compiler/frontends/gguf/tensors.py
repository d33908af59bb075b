"""What a file must hold: the tensors that follow from a decoder's family and sizes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from intaglio.compiler.frontends.gguf.blocks import BLOCK_FORMATS
from intaglio.compiler.frontends.gguf.families import Family
from intaglio.compiler.frontends.gguf.reader import GgufFile
from intaglio.compiler.frontends.gguf.weights import PLAIN_FORMATS
from intaglio.compiler.frontends.traced import DecoderArchitecture

EMBEDDING, HEAD, FINAL_NORM = "token_embd.weight", "output.weight", "output_norm.weight"
FREQUENCIES = "rope_freqs.weight"
SHORT_FACTORS, LONG_FACTORS = "rope_factors_short.weight", "rope_factors_long.weight"
Shapes: TypeAlias = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class TensorNeeds:
    """What decides which tensors there must be, and of which shapes."""

    family: Family
    sizes: DecoderArchitecture
    rotary_vectors: Shapes  # names and shapes of rotary factors

    @property
    def layer_vectors(self) -> Shapes:
        """What every layer holds that must be plain, without `blk.{layer}.`."""
        family, sizes = self.family, self.sizes
        found: dict[str, tuple[int, ...]] = dict.fromkeys(_norms(family), (sizes.hidden,))
        if family.head_norms:
            found |= dict.fromkeys(("attn_q_norm.weight", "attn_k_norm.weight"), (sizes.head_dim,))
        if family.projection_biases:
            key = sizes.kv_heads * sizes.head_dim
            found["attn_q.bias"] = (sizes.heads * sizes.head_dim,)
            found |= {"attn_k.bias": (key,), "attn_v.bias": (key,)}
        return found

    @property
    def layer_matrices(self) -> Shapes:
        """What every layer holds that may be quantised, `[out, in]`, without `blk.{layer}.`."""
        shapes = _fused_matrices(self.sizes) if self.family.fused else _matrices(self.sizes)
        return {f"{name}.weight": shape for name, shape in shapes}

    @property
    def vectors(self) -> Shapes:
        """Names and shapes of all tensors that must be plain."""
        found = _in_layers(self.layer_vectors, self.sizes.layers)
        return {**found, FINAL_NORM: (self.sizes.hidden,), **self.rotary_vectors}

    @property
    def matrices(self) -> Shapes:
        """Names and shapes `[out, in]` of all tensors that may be quantised."""
        table = (self.sizes.vocabulary, self.sizes.hidden)
        heads = {} if self.sizes.tied_embedding else {HEAD: table}
        return {EMBEDDING: table, **heads, **_in_layers(self.layer_matrices, self.sizes.layers)}


def file_problems(file: GgufFile, rows: int) -> Iterator[str]:
    """What is wrong with `file` as a whole; `rows` are the embedding's."""
    parts = file.metadata.get("split.count", 1)
    if parts not in (0, 1):
        yield f"it is one of {parts} parts; join them first (llama-gguf-split --merge)"
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, list) and len(tokens) > rows:
        yield f"the tokenizer has {len(tokens)} tokens, but the embedding only {rows} rows"


def tensor_problems(file: GgufFile, needs: TensorNeeds) -> Iterator[str]:
    """Tensors that are missing, have the wrong shape or type, or an unknown meaning."""
    layers = needs.sizes.layers
    if layers * (len(needs.layer_vectors) + len(needs.layer_matrices)) > len(file.tensors):
        yield f"{layers} layers need more than the file's {len(file.tensors)} tensors"
        return
    vectors, matrices = needs.vectors, needs.matrices
    yield from _kind_problems(file, vectors, tuple(PLAIN_FORMATS))
    yield from _kind_problems(file, matrices, (*PLAIN_FORMATS, *BLOCK_FORMATS))
    for name, entry in file.tensors.items():
        if name not in vectors and name not in matrices:
            yield f"{name} {list(entry.shape)}: no {needs.family.name} weight that we know"


def _norms(family: Family) -> Iterator[str]:
    yield from ("attn_norm.weight", "ffn_norm.weight")
    if family.outer_norms:
        yield from ("post_attention_norm.weight", "post_ffw_norm.weight")


def _matrices(sizes: DecoderArchitecture) -> Iterator[tuple[str, tuple[int, int]]]:
    query, key = sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim
    yield "attn_q", (query, sizes.hidden)
    yield "attn_k", (key, sizes.hidden)
    yield "attn_v", (key, sizes.hidden)
    yield "attn_output", (sizes.hidden, query)
    yield "ffn_gate", (sizes.feed_forward, sizes.hidden)
    yield "ffn_up", (sizes.feed_forward, sizes.hidden)
    yield "ffn_down", (sizes.hidden, sizes.feed_forward)


def _fused_matrices(sizes: DecoderArchitecture) -> Iterator[tuple[str, tuple[int, int]]]:
    query, key = sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim
    yield "attn_qkv", (query + 2 * key, sizes.hidden)
    yield "attn_output", (sizes.hidden, query)
    yield "ffn_up", (2 * sizes.feed_forward, sizes.hidden)  # gate first
    yield "ffn_down", (sizes.hidden, sizes.feed_forward)


def _in_layers(shapes: Shapes, layers: int) -> dict[str, tuple[int, ...]]:
    return {f"blk.{layer}.{name}": shape for layer in range(layers) for name, shape in shapes.items()}


def _kind_problems(file: GgufFile, wanted: Shapes, kinds: tuple[str, ...]) -> Iterator[str]:
    for name, shape in wanted.items():
        entry = file.tensors.get(name)
        if entry is None:
            yield f"{name} {list(shape)} is missing"
            continue
        if entry.shape != shape:
            yield f"{name} has the shape {list(entry.shape)} instead of {list(shape)}"
        if entry.kind.name not in kinds:
            yield f"{name} is stored as {entry.kind.name}; known are {', '.join(kinds)}"
