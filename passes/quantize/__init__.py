"""Treatments of linear layers: rounded or floating-point weights, rounded activations."""

from intaglio.passes.quantize.apply_plan import apply_treatments
from intaglio.passes.quantize.formats import ActivationFormat, Treatment, WeightFormat

__all__ = ["ActivationFormat", "Treatment", "WeightFormat", "apply_treatments"]
