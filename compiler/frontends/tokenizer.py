"""Tokenizers as the rest of the house uses them: around the `tokenizers` library, savable, and with chat."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

import tokenizers

from intaglio.compiler.errors import ModelFileError, OptionError, UnsupportedModelError
from intaglio.compiler.frontends.chat import render_chat
from intaglio.compiler.frontends.traced import Tokenizer

FORMAT = 1
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
LONGEST_CHARACTER = 4  # bytes of UTF-8


@dataclass(frozen=True)
class TextTokenizer:
    """A tokenizer of the `tokenizers` library with what a model adds to it."""

    library: tokenizers.Tokenizer
    end_tokens: frozenset[int]
    begin_token: int | None = None  # put before every text
    chat_template: str | None = None
    special_tokens: Mapping[str, str] = field(default_factory=dict)  # names that the chat template may use
    framed: bool = False  # the library puts special tokens around every text, such as [CLS] … [SEP]

    def encode(self, text: str) -> list[int]:
        """Ids of `text`; special tokens written out in it are recognised.

        The begin token comes first if the model wants one; a text that already starts with it gets no second.
        """
        tokens: list[int] = self.library.encode(text, add_special_tokens=self.framed).ids
        if self.begin_token is None or tokens[:1] == [self.begin_token]:
            return tokens
        return [self.begin_token, *tokens]

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of `tokens`, special tokens left out; broken UTF-8 becomes U+FFFD."""
        text: str = self.library.decode(list(tokens), skip_special_tokens=True)
        return text

    def chat(self, messages: Sequence[dict[str, str]]) -> str:
        """The prompt for `messages` by the model's chat template; raises `OptionError` without one."""
        if self.chat_template is None:
            raise OptionError("chat: the model has no chat template: give the prompt as text.")
        return render_chat(self.chat_template, messages, self.special_tokens)

    def to_json(self) -> str:
        """Everything needed to build this tokenizer again with `tokenizer_from_json`."""
        content = {
            "format": FORMAT,
            "library": json.loads(self.library.to_str()),
            "end_tokens": sorted(self.end_tokens),
            "begin_token": self.begin_token,
            "chat_template": self.chat_template,
            "special_tokens": dict(self.special_tokens),
            "framed": self.framed,
        }
        return json.dumps(content, ensure_ascii=False)


@dataclass(frozen=True)
class RefusedTokenizer:
    """Stands in where a tokenizer cannot be built: the model runs on ids, text is refused with the reason."""

    reason: str
    end_tokens: frozenset[int]

    def encode(self, text: str) -> list[int]:
        """Raises `UnsupportedModelError`."""
        self._refuse(f"encode {text[:20]!r}")

    def decode(self, tokens: Sequence[int]) -> str:
        """Raises `UnsupportedModelError`."""
        self._refuse(f"decode {len(tokens)} tokens")

    def chat(self, messages: Sequence[dict[str, str]]) -> str:
        """Raises `UnsupportedModelError`."""
        self._refuse(f"lay out {len(messages)} messages")

    def to_json(self) -> str:
        """The reason, for `tokenizer_from_json`."""
        content = {"format": FORMAT, "refused": self.reason, "end_tokens": sorted(self.end_tokens)}
        return json.dumps(content)

    def _refuse(self, action: str) -> NoReturn:
        raise UnsupportedModelError(f"tokenizer: cannot {action}: {self.reason}; pass token ids, not text.")


def tokenizer_from_json(text: str) -> Tokenizer:
    """The tokenizer whose `to_json` gave `text`; raises `ModelFileError` for anything else."""
    try:
        content = json.loads(text)
        if content["format"] != FORMAT:
            raise ModelFileError(f"tokenizer: format {content['format']} is not {FORMAT}: compile again.")
        end_tokens = frozenset(content["end_tokens"])
        if "refused" in content:
            return RefusedTokenizer(content["refused"], end_tokens)
        library = tokenizers.Tokenizer.from_str(json.dumps(content["library"]))
        names = ("begin_token", "chat_template", "special_tokens")
        framed = content.get("framed", False)  # tokenizers saved before there were encoders have none
        return TextTokenizer(library, end_tokens, **{name: content[name] for name in names}, framed=framed)
    except ModelFileError:
        raise
    except Exception as error:  # the library raises plain exceptions
        raise ModelFileError(f"tokenizer: not what a tokenizer's to_json gives: {error}.") from error


class TextStream:
    """Turns tokens into text as they come, never showing a character before all its bytes are there.

    The pieces together are `decode` of all tokens, whatever the tokenizer does at the start of a text.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._context: list[int] = []  # tokens already shown, kept because the next piece may depend on them
        self._pending: list[int] = []
        self._shown = 0  # characters of the pending tokens' text already shown

    def push(self, token: int) -> str:
        """The text that `token` completes; empty while a character is incomplete."""
        self._pending.append(token)
        text = self._text()
        stable = self._stable(text)
        piece = self._show(stable)
        if stable == text:
            # Tokens without text cannot stand for what came before: decoders treat the start of a text apart.
            self._context = self._pending if text else self._context + self._pending
            self._pending, self._shown = [], 0
        return piece

    def finish(self) -> str:
        """What is left: an incomplete character, shown as U+FFFD."""
        return self._show(self._text())

    def _text(self) -> str:
        before = self._tokenizer.decode(self._context)
        return self._tokenizer.decode([*self._context, *self._pending])[len(before) :]

    def _stable(self, text: str) -> str:
        """`text` without replacement characters at its end: more bytes may make a character of them.

        Some decoders put one for each byte, even for those of finished characters in the same run of bytes.
        """
        whole = text.rstrip(REPLACEMENT)
        if len(self._pending) < LONGEST_CHARACTER:
            return whole
        return text[: max(len(whole), len(text) - LONGEST_CHARACTER + 1)]

    def _show(self, text: str) -> str:
        piece, self._shown = text[self._shown :], max(self._shown, len(text))
        return piece
