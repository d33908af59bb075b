"""The race itself: rounds in which every contestant runs every length, in turns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from contestants import tell
from floors import Figure, limit, matrix_operations

PROFILED = 512  # tokens, at most
FIRST_TOKEN, LAST_TOKEN = 100, 40000  # prompts are of random tokens between these


@dataclass(frozen=True)
class Plan:
    """Lengths in tokens, and how often."""

    prefill: tuple[int, ...]
    contexts: tuple[int, ...]
    batches: tuple[int, ...]
    decode: int  # steps
    rounds: int

    @property
    def lengths(self) -> tuple[int, ...]:
        """Of prompts: each is run once a round and contestant, and decoded after."""
        return tuple(sorted({*self.prefill, *self.contexts}))

    @property
    def figures(self) -> tuple[Figure, ...]:
        """All that is measured of every contestant, in the order of the table."""
        prompts = (Figure("prefill", tokens) for tokens in self.prefill)
        return (*prompts, *(Figure("decode", tokens) for tokens in self.contexts))

    @property
    def batch_figures(self) -> tuple[Figure, ...]:
        """All that is measured of ours besides."""
        if not self.contexts:
            return ()
        return tuple(Figure("batch", self.contexts[0], batch) for batch in self.batches if batch > 1)


def run(contestants: Mapping[str, Any], ours: Sequence[str], plan: Plan) -> dict[str, Any]:
    """The rounds' rates and ceilings, what each says, and the facts that ceilings are computed from."""
    first = contestants[ours[0]]
    facts = {name: contestants[name].ask("facts") for name in ours}
    said = {name: one.ask("say") for name, one in contestants.items()}
    vocabulary = facts[ours[0]]["vocabulary"]
    rounds = []
    for number in range(plan.rounds + 1):
        tell(f"round {number} of {plan.rounds}")
        turn = Turn(contestants, ours, plan, number, vocabulary)
        rounds.append({"ceilings": first.ask("ceilings"), "rates": turn.rates(), "profiles": turn.profiles()})
    kept = rounds[1:]
    for one in kept:
        one["ceilings"] = {**one["ceilings"], **peaks(kept)}
        one["limits"] = {name: limits(plan, facts[name], one["ceilings"]) for name in ours}
        one["matrix_rates"] = {name: matrix_rate(facts[name], one["profiles"][name]) for name in ours}
    return {
        "ours": list(ours),
        "plan": asdict(plan),
        "figures": [one.name for one in (*plan.figures, *plan.batch_figures)],
        "facts": facts,
        "said": said,
        "rounds": kept,
        "idle_share": {name: one.idle_share for name, one in contestants.items()},
    }


def peaks(rounds: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The best of all rounds: what a core can multiply does not depend on neighbours, as the memory does."""
    names = [name for name in rounds[0]["ceilings"] if name.endswith("operations_per_second")]
    return {name: max(one["ceilings"][name] for one in rounds) for name in names}


def limits(plan: Plan, facts: Mapping[str, Any], ceilings: Mapping[str, float]) -> dict[str, float]:
    """Tokens per second at best, by figure."""
    every = (*plan.figures, *plan.batch_figures)
    return {one.name: limit(one, plan.decode, facts, ceilings) for one in every}


def matrix_rate(facts: Mapping[str, Any], profile: Mapping[str, Any]) -> float:
    """Operations per second of the matrix products in a profiled prompt."""
    return matrix_operations(profile["tokens"], facts) / profile["seconds"]["linear"]


@dataclass(frozen=True)
class Turn:
    """One round."""

    contestants: Mapping[str, Any]
    ours: Sequence[str]
    plan: Plan
    number: int
    vocabulary: int

    def prompt(self, *key: int, length: int) -> list[int]:
        """Other tokens in every round: a contestant may keep the cache of an equal prefix."""
        highest = min(LAST_TOKEN, self.vocabulary)
        random = np.random.default_rng([self.number, length, *key])
        return [int(one) for one in random.integers(min(FIRST_TOKEN, highest - 1), highest, length)]

    def rates(self) -> dict[str, dict[str, float]]:
        """Tokens per second by contestant and figure."""
        found: dict[str, dict[str, float]] = {name: {} for name in self.contestants}
        for length in self.plan.lengths:
            prompt = self.prompt(length=length)
            for name in self.order():
                first, rest = self.contestants[name].ask("time", prompt=prompt, count=self.plan.decode)
                found[name] |= dict(self.rates_of(length, first, rest))
        for figure in self.plan.batch_figures:
            for name in self.ours:
                found[name][figure.name] = self.batch_rate(name, figure)
        return found

    def rates_of(self, length: int, first: float, rest: float) -> Iterator[tuple[str, float]]:
        """Of one prompt and the steps after it."""
        if length in self.plan.prefill:
            yield Figure("prefill", length).name, length / first
        if length in self.plan.contexts:
            yield Figure("decode", length).name, self.plan.decode / rest

    def batch_rate(self, name: str, figure: Figure) -> float:
        """Of all sequences together."""
        prompts = [self.prompt(index, length=figure.tokens) for index in range(figure.batch)]
        seconds = self.contestants[name].ask("time_batch", prompts=prompts, count=self.plan.decode)
        return figure.batch * self.plan.decode / float(seconds)

    def profiles(self) -> dict[str, dict[str, Any]]:
        """Seconds by kind of site in one prompt, of ours."""
        length = min(PROFILED, max(self.plan.lengths))
        prompt = self.prompt(length=length)
        return {
            name: {"tokens": length, "seconds": self.contestants[name].ask("profile", tokens=prompt)}
            for name in self.ours
        }

    def order(self) -> list[str]:
        """Whoever begins differs from round to round."""
        names = list(self.contestants)
        first = self.number % len(names)
        return names[first:] + names[:first]
