"""Generating with a scripted session: text, reasons, limits, streams."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from intaglio.compiler.continuation import Generation, GenerationOptions
from intaglio.compiler.errors import ContextLengthError, OptionError
from intaglio.compiler.generation import Generator, prompt_tokens, room_for
from intaglio.compiler.sampling import Sampler, SamplingOptions

END = 256
Scripted = Callable[..., Any]


def run(session: Any, tokenizer: Any, prompt: str, **options: Any) -> tuple[list[str], Generation]:
    stream = Generator(session, tokenizer).stream(list(prompt.encode()), GenerationOptions(**options))
    return list(stream), stream.result


def test_text_is_streamed_and_complete(scripted: Scripted, byte_tokenizer: Any) -> None:
    session = scripted([*b"dog", END], prompt=4)
    pieces, result = run(session, byte_tokenizer, "The ")
    assert pieces == ["d", "o", "g"]
    assert str(result) == result.text == "dog"
    assert result.tokens == (*b"dog", END)
    assert result.reason == "end"
    assert result.prompt_tokens == 4
    assert session.calls == [4, 1, 1, 1]  # the prompt at once, and the end token is never fed


def test_characters_are_never_torn(scripted: Scripted, byte_tokenizer: Any) -> None:
    text = "Käse 🧀 日"
    pieces, result = run(scripted([*text.encode(), END], prompt=1), byte_tokenizer, "x")
    assert result.text == "".join(pieces) == text
    assert "🧀" in pieces
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)


def test_a_torn_character_at_the_end_is_marked(scripted: Scripted, byte_tokenizer: Any) -> None:
    _, result = run(scripted([*b"a", *"é".encode()[:1], END], prompt=1), byte_tokenizer, "x")
    assert result.text == "a\N{REPLACEMENT CHARACTER}"


def test_a_stop_string_ends_the_text_and_is_left_out(scripted: Scripted, byte_tokenizer: Any) -> None:
    pieces, result = run(scripted(b"yes\n\nUser: no", prompt=1), byte_tokenizer, "x", stop=("\n\nUser",))
    assert result.text == "".join(pieces) == "yes"
    assert result.reason == "stop"
    assert result.tokens == tuple(b"yes\n\nUser")


def test_a_stop_string_inside_a_character_run_is_kept_whole(scripted: Scripted, byte_tokenizer: Any) -> None:
    _, result = run(scripted("aé€b".encode(), prompt=1), byte_tokenizer, "x", stop=("€",))
    assert (result.text, result.reason) == ("aé", "stop")


def test_what_was_held_back_comes_out_at_the_end(scripted: Scripted, byte_tokenizer: Any) -> None:
    pieces, result = run(scripted([*b"yes\n", END], prompt=1), byte_tokenizer, "x", stop=("\n\n",))
    assert result.text == "".join(pieces) == "yes\n"
    assert result.reason == "end"


def test_the_length_is_kept(scripted: Scripted, byte_tokenizer: Any) -> None:
    _, result = run(scripted(b"abcdef", prompt=1), byte_tokenizer, "x", max_new_tokens=3)
    assert (result.text, result.reason, len(result.tokens)) == ("abc", "length", 3)
    assert result.decode_tokens_per_second is not None


def test_one_token_has_no_decode_speed(scripted: Scripted, byte_tokenizer: Any) -> None:
    _, result = run(scripted(b"a", prompt=1), byte_tokenizer, "x", max_new_tokens=1)
    assert result.decode_tokens_per_second is None


def test_ids_alone_need_no_tokenizer(scripted: Scripted) -> None:
    pieces, result = run(scripted(b"abc", prompt=1), None, "x", max_new_tokens=3)
    assert pieces == []
    assert result.tokens == tuple(b"abc")
    with pytest.raises(OptionError, match="without a tokenizer"):
        run(scripted(b"abc", prompt=1), None, "x", stop=("a",))


def test_the_context_may_be_filled_to_the_last_token(scripted: Scripted, byte_tokenizer: Any) -> None:
    session = scripted(b"abcdefgh", prompt=4, capacity=8)
    _, result = run(session, byte_tokenizer, "four", max_new_tokens=4)
    assert result.text == "abcd"
    with pytest.raises(ContextLengthError, match="context of 8"):
        run(session, byte_tokenizer, "four", max_new_tokens=5)


def test_left_out_the_length_is_what_fits() -> None:
    assert room_for(GenerationOptions(), 60, 64) == 4
    assert room_for(GenerationOptions(), 60, 6400) == 128
    with pytest.raises(ContextLengthError, match="at least 1"):
        room_for(GenerationOptions(), 64, 64)


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "3"])
def test_bad_lengths_are_refused(value: Any) -> None:
    with pytest.raises(OptionError, match="max_new_tokens"):
        GenerationOptions(max_new_tokens=value)


@pytest.mark.parametrize("stop", [("",), (3,)])
def test_bad_stop_strings_are_refused(stop: Any) -> None:
    with pytest.raises(OptionError, match="stop"):
        GenerationOptions(stop=stop)


def test_prompts_of_all_kinds(byte_tokenizer: Any) -> None:
    import numpy as np

    assert prompt_tokens("hi", byte_tokenizer, 257) == list(b"hi")
    assert prompt_tokens([1, 2], None, 257) == [1, 2]
    assert prompt_tokens(np.array([1, 2]), None, 257) == [1, 2]  # type: ignore[arg-type]
    messages = [{"role": "user", "content": "hi"}]
    assert prompt_tokens(messages, byte_tokenizer, 257) == list(b"<user>hi")


@pytest.mark.parametrize("prompt", ["", [], [257], [-1], [True], [1.5], ["a"], [{"role": "user"}, 3]])
def test_bad_prompts_are_refused(prompt: Any, byte_tokenizer: Any) -> None:
    with pytest.raises(OptionError):
        prompt_tokens(prompt, byte_tokenizer, 257)


def test_a_stream_that_lost_its_model_says_so(scripted: Scripted, byte_tokenizer: Any) -> None:
    current = [True]
    generator = Generator(scripted(b"abc", prompt=1), byte_tokenizer, lambda: current[0])
    stream = generator.stream([1], GenerationOptions())
    assert next(stream) == "a"
    with pytest.raises(OptionError, match="not complete"):
        _ = stream.result
    current[0] = False
    with pytest.raises(OptionError, match="another call"):
        next(stream)


def test_a_generation_starts_afresh(scripted: Scripted, byte_tokenizer: Any) -> None:
    session = scripted([*b"ab", END], prompt=1)
    first = run(session, byte_tokenizer, "x")[1]
    assert run(session, byte_tokenizer, "x")[1].tokens == first.tokens


def test_sampled_text_repeats_with_its_seed(scripted: Scripted, byte_tokenizer: Any) -> None:
    sampling = SamplingOptions(temperature=2.0, top_k=50, seed=1)
    texts = [
        run(scripted([], prompt=1), byte_tokenizer, "x", sampling=sampling, max_new_tokens=12)[1].tokens
        for _ in range(2)
    ]
    assert texts[0] == texts[1]
    assert len(set(texts[0])) > 3


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, 1),
        ({"temperature": 1.0, "top_k": 5}, 5),
        ({"temperature": 1.0, "top_k": 5, "top_p": 0.9}, 5),
        ({"temperature": 1.0, "top_k": 1000}, 257),
        ({"temperature": 1.0, "top_p": 0.9}, None),
        ({"repetition_penalty": 1.5}, None),
    ],
)
def test_no_more_logits_are_fetched_than_decide(
    options: dict[str, Any], wanted: int | None, scripted: Scripted, byte_tokenizer: Any
) -> None:
    """And what is chosen is what all logits would have led to."""
    sampling = SamplingOptions(**options, seed=3 if "temperature" in options else None)
    session, whole = scripted([], prompt=1), scripted([], prompt=1)
    _, result = run(session, byte_tokenizer, "x", sampling=sampling, max_new_tokens=6)
    assert set(session.wanted) == ({wanted} if wanted else set())
    sampler, tokens = Sampler(sampling), list(b"x")
    for _ in result.tokens:
        tokens.append(sampler.choose(whole.extend(tokens[-1:]), tokens))
    assert tuple(tokens[1:]) == result.tokens
