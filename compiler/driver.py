"""The two ways to a compiled model: `compile` builds an artefact and opens it, `load` opens one.

The steps of a compilation stand in `intaglio.compiler.pipeline`, which brings TVM and torch: it is imported
only when something is compiled, so that loading stays quick.
"""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from intaglio.compiler.artifact import read_manifest, refuse_foreign, verify, write_manifest
from intaglio.compiler.batch_cost import with_batch_cost
from intaglio.compiler.compiled_model import CompiledModel
from intaglio.compiler.errors import OptionError, TargetError
from intaglio.compiler.folders import disk_errors
from intaglio.compiler.frontends.frontend import TraceOptions
from intaglio.compiler.manifest import LIBRARY, PROGRAM, Manifest
from intaglio.compiler.opening import open_artifact
from intaglio.compiler.partition_inputs import example_calls
from intaglio.compiler.progress import ProgressListener
from intaglio.compiler.settings import Settings, planned_threads, resolve_threads
from intaglio.compiler.workload import Workload
from intaglio.cost_models import Target, resolve_target

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir
    import torch

    from intaglio.compiler.plan import Plan


def compile(
    model: str | Path | torch.nn.Module | onnx.ModelProto | ir.Model,
    target: str | Path | Target = "cpu",
    *,
    example_inputs: Sequence[Any] | Mapping[str, Any] | None = None,
    dynamic_shapes: Any | None = None,
    padding: bool = False,
    workload: Workload | None = None,
    plan: str | Path | Plan | None = None,
    quality: float | None = None,
    calibration: Iterable[Any] | None = None,
    context: int | None = None,
    threads: int | None = None,
    dump: str | Path | None = None,
    progress: ProgressListener | None = None,
) -> CompiledModel:
    """Compile `model` for `target`.

    An option that has no effect on the kind of model at hand is refused.

    Args:
        model: a GGUF file, an ONNX file, the folder of a Hugging Face model, a `torch.nn.Module`, an
            `onnx.ModelProto`, or an `onnx_ir.Model`, which is left as it is.
        target: "cpu" for this machine, a named target, the path of a target's JSON, or a `Target`.
        example_inputs: for torch modules: a tuple of arguments, or a dict of keyword arguments; for ONNX
            graphs and encoders: a dict of arrays by input name, or a tuple in the order of the inputs. Graphs
            are timed on them, and get kernels of their shapes. A list of several such calls counts every one.
        dynamic_shapes: for torch modules: which sizes may differ, as `torch.export.export` takes them.
        padding: for Hugging Face's causal language models: whole padded batches with an attention mask,
            called with inputs of their own, instead of generating over a cache.
        workload: for language models: the lengths to compile for. Left out, 512 + 128 tokens, or what the
            context allows.
        plan: what to do with each layer: a short form such as "int4-g32", a `Plan`, the path of its JSON.
            Left out, every layer stays on the model's own grid: see `DEFAULT_PLAN` and `GRAPH_PLAN`.
        quality: for graphs: how much of the outputs' cosine, or of top-1 agreement, integer arithmetic may
            lose, such as 0.005; the fastest version within that is kept. Left out, graphs stay exact.
        calibration: inputs of the usual kind, at least eight, as `example_inputs` has them: ranges of
            activations are taken from two thirds of them, and quality is measured on the others. Left out,
            they are made of random numbers.
        context: for language models: tokens that prompt and continuation may have. Left out, the model's
            own, at most 4096.
        threads: how many threads run the model. Left out, one per core.
        dump: a folder for the text of the graph after each phase.
        progress: told of each phase as it begins.

    Raises:
        OptionError, TargetError: for arguments that cannot be; before the model is read where possible.
        ModelFileError, UnsupportedModelError: for a broken file, or unsupported parts, all listed.
        CodegenError, ArtifactError: where code cannot be generated, or the disk is full.
    """
    examples = example_calls(example_inputs)
    tracing = TraceOptions(examples[0] if examples else None, dynamic_shapes, padding)
    settings = Settings.of(model, target, workload, plan, context, dump, tracing)
    count = resolve_threads(threads)
    settings = dataclasses.replace(settings, examples=examples, threads=count)
    settings = settings.with_quality(quality, calibration)
    refuse_target_from_elsewhere(settings.target)
    folder = temporary_folder("compile")
    from intaglio.compiler.building import build

    with kept_on_success(folder):
        manifest = build(settings, Path(folder.name), progress)
        return with_batch_cost(open_artifact(Path(folder.name), manifest, count, folder, _retraced(settings)))


