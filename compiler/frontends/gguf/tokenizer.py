"""The tokenizer of a GGUF file, rebuilt on the `tokenizers` library."""

from __future__ import annotations

from collections.abc import Mapping

from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Library

from intaglio.compiler.frontends.gguf.metadata import Value
from intaglio.compiler.frontends.gguf.sentencepiece import sentencepiece
from intaglio.compiler.frontends.gguf.splits import SPLITS, Split
from intaglio.compiler.frontends.gguf.vocabulary import PREFIX, Vocabulary, broken, read_vocabulary
from intaglio.compiler.frontends.tokenizer import RefusedTokenizer, TextTokenizer
from intaglio.compiler.frontends.traced import Tokenizer


def build_tokenizer(metadata: Mapping[str, Value]) -> Tokenizer | None:
    """The file's tokenizer; None without a vocabulary.

    A kind that is not known gives a tokenizer that refuses text by name, since the model still runs on ids.
    Raises `ModelFileError` where the vocabulary contradicts itself.
    """
    vocabulary = read_vocabulary(metadata)
    if vocabulary is None:
        return None
    kind, pre = vocabulary.text("model"), vocabulary.text("pre") or "default"
    if kind == "gpt2" and pre in SPLITS:
        split = SPLITS[pre]
        return _finished(vocabulary, byte_level(vocabulary, split), split.begins)
    if kind == "llama":
        return _finished(vocabulary, sentencepiece(vocabulary), True)
    what = f"pre-tokenizer {pre!r}" if kind == "gpt2" else f"vocabulary kind {kind!r}"
    return RefusedTokenizer(f"the file's {what} is not supported", vocabulary.end_tokens)


def byte_level(vocabulary: Vocabulary, split: Split) -> Library:
    """A tokenizer that merges bytes, in the order the file lists its merges."""
    ids = {token: index for index, token in enumerate(vocabulary.tokens)}
    model = models.BPE(vocab=ids, merges=_merges(vocabulary, ids), ignore_merges=split.whole_words)
    library = Library(model)
    if split.composed:
        library.normalizer = normalizers.NFC()
    cuts = [pre_tokenizers.Split(Regex(one), "isolated") for one in split.expressions]
    spelling = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    library.pre_tokenizer = pre_tokenizers.Sequence([*cuts, spelling])
    library.decoder = decoders.ByteLevel()
    return library


def _merges(vocabulary: Vocabulary, ids: Mapping[str, int]) -> list[tuple[str, str]]:
    merges = vocabulary.metadata.get(f"{PREFIX}.merges")
    if not isinstance(merges, list):
        raise broken("merges", "a byte-level vocabulary needs a list of them")
    pairs: list[tuple[str, str]] = []
    for merge in merges:
        left, space, right = merge.partition(" ")
        # The library panics on merges it cannot make.
        if not space or any(part not in ids for part in (left, right, left + right)):
            raise broken("merges", f"{merge!r} names tokens that are not in the vocabulary")
        pairs.append((left, right))
    return pairs


def _takes_spaces(vocabulary: Vocabulary) -> bool:
    """No key says it; llama.cpp goes by the model's name."""
    is_phi = vocabulary.metadata.get("general.architecture") == "phi3"
    return is_phi and vocabulary.text("model") == "llama"


def _finished(vocabulary: Vocabulary, library: Library, begins: bool) -> TextTokenizer:
    library.add_tokens(vocabulary.added(take_spaces=_takes_spaces(vocabulary)))
    template = vocabulary.metadata.get("tokenizer.chat_template")
    return TextTokenizer(
        library,
        end_tokens=vocabulary.end_tokens,
        begin_token=vocabulary.begin_token(begins),
        chat_template=template if isinstance(template, str) else None,
        special_tokens=vocabulary.special_tokens,
    )
