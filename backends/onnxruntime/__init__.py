"""The onnxruntime backend: what nobody else runs faster, and the judge of exports."""

from intaglio.backends.onnxruntime.binding import BoundRegion, bind_region
from intaglio.backends.onnxruntime.products import product_forms
from intaglio.backends.onnxruntime.raising import raise_region
from intaglio.backends.onnxruntime.regions import Port, RegionSession, write_plain, write_region
from intaglio.backends.onnxruntime.session import OnnxRuntimeSession

__all__ = [
    "BoundRegion",
    "OnnxRuntimeSession",
    "Port",
    "RegionSession",
    "bind_region",
    "product_forms",
    "raise_region",
    "write_plain",
    "write_region",
]
