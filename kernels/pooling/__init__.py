"""Pooling over channels-last images: maximum, average, and both over whole images."""
