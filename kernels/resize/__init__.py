"""Resizing channels-last images: nearest pixels, and linear interpolation."""
