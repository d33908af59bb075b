"""How fast a compiled model runs, and how near it comes to ceilings measured in the same run."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from intaglio.compiler.errors import ContextLengthError, OptionError
from intaglio.compiler.workload import is_count

if TYPE_CHECKING:
    from intaglio.backends.tvm import NativeSession, Program

SHORT_PROMPT = 32  # tokens before the decoding that rivals are compared by
SEED = 0


@dataclass(frozen=True)
class BenchOptions:
    """Lengths in tokens, and how often. Raises `OptionError`."""

    prefill: int = 512
    decode: int = 128
    rounds: int = 5

    def __post_init__(self) -> None:
        problems = [
            f"{name}={value!r}" for name, value in dataclasses.asdict(self).items() if not is_count(value)
        ]
        if problems:
            raise OptionError(f"bench: {', '.join(problems)}: give whole numbers from 1.")


@dataclass(frozen=True)
class Rate:
    """Tokens per second over the rounds."""

    median: float
    minimum: float
    maximum: float

    @classmethod
    def of(cls, tokens: int, seconds: list[float]) -> Rate:
        """Of `tokens` tokens in each of `seconds`."""
        return cls(tokens / statistics.median(seconds), tokens / max(seconds), tokens / min(seconds))


@dataclass(frozen=True)
class Benchmark:
    """The figures; prefill and decode are always apart.

    Prefill is the time until the greedy token after the prompt is known; decode is whole steps, choice
    included, after a prompt of 32 tokens and after the whole prefill.
    """

    options: BenchOptions
    threads: int
    prefill: Rate
    decode: Rate  # after 32 tokens
    decode_after_prefill: Rate
    bytes_per_token: int  # packed weights that one decode step reads
    cache_bytes_per_position: int  # of keys and values, in the type that the plan stores them in
    cache_bytes_per_token: float  # of them that a step reads besides, on average in `decode`
    cache_bytes_per_token_after_prefill: float  # the same in `decode_after_prefill`
    prefill_operations_per_token: float  # of linear layers; a multiply-add counts twice
    read_bandwidth_bytes_per_second: float  # ceilings
    int8_operations_per_second: float
    bf16_operations_per_second: float
    fp32_operations_per_second: float

    @property
    def bandwidth_fraction(self) -> float:
        """Bytes that decoding after 32 tokens read per second, of those that the machine can read."""
        read = (self.bytes_per_token + self.cache_bytes_per_token) * self.decode.median
        return read / self.read_bandwidth_bytes_per_second

    @property
    def bandwidth_fraction_after_prefill(self) -> float:
        """The same of decoding after the whole prefill."""
        bytes_read = self.bytes_per_token + self.cache_bytes_per_token_after_prefill
        return bytes_read * self.decode_after_prefill.median / self.read_bandwidth_bytes_per_second

    @property
    def compute_fraction(self) -> float:
        """Operations of the prefill per second, of the 8-bit ones that the machine can do."""
        return self.prefill_operations_per_token * self.prefill.median / self.int8_operations_per_second

    def to_json(self) -> dict[str, Any]:
        """Everything by name; a rate is its median, with `_min` and `_max` beside."""
        values = {name: one for name, one in vars(self).items() if isinstance(one, int | float)}
        rates = {name: one for name, one in vars(self).items() if isinstance(one, Rate)}
        lengths = {f"{name}_tokens": getattr(self.options, name) for name in ("prefill", "decode")}
        names = ("bandwidth_fraction", "bandwidth_fraction_after_prefill", "compute_fraction")
        fractions = {name: getattr(self, name) for name in names}
        return {**lengths, "rounds": self.options.rounds, **_flat(rates), **fractions, **values}


def measure(
    session: NativeSession,
    program: Program,
    architecture: Mapping[str, Any],
    threads: int,
    options: BenchOptions,
) -> Benchmark:
    """Run `options.rounds` rounds, and one before them that does not count. Raises `ContextLengthError`."""
    _check_context(session.capacity, options)
    before = session.measure_ceilings()
    rounds = [_round(session, options, index) for index in range(options.rounds + 1)][1:]
    # A shared host has slow phases: a ceiling is the best that was seen.
    ceilings = before.best_of(session.measure_ceilings())
    prefill, short, long = ([one[part] for one in rounds] for part in range(3))
    steps = (options.decode + 1) / 2  # that the cache has grown by on average
    cache = program.cache_bytes_per_position
    head = architecture["vocabulary"] * architecture["hidden"]  # computed once, after the last token
    return Benchmark(
        options=options,
        threads=threads,
        prefill=Rate.of(options.prefill, prefill),
        decode=Rate.of(options.decode, short),
        decode_after_prefill=Rate.of(options.decode, long),
        bytes_per_token=program.bytes_per_token,
        cache_bytes_per_position=cache,
        cache_bytes_per_token=cache * (SHORT_PROMPT + steps),
        cache_bytes_per_token_after_prefill=cache * (options.prefill + steps),
        prefill_operations_per_token=2 * (program.multiply_adds_per_token - head + head / options.prefill),
        read_bandwidth_bytes_per_second=ceilings.read_bytes_per_second,
        int8_operations_per_second=ceilings.int8_operations_per_second,
        bf16_operations_per_second=ceilings.bf16_operations_per_second,
        fp32_operations_per_second=ceilings.fp32_operations_per_second,
    )


def _check_context(capacity: int, options: BenchOptions) -> None:
    needed = max(options.prefill, SHORT_PROMPT) + options.decode
    if needed > capacity:
        raise ContextLengthError(
            f"bench: {needed} tokens do not fit into the context of {capacity}: measure shorter lengths, "
            "or compile with a larger context."
        )


def _round(session: NativeSession, options: BenchOptions, index: int) -> tuple[float, float, float]:
    """Seconds of the prefill, of decoding after 32 tokens, and of decoding after the prefill."""
    # Other tokens in every round, so that nothing is timed that a cache could answer.
    prompt = np.random.default_rng([SEED, index]).integers(session.vocabulary, size=options.prefill).tolist()
    short = np.random.default_rng([SEED, index, 1]).integers(session.vocabulary, size=SHORT_PROMPT).tolist()
    session.reset()
    token = session.choose(short)
    after_short = _seconds(lambda: _decode(session, token, options.decode))
    session.reset()
    prefill = _seconds(lambda: session.choose(prompt))
    after_prefill = _seconds(lambda: _decode(session, prompt[-1], options.decode))
    return prefill, after_short, after_prefill


def _decode(session: NativeSession, token: int, count: int) -> None:
    for _ in range(count):
        token = session.choose([token])


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _flat(rates: Mapping[str, Rate]) -> dict[str, float]:
    flat: dict[str, float] = {}
    for name, rate in rates.items():
        key = f"{name}_tokens_per_second"
        flat |= {key: rate.median, f"{key}_min": rate.minimum, f"{key}_max": rate.maximum}
    return flat
