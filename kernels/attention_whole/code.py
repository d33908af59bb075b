"""The code of attention over whole sequences."""

from __future__ import annotations

from tvm.tirx.script.builder import ir as T

from intaglio.kernels import tir
from intaglio.kernels.attention_whole.kernel import LANES, LARGEST_TILE, UNITS, Layout, WholeAttention
from intaglio.kernels.instructions import Instructions
from intaglio.kernels.tir import Expression, KernelFrame, tirx

HIDDEN = -3e38  # the score of a key that the mask hides
ABSENT = -3.4e38  # the score of a key beyond the last one: far below, so that it weighs nothing even then


class Code:
    """Views of one call's buffers, and the code over them."""

    def __init__(self, kernel: WholeAttention, frame: KernelFrame, instructions: Instructions) -> None:
        self.kernel, self.frame = kernel, frame
        self.tile = min(LARGEST_TILE if instructions.wide else 3, kernel.queries)
        self.pair = 2 if instructions.wide else 1  # key vectors at once
        self.group = 4 if instructions.wide else 2  # value vectors at once
        dtype = kernel.pointers.get("mask", "float32")
        self.mask = frame.buffer("mask", (1 << 30,), dtype) if kernel.mask else None
        self.query, self.key, self.value, self.result = (
            frame.buffer(name, (1 << 30,), "float32") for name in ("query", "key", "value", "result")
        )
        scratch = kernel.scratch_floats
        self.scratch = frame.buffer("scratch", (frame.workers * tir.int32(scratch),), "float32")
        self.base = tir.bind(frame.worker * tir.int32(scratch))
        self.padded = kernel.key_vectors * LANES
        self.scores_at = tir.bind(self.base + tir.int32(self.padded * kernel.head_dim))

    def emit(self) -> None:
        """All units of work."""
        kernel = self.kernel
        tiles = -(-kernel.queries // self.tile)
        pairs = kernel.sequences * kernel.heads
        parts = max(1, min(tiles, -(-UNITS // pairs)))
        share = -(-tiles // parts)

        def unit(index: Expression) -> None:
            part = tir.bind(tirx.floormod(index, tir.int32(parts)))
            rest = tir.bind(tirx.floordiv(index, tir.int32(parts)))
            head = tir.bind(tirx.floormod(rest, tir.int32(kernel.heads)))
            sequence = tir.bind(tirx.floordiv(rest, tir.int32(kernel.heads)))
            kv_head = tir.bind(tirx.floordiv(head, tir.int32(kernel.heads // kernel.kv_heads)))
            self.transpose(tir.bind(_start(kernel.key, sequence, kv_head)))
            first = tir.bind(part * tir.int32(share))
            length = tirx.Max(tirx.Min(tir.int32(share), tir.int32(tiles) - first), tir.int32(0))
            with T.serial(tir.bind(length)) as step:
                row = (first + step) * tir.int32(self.tile)
                row = tir.bind(tirx.Min(row, tir.int32(kernel.queries - self.tile)))
                self.tile_of(sequence, head, kv_head, row)

        self.frame.each_own(pairs * parts, unit)

    def transpose(self, start: Expression) -> None:
        """Keys of a head, sixteen in a vector: `[vectors, head_dim, 16]`; zero beyond the last one."""
        kernel = self.kernel
        full = kernel.keys // LANES
        if full:
            with T.serial(full) as vector:
                self.transpose_vector(start, vector, LANES)
        for vector in range(full, kernel.key_vectors):
            self.transpose_vector(start, tir.int32(vector), max(0, kernel.keys - vector * LANES))

    def transpose_vector(self, start: Expression, vector: Expression, lanes: int) -> None:
        """One vector of keys, of which `lanes` there are."""
        kernel = self.kernel
        target = tir.bind(self.base + vector * tir.int32(kernel.head_dim * LANES))
        source = tir.bind(start + vector * tir.int32(LANES * kernel.key.row))
        with T.serial(kernel.head_dim) as column:
            at = tir.bind(target + column * tir.int32(LANES))
            for lane in range(LANES):
                known = lane < lanes
                value = self.key[source + column + tir.int32(lane * kernel.key.row)] if known else None
                tir.store(self.scratch, [at + tir.int32(lane)], tir.float32(0.0) if value is None else value)

    def tile_of(self, sequence: Expression, head: Expression, kv_head: Expression, row: Expression) -> None:
        """A tile of queries from `row` on."""
        kernel = self.kernel
        largest = [tir.local((LANES,)) for _ in range(self.tile)]
        for one in largest:
            tir.store(one, [0], tir.spread(tir.float32(ABSENT)))
        query = tir.bind(_start(kernel.query, sequence, head) + row * tir.int32(kernel.query.row))
        masks = None
        if kernel.mask:
            layout = kernel.mask_layout
            masks = tir.bind(_start(layout, sequence, head) + row * tir.int32(layout.row))
        whole = kernel.keys // LANES // self.pair  # groups of key vectors without padding
        if whole:
            with T.serial(whole) as step:
                self.scores(query, masks, row, tir.bind(step * tir.int32(self.pair)), largest, None)
        for first in range(whole * self.pair, -(-kernel.keys // LANES), self.pair):
            self.scores(query, masks, row, tir.int32(first), largest, first)
        totals = self.weigh(largest)
        value = tir.bind(_start(kernel.value, sequence, kv_head))
        result = tir.bind(_start(kernel.result, sequence, head) + row * tir.int32(kernel.result.row))
        vectors = kernel.value_dim // LANES
        for first in range(0, vectors, self.group):
            self.mix(value, result, first, min(self.group, vectors - first), totals)

    def scores(
        self,
        query: Expression,
        masks: Expression | None,
        row: Expression,
        vector: Expression,
        largest: list[Expression],
        last: int | None,
    ) -> None:
        """Scores of the tile with keys from `vector` on; `last` is its number where some are padding."""
        kernel = self.kernel
        sums = [tir.local((self.pair, LANES)) for _ in range(self.tile)]
        for one in sums:
            for index in range(self.pair):
                tir.store(one, [index, 0], tir.zeros())
        start = tir.bind(self.base + vector * tir.int32(kernel.head_dim * LANES))
        with T.serial(kernel.head_dim) as column:
            keys = [
                tir.bind(
                    tir.load(
                        self.scratch,
                        [start + column * tir.int32(LANES) + tir.int32(index * kernel.head_dim * LANES)],
                    )
                )
                for index in range(self.pair)
            ]
            for number, one in enumerate(sums):
                at = query + column + tir.int32(number * kernel.query.row)
                value = tir.spread(tir.bind(self.query[at]))
                for index, key in enumerate(keys):
                    tir.store(one, [index, 0], tir.fused_multiply_add(key, value, tir.load(one, [index, 0])))
        for number, one in enumerate(sums):
            for index in range(self.pair):
                place = tir.bind((vector + tir.int32(index)) * tir.int32(LANES))
                score = tir.bind(tir.load(one, [index, 0])) * tir.spread(tir.float32(kernel.scale))
                score = self.masked(tir.hold(score), masks, row, number, place)
                if last is not None:
                    score = self.present(score, (last + index) * LANES)
                tir.store(self.scratch, [self.scores_at + tir.int32(number * self.padded) + place], score)
                tir.store(largest[number], [0], tirx.Max(tir.load(largest[number], [0]), score))

    def masked(
        self, score: Expression, masks: Expression | None, row: Expression, number: int, place: Expression
    ) -> Expression:
        """Scores of one query with sixteen keys, under the mask."""
        kernel = self.kernel
        if masks is not None:
            at = masks + tir.int32(number * kernel.mask_layout.row) + place
            mask = tir.bind(tir.load(self.mask, [at]))
            if kernel.mask == "bool":
                seen = mask > tir.spread(tir.constant(0, "uint8"))
                score = tir.hold(tirx.Select(seen, score, tir.spread(tir.float32(HIDDEN))))
            else:
                score = tir.hold(tirx.Max(score + mask, tir.spread(tir.float32(HIDDEN))))
        if kernel.causal:
            index = tirx.Ramp(place, tir.int32(1), LANES)
            seen = index <= tir.spread(row + tir.int32(number))
            score = tir.hold(tirx.Select(seen, score, tir.spread(tir.float32(HIDDEN))))
        return score

    def present(self, score: Expression, first: int) -> Expression:
        """Scores of sixteen keys from `first` on, of which some may be padding."""
        lanes = tirx.Ramp(tir.int32(first), tir.int32(1), LANES) < tir.spread(tir.int32(self.kernel.keys))
        return tir.hold(tirx.Select(lanes, score, tir.spread(tir.float32(ABSENT))))

    def weigh(self, largest: list[Expression]) -> list[Expression]:
        """Make the scores weights; one over their sum, for each query."""
        vectors = -(-self.kernel.keys // LANES)
        inverse = []
        for number, one in enumerate(largest):
            peak = tir.hold(tir.spread(tir.bind(tir.max_lanes(tir.load(one, [0])))))
            total = tir.local((LANES,))
            tir.store(total, [0], tir.zeros())
            start = tir.bind(self.scores_at + tir.int32(number * self.padded))
            with T.serial(vectors) as vector:
                at = start + vector * tir.int32(LANES)
                weight = tir.hold(tir.exponential(tir.bind(tir.load(self.scratch, [at])) - peak))
                tir.store(self.scratch, [at], weight)
                tir.store(total, [0], tir.load(total, [0]) + weight)
            inverse.append(tir.hold(tir.float32(1.0) / tir.sum_lanes(tir.load(total, [0]))))
        return inverse

    def mix(
        self, value: Expression, result: Expression, first: int, vectors: int, inverse: list[Expression]
    ) -> None:
        """Sums of values by weight, `vectors` vectors of columns from vector `first` on."""
        kernel = self.kernel
        sums = [tir.local((vectors, LANES)) for _ in range(self.tile)]
        for one in sums:
            for index in range(vectors):
                tir.store(one, [index, 0], tir.zeros())
        with T.serial(kernel.keys) as key:
            at = tir.bind(value + key * tir.int32(kernel.value.row) + tir.int32(first * LANES))
            values = [
                tir.bind(tir.load(self.value, [at + tir.int32(index * LANES)])) for index in range(vectors)
            ]
            for number, one in enumerate(sums):
                place = self.scores_at + tir.int32(number * self.padded) + key
                weight = tir.spread(tir.bind(self.scratch[place]))
                for index, part in enumerate(values):
                    running = tir.fused_multiply_add(part, weight, tir.load(one, [index, 0]))
                    tir.store(one, [index, 0], running)
        for number, one in enumerate(sums):
            for index in range(vectors):
                at = result + tir.int32(number * kernel.result.row + (first + index) * LANES)
                tir.store(
                    self.result, [at], tir.bind(tir.load(one, [index, 0])) * tir.spread(inverse[number])
                )


def _start(layout: Layout, sequence: Expression, head: Expression) -> Expression:
    where = sequence * tir.int32(layout.sequence) + head * tir.int32(layout.head)
    return where + tir.int32(layout.offset)
