"""Sums, means, products and extremes over any axes of a tensor."""
