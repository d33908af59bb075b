"""Rows of a table, chosen by computed indices."""
