"""Softmax and its logarithm over one axis of a tensor."""
