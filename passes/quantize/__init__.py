"""Treatments of linear layers (rounded or floating-point weights, rounded activations) and of caches."""

from intaglio.passes.quantize.apply_plan import apply_treatments
from intaglio.passes.quantize.formats import ActivationFormat, CacheFormat, Treatment, WeightFormat
from intaglio.passes.quantize.store_cache import StoreCache

__all__ = ["ActivationFormat", "CacheFormat", "StoreCache", "Treatment", "WeightFormat", "apply_treatments"]
