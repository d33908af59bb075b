"""Convolutions over channels-last tensors: dense, grouped, depthwise, transposed."""
