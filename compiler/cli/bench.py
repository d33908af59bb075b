"""Measure the speed of a compiled model, and how near it comes to the machine's ceilings."""

from __future__ import annotations

import argparse

from intaglio.compiler.cli.common import add_json, add_model, opened, show


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_model(parser)
    parser.add_argument(
        "--prefill", type=int, metavar="N", help="tokens of the prompt (default: as compiled for)"
    )
    parser.add_argument("--decode", type=int, metavar="N", help="tokens generated (default: as compiled for)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="default: 5")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Measure and print."""
    with opened(options) as compiled:
        measured = compiled.bench(options.prefill, options.decode, options.rounds)
    values = measured.to_json()
    lines = [
        _rate("prefill", measured.options.prefill, values, "prefill"),
        _rate("decode after 32 tokens", measured.options.decode, values, "decode"),
        _rate("decode after the prefill", measured.options.decode, values, "decode_after_prefill"),
        f"decode reads {values['bytes_per_token'] / 1e6:.1f} MB of weights per token, "
        f"{values['bandwidth_fraction']:.0%} of the "
        f"{values['read_bandwidth_bytes_per_second'] / 1e9:.1f} GB/s there are",
        f"prefill does {values['compute_fraction']:.0%} of the "
        f"{values['int8_operations_per_second'] / 1e9:.0f} billion 8-bit operations per second there are",
        f"{measured.threads} threads, {measured.options.rounds} rounds",
    ]
    show(options, values, "\n".join(lines))
    return 0


def _rate(label: str, tokens: int, values: dict[str, float], key: str) -> str:
    median, low, high = (values[f"{key}_tokens_per_second{end}"] for end in ("", "_min", "_max"))
    return f"{label} ({tokens}): {median:.0f} tokens/s ({low:.0f} … {high:.0f})"
