"""How byte-level vocabularies cut text before merging, by the name a file gives in `tokenizer.ggml.pre`.

The expressions are those that the models' own tokenizers were trained with; the names, and what they
switch on beside, are llama.cpp's (`llama_vocab::impl::load` in llama-vocab.cpp).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CASELESS_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
LETTERS, SIGNS = r"[^\r\n\p{L}\p{N}]?\p{L}+", r" ?[^\s\p{L}\p{N}]+[\r\n]*"
LLAMA_3 = rf"{CASELESS_ENDINGS}|{LETTERS}|\p{{N}}{{1,3}}|{SIGNS}|{SPACES}"
QWEN_2 = rf"{CASELESS_ENDINGS}|{LETTERS}|\p{{N}}|{SIGNS}|{SPACES}"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*|\p{{N}}"
    rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{SPACES}"
)
ENDED = rf"{CASELESS_ENDINGS}?"
O200K = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{ENDED}|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{ENDED}"
    rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{SPACES}"
)


@dataclass(frozen=True)
class Split:
    """How one family cuts text."""

    expressions: tuple[str, ...]  # applied one after another to the pieces of the one before
    whole_words: bool = False  # a piece that is in the vocabulary is taken without merging
    begins: bool = False  # texts start with the begin token unless the file says otherwise
    composed: bool = False  # text is brought to Unicode's NFC first


SPLITS: Mapping[str, Split] = {
    "default": Split((r"[\p{P}\$\+<=>\^~\|]+", WORDS, r"\p{N}+", r"[0-9][0-9][0-9]")),
    "gpt-2": Split((WORDS,)),
    "smollm": Split((r"\p{N}", WORDS)),
    "starcoder": Split((r"\p{N}", WORDS)),
    "refact": Split((r"\p{N}", WORDS)),
    "command-r": Split((r"\p{N}", WORDS)),
    "llama-bpe": Split((LLAMA_3,), whole_words=True, begins=True),
    "llama3": Split((LLAMA_3,), whole_words=True, begins=True),
    "llama-v3": Split((LLAMA_3,), whole_words=True, begins=True),
    "falcon3": Split((LLAMA_3,), whole_words=True, begins=True),
    "dbrx": Split((LLAMA_3,)),
    "smaug-bpe": Split((LLAMA_3,)),
    "tekken": Split((TEKKEN,), whole_words=True, begins=True),
    "gpt-4o": Split((O200K,)),
    "qwen2": Split((QWEN_2,), composed=True),
    "deepseek-r1-qwen": Split((QWEN_2,), composed=True),
}
