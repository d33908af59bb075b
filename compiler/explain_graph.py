"""Why a node of a graph runs where it runs."""

from __future__ import annotations

from intaglio.compiler.manifest import Manifest

WHOLE_REASON = (
    "graphs run whole in onnxruntime, since handing tensors over around single layers costs more than "
    "it saves"
)
CONSTANT = "Constant"
# What Intaglio's kernels compute in language models.
KERNELS = frozenset(
    {
        "Add",
        "Attention",
        "Gather",
        "Gelu",
        "LayerNormalization",
        "MatMul",
        "Mul",
        "RMSNormalization",
        "RotaryEmbedding",
        "intaglio.GeGLU",
        "intaglio.QuantizeActivation",
        "intaglio.SwiGLU",
    }
)


def operator_fact(manifest: Manifest, name: str) -> str:
    """For a node of a graph: its operator, who runs it and why; nothing for other names."""
    operator = manifest.operators.get(name)
    if operator is None:
        return ""
    if operator == CONSTANT:
        return "a constant, kept in onnxruntime"
    reason = WHOLE_REASON if operator in KERNELS else f"Intaglio has no kernel for {operator}"
    return f"operator {operator}, run by onnxruntime: {reason}"
