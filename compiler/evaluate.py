"""How far a compiled model's predictions are from the original's, with a confidence interval."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from intaglio.compiler.errors import OptionError
from intaglio.compiler.generation import require_tokenizer
from intaglio.compiler.session import DecoderSession
from intaglio.compiler.texts import evaluation_text
from intaglio.compiler.workload import is_count

if TYPE_CHECKING:
    from intaglio.compiler.frontends.traced import Tokenizer
    from intaglio.compiler.progress import ProgressListener

Logits = NDArray[np.float32]

LONGEST_WINDOW, SHORTEST_WINDOW = 512, 16  # tokens
FEWEST_WINDOWS = 8  # shorter windows are taken rather than fewer, for the interval's sake
DEFAULT_TOKENS = 4096  # of the default text
RESAMPLES, SEED = 1000, 0
ROWS = 64  # of logits compared at once in float64


@dataclass(frozen=True)
class Evaluation:
    """Averages over all predicted tokens; KL(original ‖ compiled) is in nats per token."""

    perplexity: float
    reference_perplexity: float
    kl: float
    kl_interval: tuple[float, float]  # 95 %, bootstrap over windows
    top1_agreement: float  # share of tokens for which both find the same one likeliest
    tokens: int
    windows: int

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return {**dataclasses.asdict(self), "kl_interval": list(self.kl_interval)}


@dataclass(frozen=True)
class WindowScore:
    """Sums over the predicted tokens of one window."""

    tokens: int
    loss: float  # negative log-likelihood of the tokens that follow, nats
    reference_loss: float
    kl: float
    agreeing: int


def evaluate(
    session: DecoderSession,
    tokenizer: Tokenizer | None,
    against: Path,
    text: str | None = None,
    tokens: int | None = None,
    progress: ProgressListener | None = None,
) -> Evaluation:
    """Compare `session` with the model file `against`; see `CompiledModel.evaluate`."""
    if tokens is not None and not is_count(tokens):
        raise OptionError(f"evaluate: tokens={tokens!r}: give a whole number from 1, or None for all.")
    limit = DEFAULT_TOKENS if text is None and tokens is None else tokens
    ids = require_tokenizer(tokenizer).encode(evaluation_text() if text is None else text)[:limit]
    windows = list(cut(ids, session.capacity))
    original = original_scorer(against)
    scores = []
    for index, window in enumerate(windows):
        if progress is not None:
            progress("windows", index, len(windows))
        scores.append(score_window(window, score_afresh(session, window), original(window)))
    return summarise(scores)


def cut(tokens: Sequence[int], capacity: int) -> Iterator[list[int]]:
    """Windows of equal length, at most 512 and `capacity`, without the rest. Raises `OptionError`."""
    size = min(LONGEST_WINDOW, capacity, max(SHORTEST_WINDOW, len(tokens) // FEWEST_WINDOWS))
    if len(tokens) < 2 * size or size < 2:
        raise OptionError(f"evaluate: {len(tokens)} tokens are too few: give at least {2 * SHORTEST_WINDOW}.")
    for start in range(0, len(tokens) - size + 1, size):
        yield list(tokens[start : start + size])


def original_scorer(path: Path) -> Callable[[list[int]], Logits]:
    """The dequantised model in `path`: logits `[n, vocabulary]` of one forward pass in float32."""
    from intaglio.backends.reference import ReferenceSession
    from intaglio.compiler.frontends.tracing import trace

    traced = trace(path)
    if traced.architecture is None:
        raise OptionError(f"evaluate: {path} is no language model that generates: give the original.")
    session = ReferenceSession(traced.model, keep_constants=True)

    def score(window: list[int]) -> Logits:
        logits: Logits = (
            session.run({"input_ids": np.array([window], np.int64)})["logits"][0].detach().numpy()
        )
        return logits

    return score


def score_afresh(session: DecoderSession, window: list[int]) -> Logits:
    """Logits of `window` by itself."""
    session.reset()
    return session.score(window)


def score_window(window: Sequence[int], logits: Logits, reference: Logits) -> WindowScore:
    """Compare two sets of logits `[n, vocabulary]` of `window`; the last row predicts nothing that is known.

    Raises `OptionError` where the two do not fit together.
    """
    if logits.shape != reference.shape:
        raise OptionError(
            f"evaluate: logits {list(logits.shape)} and the original's {list(reference.shape)} differ in "
            "shape: is it the same model?"
        )
    following = np.asarray(window[1:])
    parts = [
        _compare(following[rows], logits[:-1][rows], reference[:-1][rows])
        for rows in (slice(start, start + ROWS) for start in range(0, len(following), ROWS))
    ]
    loss, reference_loss, kl, agreeing = np.sum(parts, axis=0).tolist()
    return WindowScore(len(following), loss, reference_loss, kl, round(agreeing))


def _compare(following: NDArray[np.int64], logits: Logits, reference: Logits) -> list[float]:
    ours, theirs = log_softmax(logits), log_softmax(reference)
    rows = np.arange(len(following))
    kl = (np.exp(theirs) * (theirs - ours)).sum()
    agreeing = (logits.argmax(-1) == reference.argmax(-1)).sum()
    return [-ours[rows, following].sum(), -theirs[rows, following].sum(), kl, float(agreeing)]


def log_softmax(logits: Logits) -> NDArray[np.float64]:
    """Of each row, in float64."""
    wide = logits.astype(np.float64)
    wide -= wide.max(-1, keepdims=True)
    result: NDArray[np.float64] = wide - np.log(np.exp(wide).sum(-1, keepdims=True))
    return result


def summarise(scores: Sequence[WindowScore]) -> Evaluation:
    """Averages over all tokens of `scores`."""
    tokens = sum(one.tokens for one in scores)
    return Evaluation(
        perplexity=math.exp(sum(one.loss for one in scores) / tokens),
        reference_perplexity=math.exp(sum(one.reference_loss for one in scores) / tokens),
        kl=sum(one.kl for one in scores) / tokens,
        kl_interval=bootstrap([one.kl for one in scores], [one.tokens for one in scores]),
        top1_agreement=sum(one.agreeing for one in scores) / tokens,
        tokens=tokens,
        windows=len(scores),
    )


def bootstrap(sums: Sequence[float], counts: Sequence[int]) -> tuple[float, float]:
    """95 % interval of `sum(sums) / sum(counts)`: percentiles under resampling of windows, seeded."""
    random = np.random.default_rng(SEED)
    chosen = random.integers(len(sums), size=(RESAMPLES, len(sums)))
    means = np.asarray(sums)[chosen].sum(-1) / np.asarray(counts)[chosen].sum(-1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
