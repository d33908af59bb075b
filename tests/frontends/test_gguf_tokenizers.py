"""Tokenizers of gemma, phi-3 and phi-4; the ids are llama.cpp's, by llama-cpp-python 0.3.36."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from intaglio.compiler.frontends.gguf.metadata import Value
from intaglio.compiler.frontends.gguf.tokenizer import build_tokenizer
from intaglio.compiler.frontends.traced import Tokenizer

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
LETTERS = list("abcdefghiT.,!?▁")
WORDS = ["▁a", "ab", "abc", "he", "▁he", "di", "▁di", "ge", "bad", "▁bad", "▁T", "ca", "cab"]
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6


def sentencepiece(groups: Sequence[tuple[list[str], int]], **keys: Value) -> dict[str, Value]:
    """Metadata of a vocabulary of `groups` of tokens and their kinds; letters and words have scores."""
    tokens = [token for group, _ in groups for token in group]
    kinds = [kind for group, kind in groups for _ in group]
    ranked = [*WORDS, *LETTERS]
    scores = [-float(ranked.index(token)) if token in ranked else 0.0 for token in tokens]
    metadata: dict[str, Value] = {
        "model": "llama",
        "tokens": tokens,
        "token_type": np.array(kinds, np.int32),
        "scores": np.array(scores, np.float32),
        **keys,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in metadata.items()}


def gemma() -> dict[str, Value]:
    groups = [
        (["<pad>", "<eos>", "<bos>"], CONTROL),
        (["<unk>"], UNKNOWN),
        (["<start_of_turn>"], CONTROL),
        (["<end_of_turn>"], USER_DEFINED),
        (BYTES, BYTE),
        (["\n", "\n\n", "  ", "   "], USER_DEFINED),
        ([*LETTERS, *WORDS], NORMAL),
    ]
    return sentencepiece(groups, bos_token_id=2, eos_token_id=1, unknown_token_id=3, add_space_prefix=False)


def phi3() -> dict[str, Value]:
    groups = [
        (["<unk>"], UNKNOWN),
        (["<s>"], CONTROL),
        (["</s>"], USER_DEFINED),
        (BYTES, BYTE),
        ([*LETTERS, *WORDS], NORMAL),
        (["<|endoftext|>", "<|assistant|>", "<|user|>", "<|end|>"], CONTROL),
    ]
    metadata = sentencepiece(groups, bos_token_id=1, eos_token_id=2, unknown_token_id=0)
    return {"general.architecture": "phi3", **metadata}


def pieces(metadata: dict[str, Value], text: str) -> list[str]:
    tokens = metadata["tokenizer.ggml.tokens"]
    assert isinstance(tokens, list)
    return [tokens[index] for index in built(metadata).encode(text)]


def built(metadata: dict[str, Value]) -> Tokenizer:
    tokenizer = build_tokenizer(metadata)
    assert tokenizer is not None
    return tokenizer


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a bad di", ["<bos>", "a", "▁", "b", "a", "d", "▁di"]),
        ("he\n\n\nhe", ["<bos>", "he", "\n\n", "\n", "he"]),
        ("a    a", ["<bos>", "a", "   ", "▁a"]),
        ("<start_of_turn>he  é<end_of_turn>\n", None),
    ],
)
def test_gemma_keeps_runs_of_spaces_and_lines_and_adds_no_space(text: str, wanted: list[str] | None) -> None:
    turn = ["<bos>", "<start_of_turn>", "he", "  ", "<0xC3>", "<0xA9>", "<end_of_turn>", "\n"]

    assert pieces(gemma(), text) == (wanted or turn)


def test_gemma_ends_its_turn_though_the_file_calls_that_token_user_defined() -> None:
    tokenizer = built(gemma())

    assert tokenizer.end_tokens == {1, 5}
    assert tokenizer.decode(tokenizer.encode("he<end_of_turn>\nhe")) == "he\nhe"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("<|user|>\na bad<|end|>\n", ["<s>", "<|user|>", "▁a", "▁", "b", "a", "d", "<|end|>"]),
        ("<|endoftext|> a", ["<s>", "<|endoftext|>", "▁", "▁a"]),
        ("a</s>  a", ["<s>", "▁a", "</s>", "▁a"]),
    ],
)
def test_phi_3_takes_white_space_after_special_tokens(text: str, wanted: list[str]) -> None:
    assert pieces(phi3(), text) == wanted


def test_phi_3_shows_no_end_token() -> None:
    tokenizer = built(phi3())

    assert tokenizer.decode(tokenizer.encode("a</s>a<|end|>")) == "a a"


def test_phi_4_splits_case_changes_endings_and_digits() -> None:
    words = ["Hello", "World's", "123", "45"]
    letters = sorted({*"".join(words)})
    merges, tokens = [], ["<|endoftext|>", *letters]
    for word in words:
        for end in range(2, len(word) + 1):
            left, right = word[: end - 1], word[end - 1]
            merges += [f"{left} {right}"]
            tokens += [word[:end]]
    metadata: dict[str, Value] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-4o",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": merges,
    }

    assert pieces(metadata, "HelloWorld's12345") == words
