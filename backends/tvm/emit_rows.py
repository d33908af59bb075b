"""Row regions, and copies of rows, → stages."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from intaglio.backends.tvm.program import Buffer
from intaglio.backends.tvm.regions import Norm, RowRegion
from intaglio.backends.tvm.stored import StoredBuffers
from intaglio.backends.tvm.tables import FLOAT, Place, TableBuilder
from intaglio.kernels.linear.layout import ROWS
from intaglio.kernels.row_program.program import RowInput, RowProgram, Step

# From so many columns on, sharing a token's row among the workers pays for the barrier that it takes.
SHARED_COLUMNS = 4096
COPY = (Step("input"),)
SUM = (Step("input"), Step("input", index=1), Step("add", (0, 1)))


def stride_of(columns: int) -> int:
    """Floats from token to token: whole vectors."""
    return -(-columns // ROWS) * ROWS


@dataclass(frozen=True)
class RowEmitter:
    """Appends row programs to a table."""

    table: TableBuilder
    logits: ir.Value

    def emit(self, region: RowRegion) -> None:
        """Append `region`."""
        places = [self.table.read(one.value) for one in region.operands]
        inputs = tuple(
            RowInput(place.stride, place.rows, place.offset + one.offset, one.broadcast)
            for one, place in zip(region.operands, places, strict=True)
        )
        mode = self._mode(region, places)
        target = self._target(region, mode)
        vectors = [self._stored.vector(one, stride_of(region.columns)) for one in region.vectors]
        buffers = [*(one.buffer for one in places), *vectors]
        self._program(region.site, region.columns, inputs, buffers, region.steps, mode, target)

    def copy(self, site: str, source: Place, columns: int, target: Place, mode: str) -> None:
        """Append a copy of `columns` columns of `source` to `target`."""
        inputs = (RowInput(source.stride, source.rows, source.offset),)
        self._program(site, columns, inputs, [source.buffer], COPY, mode, target)

    def add(self, site: str, columns: int, sources: tuple[Place, Place], target: Place) -> None:
        """Append the sum of two rows."""
        inputs = tuple(RowInput(one.stride, one.rows, one.offset) for one in sources)
        buffers = [one.buffer for one in sources]
        self._program(site, columns, inputs, buffers, SUM, target.rows, target)

    def norm(self, site: str, norm: Norm, columns: int, source: Place, target: Place) -> None:
        """Append an RMSNorm: of all rows, or of one into a copy for each worker.

        No barrier follows: whoever normalises a row also quantises it.
        """
        steps = (Step("input"), Step("vector"), Step("rms_norm", (0, 1), number=norm.epsilon))
        inputs = (RowInput(source.stride, source.rows, source.offset),)
        buffers = [source.buffer, self._stored.vector(norm.weight, stride_of(columns))]
        mode = "last" if target.rows == "own" and source.rows == "all" else target.rows
        self._program(site, columns, inputs, buffers, steps, mode, target)

    def last_row(self, site: str, source: Place, columns: int) -> Place:
        """The last token's row of `source`, a copy for each worker."""
        name, size = f"last.{source.stride}", FLOAT * source.stride
        place = Place(self.table.private(name, size), source.stride, "own")
        self.copy(site, source, columns, place, "last")
        return place

    def logits_place(self, vocabulary: int) -> Place:
        """Where the session looks for logits: of one token, or of all rows where all are wanted."""
        rows = self.table.rows if self.table.every_row else 1
        stride = stride_of(vocabulary)
        buffer = self.table.pieces.buffer(Buffer("logits", "logits", FLOAT * rows * stride))
        place = Place(buffer, stride, "all" if self.table.every_row else "shared")
        self.table.places[self.logits] = place
        return place

    @property
    def _stored(self) -> StoredBuffers:
        return StoredBuffers(self.table.pieces)

    def _mode(self, region: RowRegion, places: list[Place]) -> str:
        """Whose rows the program computes, as in `RowProgram.rows`."""
        if not self.table.single and all(one.rows == "all" for one in places):
            return "all"
        if not self.table.single and any(one.rows == "all" for one in places):
            return "last"
        shared = region.columns >= SHARED_COLUMNS or region.output is self.logits
        return "shared" if shared and not region.norms else "own"

    def _target(self, region: RowRegion, mode: str) -> Place:
        if region.output is self.logits and mode in ("all", "shared"):
            return self.logits_place(region.columns)
        rows = "own" if mode == "last" else mode
        return self.table.new(region.output, stride_of(region.columns), rows)

    def _program(
        self,
        site: str,
        columns: int,
        inputs: tuple[RowInput, ...],
        buffers: list[int],
        steps: tuple[Step, ...],
        mode: str,
        target: Place,
    ) -> None:
        vectors = len({step.index for step in steps if step.op == "vector"})
        kernel = RowProgram(columns, inputs, vectors, steps, target.stride, mode, target.offset)
        size = FLOAT * kernel.padded
        scratch = [self.table.private(f"row.{index}.{size}", size) for index in range(len(kernel.norms))]
        stage = [*buffers, *scratch, target.buffer]
        if mode == "last":
            self.table.wait()
        # Whoever computes a row, or a copy of it, is the one who reads it next.
        self.table.add(kernel, stage, site, barrier=mode == "shared")
