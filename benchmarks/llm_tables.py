"""The result of a race as Markdown."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from paired import Spread, markdown, ratio_of

LABELS = {
    "llama_q4_0": "llama.cpp, Q4_0 (re-quantised), C API",
    "llama_file": "llama.cpp, the file as it is, C API",
    "genai": "onnxruntime-genai, int4 (re-quantised)",
    "openvino": "OpenVINO GenAI, from the GGUF",
    "torch": "torch eager, bfloat16",
    "torch_compile": "torch.compile, bfloat16",
}
CEILINGS = {
    "read_bytes_per_second": "GB/s read",
    "int8_operations_per_second": "GOPS of 8-bit products",
    "bf16_operations_per_second": "GFLOPS of bfloat16 products",
    "fp32_operations_per_second": "GFLOPS of float32 products",
}
BUSY = 0.02  # of a processor while others run: more is told


def machine() -> dict[str, str]:
    """What it was measured on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = f"{models[0]}, {len(models)} processors" if models else platform.processor()
    return {"processor": name, "python": platform.python_version(), "intaglio": metadata.version("intaglio")}


def page(result: Mapping[str, Any]) -> str:
    """Everything that people read."""
    parts = [f"{result['machine']['processor']}; Intaglio {result['machine']['intaglio']}."]
    if result["quality"]:
        parts.append(quality(result["quality"]))
    for race in result["races"]:
        parts += race_parts(race)
    return "\n\n".join(parts)


def quality(found: Mapping[str, Any]) -> str:
    """How far ours are from the dequantised original."""
    rows = [
        [name, str(one["tokens"]), f"{one['kl']:.4f}", f"{one['top1_agreement']:.1%}"]
        for name, one in found.items()
    ]
    return markdown(["against the original", "tokens", "KL, nats per token", "same likeliest token"], rows)


def race_parts(race: Mapping[str, Any]) -> Iterator[str]:
    """One number of threads."""
    yield f"## {race['threads']} thread{'s' if race['threads'] > 1 else ''}, {len(race['rounds'])} rounds"
    yield ceilings(race)
    yield rates(race)
    yield from best_rivals(race)
    yield profile(race)
    yield said(race)
    if race["skipped"]:
        yield f"Skipped: {skipped(race['skipped'])}."
    busy = [f"{name} {share:.0%}" for name, share in race["idle_share"].items() if share > BUSY]
    if busy:
        yield f"Used a processor while others ran: {', '.join(busy)}."


def ceilings(race: Mapping[str, Any]) -> str:
    """What the machine could do, over the rounds."""
    cells = []
    for name, unit in CEILINGS.items():
        found = Spread.of([one["ceilings"][name] / 1e9 for one in race["rounds"]])
        cells.append(f"{found.median:.0f} [{found.least:.0f} – {found.most:.0f}] {unit}")
    return f"Ceilings: {', '.join(cells)}."


def rates(race: Mapping[str, Any]) -> str:
    """Tokens per second; of ours the share of the ceiling, of rivals how many times faster ours is."""
    figures, first = race["figures"], race["ours"][0]
    rows = []
    for name in race["rounds"][0]["rates"]:
        cells = [spread(race, name, figure) for figure in figures]
        if name in race["ours"]:
            rows.append([name, *cells])
            rows.append(["… of its ceiling", *(share(race, name, figure) for figure in figures)])
        else:
            rows.append([LABELS.get(name, name), *(against(race, first, name, figure) for figure in figures)])
    return markdown(["tokens per second", *figures], rows)


def column(race: Mapping[str, Any], name: str, figure: str) -> list[float]:
    """The rounds' rates of one contestant."""
    return [one["rates"][name][figure] for one in race["rounds"] if figure in one["rates"][name]]


def spread(race: Mapping[str, Any], name: str, figure: str) -> str:
    values = column(race, name, figure)
    if not values:
        return "–"
    found = Spread.of(values)
    return f"{found.median:.0f} [{found.least:.0f} – {found.most:.0f}]"


def share(race: Mapping[str, Any], name: str, figure: str) -> str:
    shares = [one["rates"][name][figure] / one["limits"][name][figure] for one in race["rounds"]]
    found = Spread.of(shares)
    return f"{found.median:.0%} [{found.least:.0%} – {found.most:.0%}]"


def against(race: Mapping[str, Any], ours: str, name: str, figure: str) -> str:
    theirs = column(race, name, figure)
    return f"{spread(race, name, figure)}, {ratio_of(column(race, ours, figure), theirs)}" if theirs else "–"


def best_rivals(race: Mapping[str, Any]) -> Iterator[str]:
    """Per figure, the fastest rival by its median, and every one of ours against it."""
    rivals = [name for name in race["rounds"][0]["rates"] if name not in race["ours"]]
    if not rivals:
        return
    rows = []
    for figure in race["figures"]:
        medians = {name: Spread.of(found).median for name in rivals if (found := column(race, name, figure))}
        if not medians:
            continue
        best = max(medians, key=lambda name: medians[name])
        ratios = [
            str(ratio_of(column(race, one, figure), column(race, best, figure))) for one in race["ours"]
        ]
        rows.append([figure, LABELS.get(best, best), *ratios])
    yield markdown(["", "best rival", *race["ours"]], rows)


def profile(race: Mapping[str, Any]) -> str:
    """Where a prompt's time goes, and how near its matrix products come to the peak."""
    rows = []
    for name in race["ours"]:
        profiles = [one["profiles"][name]["seconds"] for one in race["rounds"]]
        kinds = sorted({kind for one in profiles for kind in one})
        times = {kind: Spread.of([one.get(kind, 0.0) for one in profiles]).median for kind in kinds}
        peaks = [
            one["matrix_rates"][name] / one["ceilings"]["int8_operations_per_second"]
            for one in race["rounds"]
        ]
        cells = (f"{kind} {seconds * 1e3:.1f} ms" for kind, seconds in sorted(times.items()))
        tokens = race["rounds"][0]["profiles"][name]["tokens"]
        rows.append([name, str(tokens), ", ".join(cells), f"{Spread.of(peaks).median:.0%}"])
    return markdown(["prompt", "tokens", "time", "matrix products, of the 8-bit peak"], rows)


def said(race: Mapping[str, Any]) -> str:
    """What each says after the same words."""
    rows = [[LABELS.get(name, name), escaped(one["text"])] for name, one in race["said"].items()]
    return markdown([f"after “{next(iter(race['said'].values()))['prompt']}”", ""], rows)


def skipped(reasons: Mapping[str, str]) -> str:
    """Rivals that did not run, those with the same reason together."""
    names: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        names.setdefault(reason.splitlines()[0].removeprefix(f"{name}: "), []).append(name)
    return "; ".join(f"{', '.join(those)} ({reason})" for reason, those in names.items())


def escaped(text: str) -> str:
    """In one cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")
