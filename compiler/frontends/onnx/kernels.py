"""What onnxruntime can run on the CPU: some ops have no kernel for their newest definition."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from onnx import defs
from onnxruntime.capi import onnxruntime_pybind11_state as state

from intaglio.compiler.ir.functions import OPSET

_OPEN = 2**31 - 1  # end of the range of a kernel that was the newest of its op
Ranges = Mapping[str, Sequence[tuple[int, int]]]


def standard_schema(op_type: str, version: int) -> defs.OpSchema | None:
    """The op as of opset `version`; none where it came later, or is one of onnxruntime's own."""
    try:
        return defs.get_schema(op_type, version, "")
    except defs.SchemaError:
        return None


def cpu_kernels() -> Ranges:
    """By standard op, the first and the last opset of each kernel."""
    found: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for one in state.get_all_opkernel_def():
        if one.domain == "" and one.provider == "CPUExecutionProvider":
            found[one.op_name].append(one.version_range)
    return found


def loses_kernel(op_type: str, version: int, kernels: Ranges) -> bool:
    """Whether onnxruntime runs the op as of opset `version`, but not as of opset 25."""
    before, after = standard_schema(op_type, version), standard_schema(op_type, OPSET)
    if before is None or after is None:
        return False
    expands = after.has_function or after.has_context_dependent_function  # type: ignore[attr-defined]
    if before.since_version == after.since_version or expands:
        return False
    return _runs(before, kernels) and not _runs(after, kernels)


def _runs(schema: defs.OpSchema, kernels: Ranges) -> bool:
    """As onnxruntime matches: an open range stands for its first definition alone."""
    version = schema.since_version
    return any(
        version == first or (first < version <= last and last != _OPEN)
        for first, last in kernels.get(schema.name, ())
    )
