"""A compiled graph: it is called with inputs of its own, and gives its outputs."""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from intaglio.compiler.array_exchange import Array, is_torch, to_torch
from intaglio.compiler.compiled_model import DEFAULT_ROUNDS, CompiledModel, Inputs
from intaglio.compiler.errors import OptionError
from intaglio.compiler.graph_calls import arrays_of, named
from intaglio.compiler.graph_ports import GraphPorts
from intaglio.compiler.manifest import Manifest
from intaglio.cost_models import Target

if TYPE_CHECKING:
    import onnx_ir as ir

    from intaglio.backends.onnxruntime import RegionSession
    from intaglio.backends.tvm.graph_session import GraphSession
    from intaglio.compiler.graph_benchmark import GraphBenchmark
    from intaglio.compiler.report import Report

INTEGERS = "int8"  # how the names of candidates begin that do not compute in floating point


class CompiledGraph(CompiledModel):
    """Any model that is no language model with a cache. Calls from several threads may overlap.

    Calls of the shapes that it was compiled for run in the native program, if there is one; others in the
    `region`, which onnxruntime runs: it is opened, or given as what opens it when it is needed.
    `original` gives the graph as traced, where it can be had again: benchmarks compare with it.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        region: RegionSession | Callable[[], RegionSession],
        native: GraphSession | None,
        threads: int,
        original: Callable[[], ir.Model],
        holder: tempfile.TemporaryDirectory[str] | None = None,
    ) -> None:
        super().__init__(folder, manifest, threads, holder)
        self.ports = GraphPorts.from_data(manifest.ports)
        self._region, self._native, self._closed = region, native, False
        self._lock = threading.Lock()
        self._original = original

    def __call__(self, /, *arguments: Any, **keywords: Any) -> Any:
        """The results of one call.

        A model that was compiled with a signature (a torch module) takes the same nest of arguments as then,
        and gives its results as the same nest. Any other takes its inputs by name, as keywords or as one
        dict, and gives a dict of outputs by name. Leaves are torch tensors or numpy arrays; the results are
        torch tensors if any leaf given was one.
        Raises `OptionError` that lists every argument that does not fit.
        """
        found = named(self.ports, arguments, keywords)
        results = self.call_by_name(found)
        if any(is_torch(one) for one in found.values()):
            results = {name: to_torch(one) for name, one in results.items()}
        return results if self.ports.call is None else self.ports.call.outputs(results)

    def call_by_name(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        """Outputs by name as numpy arrays, whatever the model's signature. Raises `OptionError`."""
        return dict(self._run(self.ports.arrays(inputs)))

    def bench(
        self,
        prefill: int | None = None,
        decode: int | None = None,
        rounds: int = DEFAULT_ROUNDS,
        *,
        inputs: Inputs | None = None,
    ) -> GraphBenchmark:
        """Time calls on `inputs` (a tuple of arguments or a dict of inputs), in turns with the original.

        Left out, inputs are made: sizes that are not fixed are 1 along the first axis and 16 elsewhere,
        floats are standard normal, integers 1. Raises `OptionError` where the model cannot be called so.
        """
        from intaglio.compiler.graph_benchmark import generated_inputs, measure

        if prefill is not None or decode is not None:
            raise OptionError("bench: prefill and decode have no effect here: give inputs.")
        arrays = generated_inputs(self.ports) if inputs is None else arrays_of(self.ports, inputs)
        return measure(self._run, arrays, self._original, self.threads, rounds)

    def recompile_for(self, *examples: Inputs) -> CompiledGraph:
        """The same model compiled anew, with kernels for the shapes of these example calls.

        It is read again from its source; this one stays as it is. Raises `OptionError` where the examples do
        not fit or the model was an object in memory, `ArtifactError` where its source is gone or has changed.
        """
        from intaglio.compiler.driver import compile
        from intaglio.compiler.export import source_of
        from intaglio.compiler.plan import Plan

        if not examples:
            raise OptionError("recompile_for: give the inputs of at least one call.")
        if self.manifest.source.path is None:
            raise OptionError(
                f"recompile_for: {self.manifest.source.name} was an object in memory: compile it again with "
                "example_inputs."
            )
        if str(self.manifest.partition.get("kept", "")).startswith(INTEGERS):
            raise OptionError(
                "recompile_for: this model computes with integers, within a quality measured on calibration "
                "inputs that are not kept: compile it again with quality, calibration and example_inputs."
            )
        found = compile(
            source_of(self.manifest, "recompile_for"),
            Target.from_json(json.dumps(self.manifest.target)),
            example_inputs=[one if isinstance(one, Mapping) else tuple(one) for one in examples],
            padding=self.manifest.padding,
            plan=Plan.from_json(json.dumps(self.manifest.plan)),
            threads=self.threads,
        )
        assert isinstance(found, CompiledGraph), "a graph stays one"
        return found

    def generate(self, *_: Any, **__: Any) -> NoReturn:
        """Raises `OptionError`."""
        self._refuse("generate")

    def stream(self, *_: Any, **__: Any) -> NoReturn:
        """Raises `OptionError`."""
        self._refuse("stream")

    def evaluate(self, *_: Any, **__: Any) -> NoReturn:
        """Raises `OptionError`."""
        self._refuse("evaluate")

    @property
    def session(self) -> NoReturn:
        """Raises `OptionError`."""
        self._refuse("session")

    @property
    def program(self) -> NoReturn:
        """Raises `OptionError`."""
        self._refuse("program")

    @property
    def report(self) -> Report:
        """The whole account: origin, sites with bytes, passes, times."""
        from intaglio.compiler.report_graph import make_report

        inputs, outputs = (
            {name: str(port) for name, port in ports.items()}
            for ports in (self.ports.inputs, self.ports.outputs)
        )
        return make_report(self.manifest, inputs, outputs, self.artifact_bytes)

    def _run(self, arrays: Mapping[str, Array]) -> Mapping[str, Array]:
        from intaglio.compiler.graph_candidates import region_run

        if self._closed:
            raise OptionError("call: the model was closed: load it again.")
        if self._native is not None and self._native.fits(arrays):
            with self._lock:  # its buffers are those of one call
                return self._native.run(arrays)
        if callable(self._region):
            self._region = self._region()  # opened for the first call of another shape
        return region_run(self._region, self.ports)(arrays)

    def _export(self, path: Path, round_activations: bool) -> Path:
        from intaglio.compiler.export import export_graph

        return export_graph(self.manifest, self.folder, path, round_activations=round_activations)

    def _close(self) -> None:
        self._closed = True
        if self._native is not None:
            self._native.close()

    def _refuse(self, operation: str) -> NoReturn:
        raise OptionError(
            f"{operation}: {self.manifest.source.name} is no language model that generates: call it with its "
            f"inputs, {', '.join(self.ports.inputs) or 'of which it has none'}."
        )
