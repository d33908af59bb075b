"""Compile a model file, or the folder of one, into an artefact folder."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING, Any

from intaglio.compiler.cli.common import add_json, add_threads, show

if TYPE_CHECKING:
    from intaglio.compiler.compiled_model import CompiledModel
    from intaglio.compiler.preview import Preview
    from intaglio.compiler.workload import Workload


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "model", metavar="MODEL", help="a .gguf or .onnx file, or the folder of a Hugging Face model"
    )
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("-o", "--output", metavar="DIR", help="where the compiled model goes")
    place.add_argument(
        "--dry-run", action="store_true", help="show the sites and what the plan does to them; build nothing"
    )
    parser.add_argument(
        "--target", default="cpu", help="cpu (this machine), a named target, or a .json (default: cpu)"
    )
    parser.add_argument(
        "--plan",
        help="such as 'int4-g32, lm_head=int8-channel', or a .json (default: keep, lm_head=keep:a16; "
        "for models with inputs of their own keep:a16)",
    )
    parser.add_argument("--prefill", type=int, metavar="N", help="tokens of a usual prompt (default: 512)")
    parser.add_argument(
        "--decode", type=int, metavar="N", help="tokens of a usual continuation (default: 128)"
    )
    parser.add_argument(
        "--batch", type=int, metavar="N", help="sequences that are continued together, up to 64 (default: 1)"
    )
    parser.add_argument(
        "--context", type=int, metavar="N", help="most tokens (default: the model's, at most 4096)"
    )
    parser.add_argument(
        "--padding",
        action="store_true",
        help="Hugging Face's causal language models: padded batches with an attention mask, without a cache",
    )
    parser.add_argument("--dump", metavar="DIR", help="write the graph as text after each phase")
    add_threads(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Compile and save, or only look."""
    return _look(options) if options.dry_run else _compile(options)


def _compile(options: argparse.Namespace) -> int:
    from pathlib import Path

    from intaglio.compiler.artifact import replaceable
    from intaglio.compiler.driver import compile
    from intaglio.compiler.folders import refuse_others
    from intaglio.compiler.progress import terminal_progress

    # Refused before the work rather than after it.
    refuse_others(Path(options.output), replaceable(Path(options.output)), "compile")
    with terminal_progress(wanted=not options.json) as progress:
        compiled = compile(
            options.model,
            options.target,
            padding=options.padding,
            workload=_workload(options),
            plan=options.plan,
            context=options.context,
            threads=options.threads,
            dump=options.dump,
            progress=progress,
        )
    with compiled:
        path = compiled.save(options.output)
        values = {"path": str(path), **summary(compiled)}
    show(options, values, _text(values))
    return 0


def summary(compiled: CompiledModel) -> dict[str, Any]:
    """What `compile --json` prints of a compiled model."""
    manifest = compiled.manifest
    return {
        "kind": manifest.kind,
        "seconds": sum(manifest.seconds.values()),
        "phases": manifest.seconds,
        "artifact_bytes": compiled.artifact_bytes,
        "peak_memory_bytes": manifest.peak_memory_bytes,
        **_own(compiled),
        "plan": manifest.plan,
        "target": manifest.target["name"],
        "sites": list(manifest.sites),
        "declined": [dataclasses.asdict(one) for one in manifest.account.declined],
    }


def _own(compiled: CompiledModel) -> dict[str, Any]:
    """What there is to say of one kind of model only."""
    manifest = compiled.manifest
    if manifest.kind == "graph":
        return {"ports": manifest.ports}
    return {"bytes_per_token": compiled.program.bytes_per_token, "context": manifest.context}


def _text(values: dict[str, Any]) -> str:
    declined = [
        f"declined: {one['pass_name']} at {one['site']}: {one['reason']}" for one in values["declined"]
    ]
    first = (
        f"{values['path']}: {len(values['sites'])} sites, {values['artifact_bytes'] / 1e6:.1f} MB, "
        f"compiled in {values['seconds']:.1f} s with at most {values['peak_memory_bytes'] / 1e6:.0f} MB of "
        "anonymous memory"
    )
    return "\n".join([first, *declined])


def _look(options: argparse.Namespace) -> int:
    from intaglio.compiler.errors import OptionError
    from intaglio.compiler.frontends.frontend import TraceOptions
    from intaglio.compiler.preview import preview
    from intaglio.compiler.settings import Settings

    if options.dump is not None:
        raise OptionError("compile: --dump has no effect with --dry-run: leave one of them out.")
    tracing = TraceOptions(padding=options.padding)
    settings = Settings.of(
        options.model, options.target, _workload(options), options.plan, options.context, None, tracing
    )
    seen = preview(settings)
    show(options, dataclasses.asdict(seen), _preview_text(seen))
    return 0


def _preview_text(seen: Preview) -> str:
    width = max((len(one.site) for one in seen.sites), default=0)
    sites = [
        f"{one.site:<{width}}  {' × '.join(map(str, one.shape)):>14}  {one.treatment}" for one in seen.sites
    ]
    declined = [f"declined: {one.pass_name} at {one.site}: {one.reason}" for one in seen.account.declined]
    context = "" if seen.context is None else f", context {seen.context} tokens"
    return "\n".join([f"plan {seen.plan}{context}", *sites, *declined])


def _workload(options: argparse.Namespace) -> Workload | None:
    from intaglio.compiler.workload import Workload

    given = {"prefill": options.prefill, "decode": options.decode, "batch": options.batch}
    known = {name: value for name, value in given.items() if value is not None}
    return Workload(**known) if known else None
