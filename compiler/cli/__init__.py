"""The command line: `intaglio compile | run | bench | evaluate | explain | report | export | doctor`.

Each command is a module with `add` (its arguments) and `run` (its work, giving the exit status). Errors of
Intaglio's own end in one message on standard error and status 2; any other is a bug and shows itself.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from intaglio.compiler.cli import bench, compile, doctor, evaluate, explain, export, report, run
from intaglio.compiler.errors import IntaglioError

COMMANDS: tuple[ModuleType, ...] = (compile, run, bench, evaluate, explain, report, export, doctor)
REFUSED, INTERRUPTED = 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command in `arguments` (left out: those of the process); the exit status."""
    options = parser().parse_args(arguments)
    try:
        status: int = options.run(options)
        sys.stdout.flush()
        return status
    except IntaglioError as error:
        print(f"error: {error}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader has gone; keep the interpreter from complaining when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return REFUSED


def parser() -> argparse.ArgumentParser:
    """All commands with their arguments."""
    whole = argparse.ArgumentParser(
        prog="intaglio",
        description="Compiles neural networks for the machine at hand.",
    )
    commands = whole.add_subparsers(required=True, metavar="COMMAND", parser_class=_CommandParser)
    for command in COMMANDS:
        name, summary = command.__name__.rpartition(".")[2], (command.__doc__ or "").splitlines()[0]
        one = commands.add_parser(name, help=summary, description=summary)
        command.add(one)
        one.set_defaults(run=command.run)
    return whole


class _CommandParser(argparse.ArgumentParser):
    """Takes options before a positional argument that may be left out, as in `run DIR --threads 1 PROMPT`."""

    _intermixed = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self._intermixed:  # what is below calls this again
            return super().parse_known_args(args, namespace)
        self._intermixed = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._intermixed = False
