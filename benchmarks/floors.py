"""What a decoder could do at best, from the bytes and operations of the very artefact.

    decode     (packed weights that a step reads + keys and values of the tokens before it) / read bandwidth
    batch      the same with the keys and values of all sequences, or the products of all over the peak of
               8-bit products, whichever is larger
    prefill    products of the linear layers / peak of 8-bit products
               + scores and mixing of attention / peak of bfloat16 products

`facts` and `ceilings` are what a contestant of ours answers; see `ours.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Figure:
    """Something to measure, in tokens per second."""

    kind: str  # "prefill", "decode" or "batch"
    tokens: int  # of the prompt: all computed in prefill, before the first step elsewhere
    batch: int = 1  # sequences that step together

    @property
    def name(self) -> str:
        """For tables."""
        if self.kind == "prefill":
            return f"prefill {self.tokens}"
        after = f"decode after {self.tokens}"
        return after if self.kind == "decode" else f"{after}, batch {self.batch}"


def least_seconds(
    figure: Figure, count: int, facts: Mapping[str, Any], ceilings: Mapping[str, float]
) -> float:
    """Of the prompt, or on average of one of `count` steps."""
    if figure.kind == "prefill":
        return prefill_seconds(figure.tokens, facts, ceilings)
    position = figure.tokens + (count + 1) / 2
    cache = figure.batch * position * facts["cache_bytes_per_position"]
    reading = (facts["bytes_per_token"] + cache) / ceilings["read_bytes_per_second"]
    products = figure.batch * facts["operations_per_token"] / ceilings["int8_operations_per_second"]
    # One sequence's products hide behind its reads on any machine that is worth the while.
    return max(reading, products) if figure.kind == "batch" else reading


def prefill_seconds(tokens: int, facts: Mapping[str, Any], ceilings: Mapping[str, float]) -> float:
    """Of a prompt; the head is computed for its last token."""
    pairs = tokens * (tokens + 1) / 2
    attention = facts["attention_operations_per_pair"] * pairs
    products = matrix_operations(tokens, facts) + facts["head_operations"]
    matrices = products / ceilings["int8_operations_per_second"]
    return matrices + attention / ceilings["bf16_operations_per_second"]


def matrix_operations(tokens: int, facts: Mapping[str, Any]) -> float:
    """Of the linear layers but the head, over a prompt."""
    return float(tokens * (facts["operations_per_token"] - facts["head_operations"]))


def limit(figure: Figure, count: int, facts: Mapping[str, Any], ceilings: Mapping[str, float]) -> float:
    """Tokens per second at best."""
    tokens = figure.tokens if figure.kind == "prefill" else figure.batch
    return tokens / least_seconds(figure, count, facts, ceilings)
