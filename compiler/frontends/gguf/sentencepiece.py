"""SentencePiece vocabularies (`llama` in a GGUF file), which carry scores instead of merges."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, normalizers

from intaglio.compiler.frontends.gguf.vocabulary import UNKNOWN, Vocabulary, broken, numbers

SPACE = "▁"  # how SentencePiece spells a space


def sentencepiece(vocabulary: Vocabulary) -> Tokenizer:
    """A tokenizer that merges the pair of the best score first, and spells what it does not know in bytes."""
    ids = {token: index for index, token in enumerate(vocabulary.tokens)}
    kinds = zip(vocabulary.tokens, vocabulary.kinds, strict=True)
    unknown = next((token for token, kind in kinds if kind == UNKNOWN), None)
    merges = merges_by_score(vocabulary, ids)
    tokenizer = Tokenizer(
        models.BPE(vocab=ids, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    )
    replaced, restored = normalizers.Replace(" ", SPACE), decoders.Replace(SPACE, " ")
    tokenizer.normalizer = replaced
    tokenizer.decoder = decoders.Sequence([restored, decoders.ByteFallback(), decoders.Fuse()])
    if vocabulary.flag("add_space_prefix", True):
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), replaced])
        tokenizer.decoder = decoders.Sequence(
            [restored, decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
    return tokenizer


def merges_by_score(vocabulary: Vocabulary, ids: dict[str, int]) -> list[tuple[str, str]]:
    """Every way to make a token of two others, best score first."""
    scores = numbers(vocabulary.metadata, "scores", len(vocabulary.tokens))
    if scores is None:
        raise broken("scores", "a SentencePiece vocabulary needs them")
    merges: list[tuple[str, str]] = []
    for index in (-scores.astype("float64")).argsort(kind="stable"):
        token = vocabulary.tokens[index]
        merges += [
            (left, right)
            for cut in range(1, len(token))
            if (left := token[:cut]) in ids and (right := token[cut:]) in ids
        ]
    return merges
