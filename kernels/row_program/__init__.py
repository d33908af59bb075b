"""Straight-line programs over rows: per-token arithmetic and whole-row norms, one kernel each."""
