"""Linear layers → stages: norm, quantisation of activations, product, epilogue."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from intaglio.backends.tvm.emit_few import FewEmitter
from intaglio.backends.tvm.emit_rows import RowEmitter, stride_of
from intaglio.backends.tvm.joints import Joint
from intaglio.backends.tvm.packing import Layout, layout_of
from intaglio.backends.tvm.regions import GatedRegion, LinearRegion, Norm, RowOperand, RowRegion
from intaglio.backends.tvm.stored import StoredBuffers
from intaglio.backends.tvm.tables import FLOAT, Place, TableBuilder
from intaglio.kernels.linear.dequantized_matrix import DequantizedMatrixMatrix
from intaglio.kernels.linear.dequantized_vector import DequantizedMatrixVector
from intaglio.kernels.linear.floating import FloatLinear
from intaglio.kernels.linear.layout import ROWS, FloatWeight, QuantizedWeight
from intaglio.kernels.linear.matrix_matrix import QuantizedMatrixMatrix
from intaglio.kernels.linear.matrix_vector import QuantizedMatrixVector
from intaglio.kernels.linear.requantized import RequantizedMatrixMatrix
from intaglio.kernels.quantize_activation.kernel import QuantizeActivation
from intaglio.kernels.row_program.program import Step

ACTIVATIONS = {"swiglu": "silu", "geglu_erf": "gelu_erf", "geglu_tanh": "gelu_tanh"}


@dataclass(frozen=True)
class LinearEmitter:
    """Appends linear layers to a table."""

    table: TableBuilder
    rows: RowEmitter
    tail: frozenset[ir.Value]
    joints: Mapping[ir.Value, Joint]

    def emit(self, region: LinearRegion) -> None:
        """Append `region`."""
        layout = layout_of(region.weight, 2 if region.gate else 1)
        single = self.table.single or (region.output in self.tail and not self.table.every_row)
        source = self.table.read(region.input)
        if region.norm is not None:
            source = self._norm(region.site, region.norm, layout.columns, source, last=single)
        elif single and source.rows == "all":
            source = self.rows.last_row(region.site, source, layout.columns)
        if region.residual is None:
            self._product(region, layout, source, self._target(region, layout, single), single)
        elif self._may_overwrite(region.residual):
            target = self.table.take_over(region.residual, region.output)
            self._product(region, layout, source, target, single)
        else:
            self._separate_sum(region, layout, source, single)

    def emit_gated(self, region: GatedRegion) -> None:
        """Append gate, up, and the gate's product."""
        self.emit(region.gate)
        self.emit(region.up)
        gate, up = region.gate.output, region.up.output
        activated = (Step("input"), Step(ACTIVATIONS[region.kind], (0,)), Step("input", index=1))
        steps = (*activated, Step("multiply", (1, 2)))
        columns = region.gate.weight.shape[0]
        for value in (gate, up):
            self.table.readers[value] += 1
        operands = (RowOperand(gate), RowOperand(up))
        self.rows.emit(RowRegion(region.site, columns, operands, (), steps, region.output))

    def _may_overwrite(self, residual: ir.Value) -> bool:
        """Whether a product may be added to where `residual` is: it is whole, and nobody reads it again."""
        place = self.table.places[residual]
        own_rows = place.rows == ("shared" if self.table.single else "all")
        return own_rows and not place.offset and self.table.readers[residual] == 1

    def _separate_sum(self, region: LinearRegion, layout: Layout, source: Place, single: bool) -> None:
        """The product, then the sum: where the residual is read again, or each worker has a copy."""
        assert region.residual is not None
        product = dataclasses.replace(region, residual=None, output=ir.Value(name=f"{region.site}.product"))
        self._product(product, layout, source, self._target(product, layout, single), single)
        parts = (self.table.places[product.output], self.table.read(region.residual))
        rows = "all" if all(one.rows == "all" for one in parts) else "own"
        columns = layout.rows
        target = self.table.new(region.output, stride_of(columns), rows)
        self.rows.add(region.site, columns, parts, target)

    def _target(self, region: LinearRegion, layout: Layout, single: bool) -> Place:
        if region.output is self.rows.logits:
            return self.rows.logits_place(layout.rows)
        if (joint := self.joints.get(region.output)) is not None:
            return self._joint(region.output, joint)
        columns = layout.blocks // layout.interleave * ROWS
        return self.table.new(region.output, columns, "shared" if single else "all")

    def _joint(self, output: ir.Value, joint: Joint) -> Place:
        whole = self.table.places.get(joint.whole) or self.table.new(joint.whole, stride_of(joint.columns))
        self.table.places[output] = dataclasses.replace(whole, offset=joint.offset)
        return self.table.places[output]

    def _norm(self, site: str, norm: Norm, columns: int, source: Place, *, last: bool) -> Place:
        name, size = f"norm.{source.stride}", FLOAT * source.stride
        result = self.table.private(name, size) if last else self.table.scratch(name, size)
        place = Place(result, stride_of(columns), "own" if last else "all")
        self.rows.norm(site, norm, columns, source, place)
        return place

    @property
    def _stored(self) -> StoredBuffers:
        return StoredBuffers(self.table.pieces)

    def _product(
        self, region: LinearRegion, layout: Layout, source: Place, target: Place, single: bool
    ) -> None:
        weight = self._stored.weight(region.weight, layout)
        epilogue = _epilogue(region)
        if self.table.few and not single:
            self._few(region, layout, weight, source, FewEmitter(self.table, region.site, epilogue, target))
            return
        if isinstance(layout, FloatWeight):
            kernel = FloatLinear(layout, epilogue, source.stride, target.stride, source.rows, target.offset)
            self.table.wait_for_rows(source)
            self.table.add(kernel, [*weight, source.buffer, target.buffer], region.site, barrier=True)
            return
        if region.activation_group is None:
            self._dequantized_product(region.site, layout, epilogue, [*weight, source.buffer], source, target)
            return
        activation = self._quantize(region.site, layout.columns, region.activation_group, source, single)
        if single:
            vector = QuantizedMatrixVector(layout, region.activation_group, epilogue, target.offset)
            self.table.add(vector, [*weight, *activation, target.buffer], region.site, barrier=True)
            return
        coarse = region.site in self.table.coarse
        product = RequantizedMatrixMatrix if coarse else QuantizedMatrixMatrix
        matrix = product(layout, region.activation_group, epilogue, target.stride, target.offset)
        panel = self.table.private("panel", layout.columns * 2 * ROWS)
        self.table.add(matrix, [*weight, *activation, panel, target.buffer], region.site, barrier=True)

    def _few(
        self, region: LinearRegion, layout: Layout, weight: list[int], source: Place, few: FewEmitter
    ) -> None:
        group = region.activation_group
        if isinstance(layout, QuantizedWeight) and group is not None:
            activation = self._quantize(region.site, layout.columns, group, source, single=False)
            few.quantized(layout, weight, activation, group)
            return
        self.table.wait_for_rows(source)
        if isinstance(layout, FloatWeight):
            few.floating(layout, weight, source)
        else:
            few.dequantized(layout, weight, source)

    def _dequantized_product(
        self,
        site: str,
        layout: QuantizedWeight,
        epilogue: str,
        inputs: list[int],
        source: Place,
        target: Place,
    ) -> None:
        if source.rows != "all":
            vector = DequantizedMatrixVector(layout, epilogue, source.stride, source.rows, target.offset)
            scratch = [
                self.table.private(f"vector.{name}", size) for name, size in vector.scratch_bytes.items()
            ]
            self.table.add(vector, [*inputs, *scratch, target.buffer], site, barrier=True)
            return
        self.table.wait_for_rows(source)
        matrix = DequantizedMatrixMatrix(layout, epilogue, source.stride, target.stride, target.offset)
        panel = self.table.private("panel", FLOAT * layout.columns * 2 * ROWS)
        self.table.add(matrix, [*inputs, panel, target.buffer], site, barrier=True)

    def _quantize(self, site: str, columns: int, group: int, source: Place, single: bool) -> list[int]:
        name, groups = f"{columns}.{group}", columns // group
        place = self.table.private if single else self.table.scratch
        codes = place(f"codes.{name}", columns)
        scales = place(f"scales.{name}", FLOAT * groups)
        sums = place(f"sums.{name}", FLOAT * groups)
        kernel = QuantizeActivation(columns, group, source.stride, source.rows)
        self.table.add(kernel, [source.buffer, codes, scales, sums], site, barrier=not single)
        return [codes, scales, sums]


def _epilogue(region: LinearRegion) -> str:
    return "add" if region.residual is not None else region.gate or "store"
