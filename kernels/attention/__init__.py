"""Grouped-query attention over a static KV cache: decoding and prefill."""
