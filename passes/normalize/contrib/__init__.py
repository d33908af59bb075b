"""Operators of onnxruntime's own domain, `com.microsoft`, in standard ones."""

from intaglio.passes.normalize.contrib.lower_contrib import LowerContrib

__all__ = ["LowerContrib"]
