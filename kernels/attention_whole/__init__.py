"""Attention over whole sequences without a cache, as encoders have it."""
