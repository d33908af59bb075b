"""Rows of an embedding table."""
