"""Products of a few rows → stages: batches, drafts, and short prompts."""

from __future__ import annotations

from dataclasses import dataclass

from intaglio.backends.tvm.tables import FEW_ROWS, Place, TableBuilder
from intaglio.kernels.linear.few_dequantized import DequantizedFewVectors
from intaglio.kernels.linear.few_floating import FloatFewVectors
from intaglio.kernels.linear.few_vectors import QuantizedFewVectors
from intaglio.kernels.linear.layout import FloatWeight, QuantizedWeight


@dataclass(frozen=True)
class FewEmitter:
    """Appends the product of a linear layer and a few rows to a table; `weight` are buffers."""

    table: TableBuilder
    site: str
    epilogue: str
    target: Place

    def floating(self, layout: FloatWeight, weight: list[int], source: Place) -> None:
        """Floating-point weights."""
        kernel = FloatFewVectors(layout, self.epilogue, source.stride, self.target.stride, self.target.offset)
        self._add(kernel, [*weight, source.buffer])

    def dequantized(self, layout: QuantizedWeight, weight: list[int], source: Place) -> None:
        """Quantised weights and float32 rows."""
        kernel = DequantizedFewVectors(
            layout, self.epilogue, source.stride, self.target.stride, FEW_ROWS, self.target.offset
        )
        self._add(kernel, [*weight, source.buffer, *self._scratch(kernel)])

    def quantized(
        self, layout: QuantizedWeight, weight: list[int], activation: list[int], group: int
    ) -> None:
        """Quantised weights and quantised rows: their codes, scales and sums."""
        kernel = QuantizedFewVectors(
            layout, group, self.epilogue, self.target.stride, FEW_ROWS, self.target.offset
        )
        self._add(kernel, [*weight, *activation, *self._scratch(kernel)])

    def _scratch(self, kernel: QuantizedFewVectors | DequantizedFewVectors) -> list[int]:
        sizes = kernel.scratch_bytes
        return [self.table.private(f"few.{name}", sizes[name]) for name in kernel.pointers if name in sizes]

    def _add(self, kernel: object, buffers: list[int]) -> None:
        self.table.add(kernel, [*buffers, self.target.buffer], self.site, barrier=True)
