"""Regions of another backend in the middle of a stage table, on the table's own buffers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from intaglio.backends.tvm.program import Exchange, ForeignCall, Program

LANES = 16  # rows are padded by zeros to whole vectors
UPDATED = ".updated"


def _empty(shape: tuple[int | str | None, ...]) -> NDArray[np.float32]:
    return np.zeros([one if isinstance(one, int) else 1 for one in shape], np.float32)


class OpenedRegion(Protocol):
    """A region that another backend has opened."""

    @property
    def inputs(self) -> Mapping[str, Any]:
        """By name what each input is; it has a `shape` of sizes and names of sizes."""

    def run(self, inputs: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
        """Outputs by name."""


class ForeignRunner:
    """The opened regions of `program`, their caches, and views of the buffers that they exchange."""

    def __init__(
        self,
        regions: Sequence[OpenedRegion],
        program: Program,
        memory: Callable[[int], NDArray[np.float32]],
    ) -> None:
        self._sessions, self._memory = regions, memory
        self._caches: dict[str, NDArray[np.generic]] = {
            name: _empty(session.inputs[name].shape)
            for session, file in zip(self._sessions, program.foreign, strict=True)
            for name in file.caches
        }
        self._cached = [one.caches for one in program.foreign]

    def run(self, call: ForeignCall, ids: NDArray[np.int32], position: int) -> float:
        """Run one region for the tokens `ids`, of which `position` are before them; seconds it took."""
        start = time.perf_counter()
        session = self._sessions[call.region]
        inputs: dict[str, NDArray[np.generic]] = {one.name: self._read(one, len(ids)) for one in call.inputs}
        context: dict[str, NDArray[np.generic]] = {
            "input_ids": ids.astype(np.int64)[np.newaxis],
            "position": np.array([position], np.int64),
            **{name: self._caches[name] for name in self._cached[call.region]},
        }
        inputs |= {name: array for name, array in context.items() if name in session.inputs}
        outputs = session.run(inputs)
        for one in call.outputs:
            self._write(one, outputs[one.name])
        for name in self._cached[call.region]:
            self._caches[name] = outputs[name + UPDATED]
        return time.perf_counter() - start

    def _rows(self, exchange: Exchange, rows: int) -> NDArray[np.float32]:
        return self._memory(exchange.buffer)[: rows * exchange.stride].reshape(rows, exchange.stride)

    def _read(self, exchange: Exchange, tokens: int) -> NDArray[np.float32]:
        rows = 1 if exchange.single else tokens
        columns = slice(exchange.offset, exchange.offset + int(np.prod(exchange.shape)))
        taken = self._rows(exchange, rows)[:, columns]
        return np.ascontiguousarray(taken).reshape(1, rows, *exchange.shape)

    def _write(self, exchange: Exchange, values: NDArray[np.generic]) -> None:
        rows, columns = values.shape[1], int(np.prod(exchange.shape))
        target = self._rows(exchange, rows)
        target[:, :columns] = values.reshape(rows, columns)
        target[:, columns : -(-columns // LANES) * LANES] = 0.0
