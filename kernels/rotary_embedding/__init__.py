"""Rotary position embedding, and the static KV cache that rotated keys go into."""
