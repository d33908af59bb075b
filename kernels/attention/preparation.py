"""Heads of a projection as attention needs them: with their bias, normalised, rotated; and into the cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from intaglio.kernels import tir
from intaglio.kernels.attention.components import Components
from intaglio.kernels.attention.heads import Heads
from intaglio.kernels.attention.packed_storage import storage_of
from intaglio.kernels.attention.storage import Read
from intaglio.kernels.tir import LANES, Expression, KernelFrame, tirx

Sink = Callable[[int, Expression, int], None]  # (first component, vector, lanes)


class Preparation:
    """Views of the projection, of what prepares its heads, and of the cache."""

    def __init__(self, heads: Heads, frame: KernelFrame) -> None:
        self.heads = heads
        size, half = heads.head_dim, heads.rotated // 2
        shapes: dict[str, tuple[int, ...]] = {
            "cosines": (heads.capacity, half),
            "sines": (heads.capacity, half),
            "bias": (heads.stride,),
            "query_norm": (size,),
            "key_norm": (size,),
        }
        self.projection = frame.buffer("projection", (frame.count + tir.int32(8), heads.stride), "float32")
        present = [name for name in heads.cache_pointers if name in shapes]
        self.views = {name: frame.buffer(name, shapes[name], "float32") for name in present}
        self.storage = storage_of(heads, frame)

    def query(self, row: Expression, head: Expression, position: Expression, sink: Sink) -> None:
        """Query `head` of a row, prepared and scaled, into `sink`."""
        scale = tir.float32(self.heads.score_scale)
        read = self._read(row, tir.bind(head * tir.int32(self.heads.head_dim)))
        if self.heads.query_norm is not None:
            read = self._normalised(read, "query_norm", self.heads.query_norm)
        self._rotate(
            read, position, lambda at, vector, lanes: sink(at, vector * tir.spread(scale, lanes), lanes)
        )

    def prefetch_angles(self, position: Expression) -> None:
        """Ask for the cosines and sines of a position."""
        for name in ("cosines", "sines") if self.heads.rotated else ():
            for first in range(0, self.heads.rotated // 2, LANES):
                tir.prefetch(self.views[name], [position, first])

    def append(self, row: Expression, kv_head: Expression, position: Expression) -> None:
        """Prepare a key of projection row `row` into the cache, and copy its value."""
        heads = self.heads
        offset = kv_head * tir.int32(heads.head_dim)
        read = self._read(row, tir.bind(tir.int32(heads.key_offset) + offset))
        if heads.key_norm is not None:
            read = self._normalised(read, "key_norm", heads.key_norm)
        key = Components(heads)
        self._rotate(read, position, lambda at, vector, _lanes: key.store(at, vector))
        self.storage.append_key(kv_head, position, key)
        value = self._read(row, tir.bind(tir.int32(heads.value_offset) + offset))
        self.storage.append_value(kv_head, position, value)

    def _read(self, row: Expression, offset: Expression) -> Read:
        """The head at `offset` of a row, with its bias."""

        def read(first: int, lanes: int) -> Expression:
            at = offset + tir.int32(first)
            vector = tir.load(self.projection, [row, at], lanes)
            return vector + tir.load(self.views["bias"], [at], lanes) if self.heads.bias else vector

        return read

    def _normalised(self, read: Read, norm: str, epsilon: float) -> Read:
        """`read` divided by the root of its mean square, times the norm's weight."""
        size, lanes = self.heads.head_dim, self.heads.lanes
        squares = tir.local((lanes,))
        tir.store(squares, [0], tir.zeros(lanes))
        for first in range(0, size, lanes):
            value = tir.bind(read(first, lanes))
            running = tir.load(squares, [0], lanes)
            tir.store(squares, [0], tir.fused_multiply_add(value, value, running, lanes))
        mean = tir.sum_lanes(tir.load(squares, [0], lanes)) * tir.float32(1.0 / size)
        inverse = tir.bind(tir.float32(1.0) / tir.square_root(mean + tir.float32(epsilon)))

        def normalised(first: int, lanes: int) -> Expression:
            return (
                read(first, lanes) * tir.spread(inverse, lanes) * tir.load(self.views[norm], [first], lanes)
            )

        return normalised

    def _rotate(self, read: Read, position: Expression, sink: Sink) -> None:
        """The head rotated for `position`; components beyond the rotated ones as they are."""
        if self.heads.interleaved:
            self._rotate_neighbours(read, position, sink)
        else:
            self._rotate_halves(read, position, sink)
        lanes = self.heads.rest_lanes
        for first in range(self.heads.rotated, self.heads.head_dim, lanes):
            sink(first, read(first, lanes), lanes)

    def _rotate_halves(self, read: Read, position: Expression, sink: Sink) -> None:
        half, lanes = self.heads.rotated // 2, self.heads.half_lanes
        for first in range(0, half, lanes):
            cosine, sine = self._angle(position, first, lanes)
            low, high = tir.bind(read(first, lanes)), tir.bind(read(half + first, lanes))
            sink(first, low * cosine - high * sine, lanes)
            sink(half + first, high * cosine + low * sine, lanes)

    def _rotate_neighbours(self, read: Read, position: Expression, sink: Sink) -> None:
        half = self.heads.rotated // 2
        lanes = min(self.heads.half_lanes, LANES // 2)
        for first in range(0, half, lanes):
            cosine, sine = self._angle(position, first, lanes)
            pairs = tir.bind(read(2 * first, 2 * lanes))
            even, odd = (tir.bind(_pick([pairs], range(start, 2 * lanes, 2))) for start in (0, 1))
            rotated = [tir.bind(even * cosine - odd * sine), tir.bind(odd * cosine + even * sine)]
            order = [lane + half * lanes for lane in range(lanes) for half in (0, 1)]
            sink(2 * first, _pick(rotated, order), 2 * lanes)

    def _angle(self, position: Expression, first: int, lanes: int) -> tuple[Expression, Expression]:
        cosine, sine = (
            tir.bind(tir.load(self.views[name], [position, first], lanes)) for name in ("cosines", "sines")
        )
        return cosine, sine


def _pick(vectors: Sequence[Expression], lanes: Sequence[int]) -> Expression:
    """The given lanes of some vectors side by side."""
    return tirx.Shuffle(list(vectors), [tir.int32(lane) for lane in lanes])
