"""The options of `compile`, checked before anything is read or built."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from intaglio.compiler.errors import OptionError
from intaglio.compiler.workload import Workload, is_count
from intaglio.cost_models import Target, resolve_target

if TYPE_CHECKING:
    from intaglio.compiler.frontends.traced import DecoderArchitecture
    from intaglio.compiler.plan import Plan

DEFAULT_CONTEXT = 4096  # tokens
LARGEST_CHUNK = 512  # tokens computed at once


@dataclass(frozen=True)
class Settings:
    """What `compile` was asked for, resolved."""

    model: Path
    target: Target
    workload: Workload | None  # none: the usual one, as far as the context goes
    plan: Plan
    context: int | None
    dump: Path | None

    @classmethod
    def of(
        cls,
        model: str | Path,
        target: str | Path | Target,
        workload: Workload | None,
        plan: str | Path | Plan | None,
        context: int | None,
        dump: str | Path | None,
    ) -> Settings:
        """Resolve the arguments of `compile`. Raises `OptionError` and `TargetError`."""
        if workload is not None and not isinstance(workload, Workload):
            raise OptionError(f"compile: workload={workload!r}: give an intaglio.Workload.")
        if context is not None and not is_count(context):
            raise OptionError(
                f"compile: context={context!r}: give a number of tokens, or None for the default."
            )
        folder = None if dump is None else Path(dump)
        return cls(Path(model), resolve_target(target), workload, resolve_plan(plan), context, folder)

    def context_for(self, architecture: DecoderArchitecture) -> int:
        """Tokens that the KV cache is to hold: as asked for, or the model's own context, at most 4096 of it
        unless the workload needs more. Raises `OptionError` where that is more than the model knows."""
        needed = 0 if self.workload is None else self.workload.tokens
        context = self.context or min(architecture.context, max(DEFAULT_CONTEXT, needed))
        if context > architecture.context:
            raise OptionError(
                f"compile: context={context} exceeds the model's own of {architecture.context} tokens."
            )
        if self.workload is not None and needed > context:
            raise OptionError(
                f"compile: the workload of {self.workload.prefill} + {self.workload.decode} tokens exceeds a "
                f"context of {context}: shorten it, or compile for a larger one (the model's is "
                f"{architecture.context})."
            )
        return context

    def chunk_for(self, context: int) -> int:
        """Tokens of a prompt that are computed at once."""
        return min(self.workload_for(context).prefill, LARGEST_CHUNK)

    def workload_for(self, context: int) -> Workload:
        """The workload asked for, or the usual one cut to `context`."""
        return self.workload or Workload.usual(context)


def resolve_plan(plan: str | Path | Plan | None) -> Plan:
    """A plan, its short form, the path of its JSON, or `None` for `DEFAULT_PLAN`. Raises `OptionError`."""
    # Here, since it brings onnx_ir, which loading a model does without.
    from intaglio.compiler.plan import DEFAULT_PLAN, Plan

    if plan is None or isinstance(plan, Plan):
        return plan or DEFAULT_PLAN
    if isinstance(plan, str) and not plan.endswith(".json"):
        return Plan.parse(plan)
    try:
        return Plan.from_json(Path(plan).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(
            f"plan: {plan} cannot be read ({error}): give a plan such as 'int4-g32' or a file."
        ) from error


def resolve_threads(threads: int | None) -> int:
    """`threads`, or one for each core that this process may use. Raises `OptionError`."""
    if threads is not None and not (is_count(threads) and threads <= available_cpus()):
        raise OptionError(
            f"threads={threads!r}: give a whole number from 1 to {available_cpus()}, the CPUs that this "
            "process may use, or None for one per core."
        )
    return threads or min(available_cpus(), psutil.cpu_count(logical=False) or available_cpus())


def available_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
