"""The likeliest tokens of a row of logits."""
