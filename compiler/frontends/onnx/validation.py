"""The checks that come before anything else is done with a model; all that is wrong is raised at once."""

from __future__ import annotations

import onnx

from intaglio.compiler.frontends.onnx.interface import check_interface
from intaglio.compiler.frontends.onnx.operators import check_operators
from intaglio.compiler.frontends.onnx.problems import Problems
from intaglio.compiler.frontends.onnx.structure import structure_problems
from intaglio.compiler.frontends.onnx.tensors import PlaceCheck, check_tensors
from intaglio.compiler.frontends.onnx.text import text_problems


def validate(model: onnx.ModelProto, *, name: str, place: PlaceCheck) -> None:
    """Check `model`, which messages call `name`; `place` checks where external tensors lie.

    Raises `ModelFileError` for cycles, undefined values, duplicate names, missing opset imports, nodes that
    do not fit their op, tensors that do not fit their type or lie in the wrong place;
    `UnsupportedModelError` for unknown ops and opsets, strings, and inputs or outputs that are no tensors.
    """
    problems = Problems(name)
    problems.add(broken=text_problems(model))
    problems.raise_any()  # nothing else can be looked at
    if not model.HasField("graph"):
        problems.add(broken=["it holds no graph: this is no ONNX model, or only a part of one"])
        problems.raise_any()
    problems.add(broken=structure_problems(model))
    check_interface(model.graph, problems)
    check_operators(model, problems)
    check_tensors(model, place, problems)
    problems.raise_any()
