"""One contestant in a process of its own: reads requests from standard input, answers on standard output.

    python benchmarks/contestant.py NAME OPTIONS

NAME is a key of `rivals.RIVALS`, or begins with "intaglio"; OPTIONS is a JSON object: `forms` (paths),
`threads`, `capacity` (tokens). See `contestants.py` for the lines. What native libraries print goes to
standard error.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, TextIO

PROMPT = "The capital of France is"
CONTINUATION = 24  # tokens


def make(name: str, options: Mapping[str, Any]) -> Any:
    """The contestant called `name`."""
    if name.startswith("intaglio"):
        from ours import Intaglio

        return Intaglio(**options)
    from rivals import RIVALS

    return RIVALS[name](**options)


def say(contestant: Any) -> dict[str, Any]:
    """What it says after a fixed prompt: one that computes nonsense must not be compared with."""
    prompt = contestant.encode(PROMPT)
    tokens = [int(token) for token in contestant.complete(prompt, CONTINUATION)]
    return {"prompt": PROMPT, "tokens": tokens, "text": contestant.decode(tokens)}


def requests(contestant: Any) -> dict[str, Callable[..., Any]]:
    """What can be asked, by name; of ours more than of rivals."""
    common = {"say": lambda: say(contestant), "time": contestant.time}
    own = ("facts", "ceilings", "profile", "quality", "time_batch")
    return common | {name: getattr(contestant, name) for name in own if hasattr(contestant, name)}


def serve(contestant: Any, source: TextIO, answers: TextIO) -> None:
    """Answer until the source ends."""
    known = requests(contestant)
    for line in source:
        message = json.loads(line)
        write(answers, {"answer": known[message.pop("do")](**message)})


def write(answers: TextIO, message: Mapping[str, Any]) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()


def main() -> None:
    # Native libraries print to descriptor 1, which from here on is standard error.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        contestant = make(sys.argv[1], json.loads(sys.argv[2]))
    except ImportError as error:
        write(answers, {"error": f"not installed ({error})"})
        return
    write(answers, {"answer": "ready"})
    serve(contestant, sys.stdin, answers)


if __name__ == "__main__":
    main()
