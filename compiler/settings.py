"""The options of `compile`, checked before anything is read or built."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from intaglio.compiler.errors import OptionError
from intaglio.compiler.frontends.frontend import TraceOptions
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

    model: object  # a path, or a model in memory
    target: Target
    workload: Workload | None  # none: the usual one, as far as the context goes
    plan: Plan | None  # none: the usual one for the kind of model
    context: int | None
    dump: Path | None
    tracing: TraceOptions = field(default_factory=TraceOptions)
    examples: tuple[Any, ...] = ()  # of graphs: example calls
    quality: float | None = None  # of graphs: how much of cosine or top-1 integer versions may lose
    calibration: Any = None  # of graphs: the inputs that this is measured on
    threads: int = 1  # that will run the model

    @classmethod
    def of(
        cls,
        model: object,
        target: str | Path | Target,
        workload: Workload | None,
        plan: str | Path | Plan | None,
        context: int | None,
        dump: str | Path | None,
        tracing: TraceOptions | None = None,
    ) -> Settings:
        """Resolve the arguments of `compile`. Raises `OptionError` and `TargetError`."""
        tracing = tracing or TraceOptions()
        if workload is not None and not isinstance(workload, Workload):
            raise OptionError(f"compile: workload={workload!r}: give an intaglio.Workload.")
        if context is not None and not is_count(context):
            raise OptionError(
                f"compile: context={context!r}: give a number of tokens, or None for the default."
            )
        _check_tracing(tracing)
        place = Path(model) if isinstance(model, str) else model
        resolved = None if plan is None else resolve_plan(plan)
        folder = None if dump is None else Path(dump)
        return cls(place, resolve_target(target), workload, resolved, context, folder, tracing)

    def with_plan_for(
        self, sites: Sequence[str], *, decoder: bool, quantized: Collection[str] = ()
    ) -> Settings:
        """These settings with a plan: the one asked for, or the usual one for a model with these `sites`.

        Keys and values stay float32 where no activations are rounded either, weights at `quantized` being
        integers in the model already. Raises `OptionError` where it says of a graph what holds for decoders
        only.
        """
        from intaglio.compiler.plan import (
            DEFAULT_CACHE,
            DEFAULT_PLAN,
            DEFAULT_PREFILL,
            EXACT_CACHE,
            EXACT_PREFILL,
            GRAPH_PLAN,
        )

        plan = self.plan
        if plan is None:
            usual = DEFAULT_PLAN if decoder else GRAPH_PLAN
            plan = replace(usual, sites={site: one for site, one in usual.sites.items() if site in sites})
        if not decoder and plan.whole:
            told = ", ".join(f"{name}={one}" for name, one in plan.whole.items())
            raise OptionError(
                f"compile: the plan's {told} without effect: this model has inputs of its own "
                "and neither prompts nor keys and values; leave that out."
            )
        if not decoder:
            return replace(self, plan=plan)
        usual_cache = DEFAULT_CACHE if plan.rounds_activations(sites, quantized) else EXACT_CACHE
        usual_prefill = DEFAULT_PREFILL if self._coarser_prompts_pay else EXACT_PREFILL
        complete = replace(plan, cache=plan.cache or usual_cache, prefill=plan.prefill or usual_prefill)
        return replace(self, plan=complete)

    @property
    def _coarser_prompts_pay(self) -> bool:
        """Whether that was measured on this family: others have exact tiles or pairs of their own."""
        from intaglio.kernels.instructions import ByteDots, ByteTiles, instructions_named

        family = instructions_named(self.target.instructions)
        return family.byte_dots is ByteDots.VPDPBUSD_512 and family.byte_tiles is ByteTiles.NONE

    @property
    def chosen(self) -> Plan:
        """The plan of settings that have one; see `with_plan_for`."""
        assert self.plan is not None, "no plan has been chosen"
        return self.plan

    def refuse_for_graphs(self) -> None:
        """Raise `OptionError` for all options that only decoders have."""
        given = {"workload": self.workload, "context": self.context}
        useless = [name for name, value in given.items() if value is not None]
        if useless:
            raise OptionError(
                f"compile: {' and '.join(useless)} without effect: this model has inputs of its own "
                "and generates no tokens; leave that out."
            )

    def with_quality(self, quality: float | None, calibration: Any) -> Settings:
        """These settings with integer versions of graphs allowed. Raises `OptionError`."""
        number = isinstance(quality, int | float) and not isinstance(quality, bool)
        if quality is not None and not (number and 0 < quality < 1):
            raise OptionError(
                f"compile: quality={quality!r}: say how much of cosine or top-1 agreement may be lost, "
                "such as 0.005, or None for exact graphs."
            )
        if quality is None and calibration is not None:
            raise OptionError("compile: calibration without effect: say quality=0.005 too, or leave it out.")
        if quality is not None and self.plan is not None:
            raise OptionError(
                "compile: quality without effect beside a plan, which says itself what is rounded: give one."
            )
        return replace(self, quality=quality, calibration=calibration)

    def refuse_for_decoders(self) -> None:
        """Raise `OptionError` for all options that only graphs have."""
        if self.quality is not None:
            raise OptionError(
                "compile: quality without effect: this is a language model that generates; give it a plan, "
                "and see what that costs with evaluate()."
            )
        if self.examples:
            raise OptionError(
                "compile: example_inputs without effect: this language model generates over a cache of its "
                "own; leave that out, or say padding=True for a graph with an attention mask."
            )

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


def _check_tracing(tracing: TraceOptions) -> None:
    inputs: Any = tracing.example_inputs
    if inputs is not None and not (isinstance(inputs, Mapping | Sequence) and not isinstance(inputs, str)):
        raise OptionError(
            f"compile: example_inputs is {type(inputs).__name__}: give a tuple of arguments, or a dict of "
            "keyword arguments."
        )
    if not isinstance(tracing.padding, bool):
        raise OptionError(f"compile: padding={tracing.padding!r}: give True or False.")


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


def planned_threads(planned: int, threads: int | None) -> int:
    """The threads for a model compiled for `planned` (0: nobody said): `threads`, or as many as planned.

    Raises `OptionError` where there are fewer CPUs.
    """
    if threads is not None or not planned:
        return resolve_threads(threads)
    if planned > available_cpus():
        raise OptionError(
            f"load: compiled for {planned} threads, and this process may use {available_cpus()} CPUs: load "
            f"with threads={available_cpus()} or fewer, or compile again for that many."
        )
    return planned


def available_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
