"""Races compiled graphs against onnxruntime in float32 on the original files.

    python benchmarks/cpu_graphs.py --rounds 15 --json graphs.json

Of each model of `graph_cases.py` that is installed: ours are compiled for its inputs, their outputs are
compared with onnxruntime's, then all take turns. Prints Markdown, and writes everything as JSON into the file
of --json.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import graph_race
from contestants import Contestant, ContestantError, run_script, started, tell
from graph_cases import CASES
from graph_tables import OURS, THEIRS, page
from llm_tables import machine


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.add_argument("--models", nargs="*", choices=CASES, default=list(CASES), metavar="NAME")
    made.add_argument("--onnx", type=Path, help="a file instead, with --calls")
    made.add_argument("--calls", type=Path, help="a folder of call-0.npz, call-1.npz, … with its inputs")
    made.add_argument(
        "--quality",
        type=float,
        default=0.005,
        help="what a second version may lose of cosine or top-1 agreement; 0: exact ones alone",
    )
    made.add_argument("--rounds", type=int, default=15)
    made.add_argument("--seconds", type=float, default=0.2, help="of each contestant in each round")
    made.add_argument("--threads", type=int, default=2)
    made.add_argument("--json", type=Path, help="the file for everything that was measured")
    return made


def prepared(options: argparse.Namespace, name: str, folder: Path) -> tuple[str, Path, str]:
    """ONNX file, folder of inputs and measure of a case. Raises `ContestantError`."""
    if options.onnx:
        return str(options.onnx), options.calls, "cosine"
    return run_script(sys.executable, "graph_cases.py", [name, str(folder)]), folder, CASES[name].measure


def versions(quality: float) -> dict[str, list[str]]:
    """Ours by name, with the options of compiling them."""
    exact: dict[str, list[str]] = {OURS: []}
    return exact | ({f"{OURS}, {quality:.1%} less": ["--quality", str(quality)]} if quality else {})


def race(options: argparse.Namespace, path: str, calls: Path, measure: str, folder: Path) -> dict[str, Any]:
    """One case. Raises `ContestantError` where onnxruntime or the exact one of ours cannot run."""
    made, failed = compiled(options, path, calls, folder)
    common = {"calls": str(calls), "threads": options.threads}
    kinds = {THEIRS: ("onnxruntime", path)} | {name: ("compiled", one) for name, one in made.items()}
    wanted = {
        name: (sys.executable, {"kind": kind, "path": one, **common}) for name, (kind, one) in kinds.items()
    }
    with started(wanted) as found:
        failed |= {name: one for name, one in found.items() if isinstance(one, str)}
        if lost := [failed[name] for name in (THEIRS, OURS) if name in failed]:
            raise ContestantError("\n".join(lost))
        running = {name: one for name, one in found.items() if isinstance(one, Contestant)}
        checks = graph_race.check(running, folder, measure, options.quality)
        rounds = graph_race.rounds(running, options.rounds, options.seconds)
        return {
            "inputs": graph_race.shapes(calls),
            "checks": checks,
            "rounds": rounds,
            "failed": failed,
            "accounts": {name: one.ask("account") for name, one in running.items() if name != THEIRS},
            "idle_share": {name: one.idle_share for name, one in running.items()},
        }


def compiled(
    options: argparse.Namespace, path: str, calls: Path, folder: Path
) -> tuple[dict[str, str], dict[str, str]]:
    """Folders of ours by name; and by name, why there is none."""
    made, failed = {}, {}
    for name, rest in versions(options.quality).items():
        target = str(folder / f"compiled-{len(made)}")
        arguments = [path, target, "--calls", str(calls), "--threads", str(options.threads), *rest]
        try:
            run_script(sys.executable, "graph_contestants.py", arguments)
            made[name] = target
        except ContestantError as error:
            failed[name] = str(error)
    return made, failed


def race_all(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All cases; those that cannot run, with the reason."""
    result: dict[str, Any] = {"machine": machine(), "threads": options.threads, "cases": {}, "skipped": {}}
    names = [options.onnx.name] if options.onnx else options.models
    for name in names:
        tell(name)
        try:
            case = prepared(options, name, fresh(folder))
            result["cases"][name] = race(options, *case, fresh(folder))
        except ContestantError as error:
            result["skipped"][name] = str(error)
    return result


def fresh(folder: Path) -> Path:
    """A new folder in `folder`."""
    return Path(tempfile.mkdtemp(dir=folder))


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    if (options.onnx is None) != (options.calls is None):
        parser().error("--onnx and --calls belong together")
    with tempfile.TemporaryDirectory(prefix="intaglio-") as folder:
        result = race_all(options, Path(folder))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    print(page(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
