"""Computing in float32 what is stored in 16 bits, where there are no kernels for the narrow type."""

from intaglio.passes.widen.bfloat16 import WidenBfloat16
from intaglio.passes.widen.linears import WidenLinears

__all__ = ["WidenBfloat16", "WidenLinears"]
