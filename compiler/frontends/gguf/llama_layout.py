"""What a llama file must say and hold: its sizes from the metadata, and the tensors that follow from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from intaglio.compiler.errors import UnsupportedModelError
from intaglio.compiler.frontends.gguf.blocks import BLOCK_FORMATS
from intaglio.compiler.frontends.gguf.reader import GgufFile
from intaglio.compiler.frontends.gguf.settings import Settings
from intaglio.compiler.frontends.gguf.weights import PLAIN_FORMATS
from intaglio.compiler.frontends.traced import DecoderArchitecture

ARCHITECTURE = "llama"
EMBEDDING, HEAD, FINAL_NORM, FREQUENCIES = (
    "token_embd.weight",
    "output.weight",
    "output_norm.weight",
    "rope_freqs.weight",
)
TENSORS_PER_LAYER = 9
HARMLESS = (  # these describe how the file came about, not what the model computes
    "tensor_data_layout",
    "rope.scaling.original_context_length",
    "rope.scaling.finetuned",
)


@dataclass(frozen=True)
class LlamaLayout:
    """The sizes, and how rotary angles are stretched."""

    architecture: DecoderArchitecture
    epsilon: float  # of the RMS norms
    rope_base: float
    rope_scale: float  # positions are divided by this
    has_frequency_factors: bool  # the file divides the rotary frequencies by factors of its own

    @property
    def vectors(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the tensors that must be plain."""
        sizes = self.architecture
        names = [f"blk.{layer}.{norm}" for layer in range(sizes.layers) for norm in ("attn_norm", "ffn_norm")]
        vectors: dict[str, tuple[int, ...]] = {f"{name}.weight": (sizes.hidden,) for name in names}
        vectors[FINAL_NORM] = (sizes.hidden,)
        if self.has_frequency_factors:
            vectors[FREQUENCIES] = (sizes.head_dim // 2,)
        return vectors

    @property
    def matrices(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes `[out, in]` of the tensors that may be quantised."""
        sizes = self.architecture
        found: dict[str, tuple[int, ...]] = {EMBEDDING: (sizes.vocabulary, sizes.hidden)}
        if not sizes.tied_embedding:
            found[HEAD] = (sizes.vocabulary, sizes.hidden)
        for layer in range(sizes.layers):
            found |= {f"blk.{layer}.{name}.weight": shape for name, shape in _layer_matrices(sizes)}
        return found


def read_layout(file: GgufFile) -> LlamaLayout:
    """The layout of `file`; `UnsupportedModelError` lists everything in it that cannot be compiled."""
    settings = Settings(file.metadata, ARCHITECTURE)
    layout = LlamaLayout(
        architecture=_architecture(settings, file),
        epsilon=settings.number("attention.layer_norm_rms_epsilon"),
        rope_base=settings.number("rope.freq_base", 10000.0),
        rope_scale=_rope_scale(settings),
        has_frequency_factors=FREQUENCIES in file.tensors,
    )
    settings.refuse_unread(HARMLESS)
    settings.problems += _file_problems(file, layout.architecture.vocabulary)
    problems = settings.problems or list(_tensor_problems(file, layout))
    if problems:
        raise UnsupportedModelError(f"gguf: {file.path} cannot be compiled:", problems)
    return layout


def _layer_matrices(sizes: DecoderArchitecture) -> Iterator[tuple[str, tuple[int, int]]]:
    query, key = sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim
    yield "attn_q", (query, sizes.hidden)
    yield "attn_k", (key, sizes.hidden)
    yield "attn_v", (key, sizes.hidden)
    yield "attn_output", (sizes.hidden, query)
    yield "ffn_gate", (sizes.feed_forward, sizes.hidden)
    yield "ffn_up", (sizes.feed_forward, sizes.hidden)
    yield "ffn_down", (sizes.hidden, sizes.feed_forward)


def _architecture(settings: Settings, file: GgufFile) -> DecoderArchitecture:
    heads = settings.integer("attention.head_count")
    hidden = settings.integer("embedding_length")
    head_dim = settings.integer("attention.key_length", max(hidden // heads, 1))
    kv_heads = settings.integer("attention.head_count_kv", heads)
    embedding = file.tensors.get(EMBEDDING)
    vocabulary = settings.integer("vocab_size", embedding.shape[0] if embedding else None)
    if heads % kv_heads:
        settings.problems.append(f"{heads} attention heads cannot share {kv_heads} key heads evenly")
    if head_dim % 2:
        settings.problems.append(f"the head dimension {head_dim} is odd, so it cannot be rotated in pairs")
    settings.one_of("attention.value_length", (head_dim,), head_dim)
    settings.one_of("rope.dimension_count", (head_dim,), head_dim)
    settings.one_of("expert_count", (0,), 0)
    settings.one_of("expert_used_count", (0,), 0)
    settings.one_of("attention.causal", (True,), True)
    return DecoderArchitecture(
        layers=settings.integer("block_count", largest=2**16),
        hidden=hidden,
        feed_forward=settings.integer("feed_forward_length"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocabulary=vocabulary,
        context=settings.integer("context_length"),
        tied_embedding=HEAD not in file.tensors,
    )


def _rope_scale(settings: Settings) -> float:
    kind = settings.one_of("rope.scaling.type", ("none", "linear"), "none")
    legacy = settings.number("rope.scale_linear", 1.0)
    factor = settings.number("rope.scaling.factor", legacy)
    return factor if kind == "linear" else legacy


def _file_problems(file: GgufFile, rows: int) -> Iterator[str]:
    parts = file.metadata.get("split.count", 1)
    if parts not in (0, 1):
        yield f"it is one of {parts} parts; join them first (llama-gguf-split --merge)"
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, list) and len(tokens) > rows:
        yield f"the tokenizer has {len(tokens)} tokens, but the embedding only {rows} rows"


def _tensor_problems(file: GgufFile, layout: LlamaLayout) -> Iterator[str]:
    if layout.architecture.layers * TENSORS_PER_LAYER > len(file.tensors):
        yield f"{layout.architecture.layers} layers need more than the file's {len(file.tensors)} tensors"
        return
    vectors, matrices = layout.vectors, layout.matrices
    yield from _kind_problems(file, vectors, tuple(PLAIN_FORMATS))
    yield from _kind_problems(file, matrices, (*PLAIN_FORMATS, *BLOCK_FORMATS))
    for name, entry in file.tensors.items():
        if name not in vectors and name not in matrices:
            yield f"{name} {list(entry.shape)}: no llama weight that we know"


def _kind_problems(
    file: GgufFile, wanted: Mapping[str, tuple[int, ...]], kinds: tuple[str, ...]
) -> Iterator[str]:
    for name, shape in wanted.items():
        entry = file.tensors.get(name)
        if entry is None:
            yield f"{name} {list(shape)} is missing"
            continue
        if entry.shape != shape:
            yield f"{name} has the shape {list(entry.shape)} instead of {list(shape)}"
        if entry.kind.name not in kinds:
            yield f"{name} is stored as {entry.kind.name}; known are {', '.join(kinds)}"
