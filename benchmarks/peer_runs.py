"""One rival's figures, measured in this process and printed as JSON; `peers.py` starts one process per rival.

Run by the rivals' own Python; needs nothing but numpy and the rival asked for.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from rivals import RIVALS

PROMPT = "The capital of France is"
SHORT_PROMPT = 32  # tokens
CONTINUATION = 24  # tokens


def summary(rates: Sequence[float]) -> dict[str, float]:
    """Median, minimum and maximum."""
    return {"median": statistics.median(rates), "min": min(rates), "max": max(rates)}


def measure(rival: Any, prefill: int, decode: int, rounds: int) -> dict[str, Any]:
    """Tokens per second of `rounds` rounds, after one that is thrown away."""
    # Fresh tokens each round: a rival that keeps the cache of an equal prefix would skip the prefill.
    random = np.random.default_rng(0)
    rates: dict[str, list[float]] = {"prefill": [], "after_32": [], "after_prefill": []}
    for _ in range(rounds + 1):
        prompt = [int(token) for token in random.integers(100, 40000, prefill)]
        short = [int(token) for token in random.integers(100, 40000, SHORT_PROMPT)]
        first, rest = rival.time(prompt, decode)
        rates["prefill"].append(prefill / first)
        rates["after_prefill"].append(decode / rest)
        rates["after_32"].append(decode / rival.time(short, decode)[1])
    kept = {name: summary(values[1:]) for name, values in rates.items()}
    decoded = {f"decode_{name}": kept[name] for name in ("after_32", "after_prefill")}
    return {"prefill_tokens_per_second": kept["prefill"], "decode_tokens_per_second": decoded}


def continuation(rival: Any) -> dict[str, Any]:
    """What the rival says after a fixed prompt: a rival that computes nonsense must not be compared with."""
    prompt = rival.encode(PROMPT)
    tokens = [int(token) for token in rival.complete(prompt, CONTINUATION)]
    return {"prompt_ids": prompt, "ids": tokens, "text": rival.decode(tokens)}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Send the file descriptor of standard output to standard error: native libraries print there too."""
    sys.stdout.flush()
    keep = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(keep, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rival", choices=sorted(RIVALS))
    parser.add_argument("--forms", type=json.loads, required=True, help="what peer_models.py printed")
    parser.add_argument("--prefill", type=int, required=True)
    parser.add_argument("--decode", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    options = parser.parse_args()
    with quiet():
        rival = RIVALS[options.rival](options.forms, options.threads)
        said = continuation(rival)
        figures = measure(rival, options.prefill, options.decode, options.rounds)
    print(json.dumps({"continuation": said, **figures}))


if __name__ == "__main__":
    main()
