"""Tokenizers rebuilt from GGUF metadata: equal to transformers' and llama.cpp's, savable, safe to stream."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from intaglio.compiler.errors import ModelFileError, OptionError, UnsupportedModelError
from intaglio.compiler.frontends.gguf.metadata import Value
from intaglio.compiler.frontends.gguf.tokenizer import build_tokenizer
from intaglio.compiler.frontends.tokenizer import TextStream, TextTokenizer, tokenizer_from_json
from intaglio.compiler.frontends.traced import Tokenizer
from intaglio.compiler.frontends.tracing import trace

TinyGguf = Callable[..., Path]
TEXTS = [
    "",
    " ",
    "Hello world",
    "  two  spaces\n\n\tand tabs \r\n",
    "naïve café — “quotes” 🤖👩‍👩‍👧 日本語 العربية עִבְרִית",
    "don't DON'T we'll I'VE",
    "price 12345.67, 3x, x²½ and ٣",
    "<|im_start|>user\nhi<|im_end|>\n<|endoftext|><|im_start",
    "def f(x):\n    return {'a': x**2}  # ok\n",
    "e\u0301 \u00e9 \u200b \ufffd \x00 \x7f",
    "   7 \n 5   \n\n  12",
    "a" * 300,
]
LLAMA_CPP = {  # llama-cpp-python 0.3 on SmolLM2's file, special=True
    "   7 ": [333, 39, 216],
    " \n 5": [3717, 216, 37],
    "price 12345.67 and 3x": [17517, 216, 33, 34, 35, 36, 37, 30, 38, 39, 284, 216, 35, 104],
    "²³½ a1b2": [19133, 39050, 16738, 253, 33, 82, 34],
    "  two  spaces\n\n\tand tabs ": [216, 827, 216, 5600, 1116, 197, 397, 29416, 216],
    "<|im_start|>user\nhi<|im_end|>\n": [1, 4093, 198, 6004, 2, 198],
    "don't DON'T we'll\r\n x": [12420, 982, 422, 2154, 23, 68, 392, 3060, 2738, 1792],
}
MESSAGES = [
    {"role": "user", "content": "What is <b>1 & 2</b>?"},
    {"role": "assistant", "content": "Three.\n"},
    {"role": "user", "content": "“Sure”? 🤖"},
]


@pytest.fixture(scope="module")
def smollm2_tokenizer(smollm2: Path) -> TextTokenizer:
    tokenizer = trace(smollm2).tokenizer
    assert isinstance(tokenizer, TextTokenizer)
    return tokenizer


@pytest.fixture(scope="module")
def oracle(smollm2: Path) -> Any:
    """transformers' tokenizer of the same file, told to split digits as `tokenizer.ggml.pre` = smollm means.

    transformers 5 itself ignores that value, and so merges the spaces before a digit differently.
    """
    transformers = pytest.importorskip("transformers")
    from tokenizers import pre_tokenizers

    loaded = transformers.AutoTokenizer.from_pretrained(smollm2.parent, gguf_file=smollm2.name)
    loaded.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return loaded


@pytest.fixture
def tiny(tiny_gguf: TinyGguf) -> TextTokenizer:
    tokenizer = trace(tiny_gguf()).tokenizer
    assert isinstance(tokenizer, TextTokenizer)
    return tokenizer


@pytest.mark.parametrize("text", TEXTS)
def test_smollm2_equals_transformers(smollm2_tokenizer: Tokenizer, oracle: Any, text: str) -> None:
    ids = smollm2_tokenizer.encode(text)

    assert ids == oracle.encode(text)
    assert smollm2_tokenizer.decode(ids) == oracle.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("text", LLAMA_CPP)
def test_smollm2_equals_llama_cpp(smollm2_tokenizer: Tokenizer, text: str) -> None:
    assert smollm2_tokenizer.encode(text) == LLAMA_CPP[text]


@pytest.mark.parametrize("count", [1, 3])
def test_smollm2_chat_equals_transformers(smollm2_tokenizer: Tokenizer, oracle: Any, count: int) -> None:
    messages = MESSAGES[:count]
    wanted = oracle.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    assert smollm2_tokenizer.chat(messages) == wanted


def test_smollm2_ends_at_its_end_tokens(smollm2_tokenizer: Tokenizer) -> None:
    assert smollm2_tokenizer.end_tokens == {0, 2}  # <|endoftext|>, <|im_end|>


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_survives_encoding(tiny: Tokenizer, text: str) -> None:
    shown = text.replace("<|im_start|>", "").replace("<|im_end|>", "").replace("<|endoftext|>", "")

    assert tiny.decode(tiny.encode(text)) == shown


@pytest.mark.parametrize("text", TEXTS)
def test_streaming_gives_the_same_text_and_no_half_characters(tiny: Tokenizer, text: str) -> None:
    ids = tiny.encode(text)
    stream = TextStream(tiny)

    pieces = [stream.push(token) for token in ids]

    assert "".join(pieces) + stream.finish() == tiny.decode(ids)
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


def test_streaming_broken_bytes_ends_with_a_replacement_character(tiny: Tokenizer) -> None:
    robot = tiny.encode("🤖")
    stream = TextStream(tiny)

    assert len(robot) == 4
    assert [stream.push(token) for token in robot[:3]] == ["", "", ""]
    assert stream.finish() == "\ufffd"


def test_streaming_shows_broken_bytes_as_soon_as_they_are_certain(tiny: Tokenizer) -> None:
    continuation = tiny.encode("🤖")[1]
    ids = [continuation] * 40 + tiny.encode("ok")
    stream = TextStream(tiny)

    pieces = [stream.push(token) for token in ids]

    assert "".join(pieces) == tiny.decode(ids)
    assert pieces[20] == "\ufffd"


def test_json_round_trip(tiny: Tokenizer) -> None:
    again = tokenizer_from_json(tiny.to_json())

    assert [again.encode(text) for text in TEXTS] == [tiny.encode(text) for text in TEXTS]
    assert again.chat(MESSAGES) == tiny.chat(MESSAGES)
    assert again.end_tokens == tiny.end_tokens
    assert again.to_json() == tiny.to_json()


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", '{"format": 1}', '{"format": 1, "end_tokens": [], "library": {}}']
)
def test_other_json_is_refused(text: str) -> None:
    with pytest.raises(ModelFileError, match="not what a tokenizer's to_json gives"):
        tokenizer_from_json(text)


def test_json_of_another_version_is_refused(tiny: Tokenizer) -> None:
    content = json.loads(tiny.to_json()) | {"format": 99}

    with pytest.raises(ModelFileError, match="format 99 is not 1"):
        tokenizer_from_json(json.dumps(content))


def test_begin_token_comes_first_and_only_once(tiny_gguf: TinyGguf) -> None:
    tokenizer = trace(tiny_gguf(metadata={"tokenizer.ggml.add_bos_token": True})).tokenizer
    assert tokenizer is not None

    assert tokenizer.encode("hi")[0] == 1
    assert tokenizer.encode("<|im_start|>hi") == tokenizer.encode("hi")
    assert tokenizer.encode("") == [1]


def test_files_without_vocabulary_have_no_tokenizer(tiny_gguf: TinyGguf) -> None:
    assert trace(tiny_gguf(tokenizer=False)).tokenizer is None


@pytest.mark.parametrize(
    ("key", "value"), [("tokenizer.ggml.pre", "from-mars"), ("tokenizer.ggml.model", "rwkv")]
)
def test_unknown_kinds_compile_but_refuse_text_by_name(tiny_gguf: TinyGguf, key: str, value: str) -> None:
    tokenizer = trace(tiny_gguf(metadata={key: value})).tokenizer
    assert tokenizer is not None

    for one in (tokenizer, tokenizer_from_json(tokenizer.to_json())):
        assert one.end_tokens == {0, 2}
        with pytest.raises(UnsupportedModelError, match=f"cannot encode 'hi': .*'{value}'"):
            one.encode("hi")
        with pytest.raises(UnsupportedModelError, match=f"cannot decode 1 tokens: .*'{value}'"):
            one.decode([5])
        with pytest.raises(UnsupportedModelError, match=f"cannot lay out 3 messages: .*'{value}'"):
            one.chat(MESSAGES)


def byte_level(**changes: Value | None) -> dict[str, Value]:
    """Metadata of a vocabulary that can spell the few texts below; None removes a key."""
    tokens = ["<s>", "a", "b", "c", "ab", "abc", "1", "2", "3", "4", "12", "123", "1234", "Ġ", "Ġ1"]
    metadata: dict[str, Value | None] = {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": tokens,
        "token_type": np.array([3] + [1] * 14, np.int32),
        "merges": ["a b", "ab c", "1 2", "12 3", "123 4", "Ġ 1"],
        "bos_token_id": 0,
        "eos_token_id": 0,
        **changes,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in metadata.items() if value is not None}


@pytest.mark.parametrize(
    ("pre", "text", "pieces"),
    [
        ("gpt-2", "1234", ["1234"]),
        ("default", "1234", ["123", "4"]),
        ("smollm", "1234", ["1", "2", "3", "4"]),
        ("qwen2", "1234", ["1", "2", "3", "4"]),
        ("tekken", "1234", ["1", "2", "3", "4"]),
        ("llama-bpe", "1234", ["123", "4"]),
        ("gpt-2", "a 1", ["a", "Ġ1"]),
        ("smollm", "a 1", ["a", "Ġ", "1"]),
        ("llama-bpe", "a 1", ["a", "Ġ", "1"]),
    ],
)
def test_each_family_splits_in_its_own_way(pre: str, text: str, pieces: list[str]) -> None:
    metadata = byte_level(pre=pre, add_bos_token=False)
    tokens = metadata["tokenizer.ggml.tokens"]
    tokenizer = build_tokenizer(metadata)
    assert tokenizer is not None
    assert isinstance(tokens, list)

    assert [tokens[index] for index in tokenizer.encode(text)] == pieces


def test_llama_3_begins_texts_and_takes_whole_words() -> None:
    tokenizer = build_tokenizer(byte_level(pre="llama-bpe", merges=["a b"]))
    assert tokenizer is not None

    assert tokenizer.encode("abc") == [0, 5]  # "abc" is in the vocabulary, though no merge makes it


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"merges": ["a x"]}, "'a x' names tokens that are not in the vocabulary"),
        ({"merges": ["ab"]}, "'ab' names tokens"),
        ({"merges": None}, "needs a list of them"),
        ({"token_type": np.array([1, 2], np.int32)}, "one number for each of 15 tokens"),
        ({"tokens": "abc"}, "it is no list of texts"),
        ({"eos_token_id": 99}, "eos_token_id: 99 is no token of 15"),
        ({"add_bos_token": 1}, "add_bos_token: 1 is no truth value"),
        ({"model": 5}, "model: int instead of text"),
        ({"model": "llama"}, "scores: a SentencePiece vocabulary needs them"),
    ],
)
def test_vocabularies_that_contradict_themselves_are_refused(changes: dict[str, Value], words: str) -> None:
    with pytest.raises(ModelFileError) as caught:
        build_tokenizer(byte_level(**changes))

    assert words in str(caught.value)


def sentencepiece_metadata() -> dict[str, Value]:
    pieces = ["▁", "h", "e", "l", "o", "he", "ll", "llo", "hello", "▁hello", "lo", "▁he"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    kinds = [2, 3, 3] + [6] * 256 + [1] * len(pieces)
    scores = [0.0] * 259 + [-9.0] * 5 + [-1.0, -2.0, -3.0, -4.0, -5.0, -6.0, -0.5]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": np.array(kinds, np.int32),
        "tokenizer.ggml.scores": np.array(scores, np.float32),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }


def test_sentencepiece_merges_by_score_and_falls_back_to_bytes() -> None:
    metadata = sentencepiece_metadata()
    tokens = metadata["tokenizer.ggml.tokens"]
    tokenizer = build_tokenizer(metadata)
    assert tokenizer is not None
    assert isinstance(tokens, list)

    def pieces(text: str) -> list[str]:
        return [tokens[index] for index in tokenizer.encode(text)]

    assert pieces("hello") == ["<s>", "▁hello"]
    assert pieces("lllo") == ["<s>", "▁", "ll", "lo"]  # ll scores better than lo, so llo is never reached
    assert pieces("  ho</s>é") == ["<s>", "▁", "▁", "▁", "h", "o", "</s>", "▁", "<0xC3>", "<0xA9>"]
    for text in ("hello", "  ho é🤖🤖é hello", " "):
        assert tokenizer.decode(tokenizer.encode(text)) == text
        stream = TextStream(tokenizer)
        ids = tokenizer.encode(text)
        shown = [stream.push(token) for token in ids]
        assert "".join(shown) + stream.finish() == text
        assert not any("\ufffd" in piece for piece in shown)


def test_streaming_keeps_the_space_after_a_special_token() -> None:
    tokenizer = build_tokenizer(sentencepiece_metadata())
    assert tokenizer is not None
    ids = [*tokenizer.encode("hello"), 2, 1, *tokenizer.encode("hello")[1:]]
    stream = TextStream(tokenizer)

    assert "".join([stream.push(token) for token in ids]) == tokenizer.decode(ids) == "hello hello"


def test_sentencepiece_equals_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    metadata = sentencepiece_metadata()
    tokens, scores = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.scores"]
    assert isinstance(tokens, list)
    assert isinstance(scores, np.ndarray)
    from transformers.integrations.gguf.gguf_tokenizer_mapping import convert_gguf_tokenizer

    content = {"tokenizer_type": "llama", "tokens": tokens, "scores": scores.tolist()}
    theirs, _ = convert_gguf_tokenizer("llama", content)
    ours = build_tokenizer(metadata)
    assert transformers is not None
    assert ours is not None

    for text in ("hello", "hello hello", "lohe  lo lllo", "é🤖"):
        assert ours.encode(text)[1:] == theirs.encode(text, add_special_tokens=False).ids


def test_chat_without_a_template_is_refused() -> None:
    tokenizer = build_tokenizer(byte_level())
    assert tokenizer is not None

    with pytest.raises(OptionError, match="no chat template"):
        tokenizer.chat(MESSAGES)
