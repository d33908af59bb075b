"""Measure the speed of a compiled model, against the machine's ceilings or plain onnxruntime."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from intaglio.compiler.cli.common import add_json, add_model, opened, show

if TYPE_CHECKING:
    from intaglio.compiler.compiled_model import CompiledModel
    from intaglio.compiler.manifest import Manifest


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_model(parser)
    parser.add_argument(
        "--prefill", type=int, metavar="N", help="tokens of the prompt (default: as compiled for)"
    )
    parser.add_argument("--decode", type=int, metavar="N", help="tokens generated (default: as compiled for)")
    parser.add_argument("--inputs", metavar="NPZ", help="of a graph: what to call it with (default: made up)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="default: 5")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Measure and print."""
    with opened(options) as compiled:
        inputs = None if options.inputs is None else _inputs(options, compiled)
        measured = compiled.bench(options.prefill, options.decode, options.rounds, inputs=inputs)
        manifest = compiled.manifest
    values = measured.to_json()
    if manifest.kind == "decoder":
        values |= {"batch_cost": manifest.batch_cost, "one_row_seconds": manifest.one_row_seconds}
    show(options, values, _graph(values) if manifest.kind == "graph" else _decoder(values, manifest))
    return 0


def _inputs(options: argparse.Namespace, compiled: CompiledModel) -> dict[str, Any]:
    from intaglio.compiler.array_files import read_arrays
    from intaglio.compiler.graph_ports import GraphPorts

    graph = compiled.manifest.kind == "graph"
    return read_arrays(options.inputs, GraphPorts.from_data(compiled.manifest.ports) if graph else None)


def _graph(values: dict[str, Any]) -> str:
    shapes = ", ".join(f"{name} {shape}" for name, shape in values["shapes"].items())
    low, median, high = (values[f"{one}_seconds"] * 1e3 for one in ("minimum", "median", "maximum"))
    against = values["note"]
    if values["speedup"] is not None:
        original = values["original_median_seconds"] * 1e3
        against = f"onnxruntime on the original {original:.3f} ms: {values['speedup']:.2f} times as fast"
    lines = (
        f"a call with {shapes or 'no inputs'}: {median:.3f} ms ({low:.3f} … {high:.3f})",
        against,
        f"{values['threads']} threads, {values['rounds']} rounds",
    )
    return "\n".join(lines)


def _decoder(values: dict[str, Any], manifest: Manifest) -> str:
    from intaglio.compiler.batch_cost import described

    lines = [
        _rate("prefill", values["prefill_tokens"], values, "prefill"),
        _rate("decode after 32 tokens", values["decode_tokens"], values, "decode"),
        _rate("decode after the prefill", values["decode_tokens"], values, "decode_after_prefill"),
        f"decode reads {values['bytes_per_token'] / 1e6:.1f} MB of weights per token, and "
        f"{values['cache_bytes_per_position'] / 1e3:.1f} KB of keys and values for each token before it: "
        f"{values['bandwidth_fraction']:.0%} and after the prefill "
        f"{values['bandwidth_fraction_after_prefill']:.0%} of the "
        f"{values['read_bandwidth_bytes_per_second'] / 1e9:.1f} GB/s there are",
        f"prefill does {values['compute_fraction']:.0%} of the "
        f"{values['int8_operations_per_second'] / 1e9:.0f} billion 8-bit operations per second there are "
        f"(bfloat16 {values['bf16_operations_per_second'] / 1e9:.0f}, "
        f"float32 {values['fp32_operations_per_second'] / 1e9:.0f})",
        described(manifest),
        f"{values['threads']} threads, {values['rounds']} rounds",
    ]
    return "\n".join(lines)


def _rate(label: str, tokens: int, values: dict[str, float], key: str) -> str:
    median, low, high = (values[f"{key}_tokens_per_second{end}"] for end in ("", "_min", "_max"))
    return f"{label} ({tokens}): {median:.0f} tokens/s ({low:.0f} … {high:.0f})"