def load(path: str | Path, *, recompile: bool = False, threads: int | None = None) -> CompiledModel:
    """Open the compiled model in the folder `path`.

    With `recompile`, its code is built anew for this machine; the weights are the same for every CPU. The
    folder itself is left as it is: `save` the result to keep it. `threads` left out means as many as the
    model was compiled for.

    Raises:
        OptionError: where this process may use fewer CPUs than the model was compiled for, and `threads` does
            not say how many to use instead.
        ArtifactError: where `path` is no compiled model, or of another version.
        TamperedArtifactError: where a file is missing or was changed.
        ForeignArtifactError: where this machine cannot run the code.
    """
    folder = Path(path).absolute()
    resolve_threads(threads)  # bad ones are refused whatever the folder holds
    manifest = read_manifest(folder)
    count = planned_threads(manifest.threads, threads)
    if recompile:
        return _recompiled(folder, manifest, count)
    verify(folder, manifest)
    if LIBRARY in manifest.files:
        refuse_foreign(manifest, target_of(manifest).missing_here())
    return open_artifact(folder, manifest, count)


def target_of(manifest: Manifest) -> Target:
    """The target that the artefact was compiled for."""
    return Target.from_json(json.dumps(manifest.target))


def refuse_target_from_elsewhere(target: Target) -> None:
    """Raise `TargetError` for a target whose code this machine cannot run, and so cannot open."""
    if missing := target.missing_here():
        raise TargetError(
            f"compile: this machine lacks {', '.join(missing)} to run code for {target.name}, and a compiled "
            "model is opened at once: compile for cpu here, and open the saved folder on the other machine "
            "with load(…, recompile=True), or compile there."
        )


def temporary_folder(operation: str) -> tempfile.TemporaryDirectory[str]:
    """A folder that goes away with the object."""
    with disk_errors(operation, Path(tempfile.gettempdir())):
        return tempfile.TemporaryDirectory(prefix="intaglio-", ignore_cleanup_errors=True)


@contextmanager
def kept_on_success(folder: tempfile.TemporaryDirectory[str]) -> Iterator[None]:
    """Remove `folder` at once where the work in it fails."""
    try:
        yield
    except BaseException:
        folder.cleanup()
        raise


def _retraced(settings: Settings) -> Callable[[], ir.Model] | None:
    """What traces a model in memory again; files are traced from the recorded source, which is checked."""
    if isinstance(settings.model, Path):
        return None

    def traced() -> ir.Model:
        from intaglio.compiler.frontends.tracing import trace

        return trace(settings.model, settings.tracing).model

    return traced


def _recompiled(folder: Path, manifest: Manifest, threads: int) -> CompiledModel:
    if LIBRARY not in manifest.files:
        raise OptionError(
            f"load: recompile has no effect on {folder}: it holds no code of its own; leave it out."
        )
    from intaglio.backends.tvm import Program, build_library
    from intaglio.backends.tvm.graphs import GraphProgram

    kept = tuple(name for name in manifest.files if name != LIBRARY)
    verify(folder, manifest, kept)
    target, holder = resolve_target("cpu"), temporary_folder("load")
    new = Path(holder.name)
    text = (folder / PROGRAM).read_text(encoding="utf-8")
    program = GraphProgram.from_json(text) if manifest.kind == "graph" else Program.from_json(text)
    with kept_on_success(holder), disk_errors("load", new):
        build_library(program, target, new / LIBRARY)
        for name in kept:
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            os.symlink(folder / name, new / name)
        changed = dataclasses.replace(manifest, target=json.loads(target.to_json()))
        opened = open_artifact(new, write_manifest(new, changed), threads, holder)
        return opened if manifest.kind == "graph" else with_batch_cost(opened)
