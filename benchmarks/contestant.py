"""One contestant in a process of its own: reads requests from standard input, answers on standard output.

    python benchmarks/contestant.py NAME OPTIONS

NAME is for people. OPTIONS is a JSON object: `kind`, which is "intaglio", a key of `rivals.RIVALS` or of
`graph_contestants.CONTESTANTS`, and what that class takes. See `contestants.py` for the lines. What native
libraries print goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, TextIO

PROMPT = "The capital of France is"
CONTINUATION = 24  # tokens
REQUESTS = (
    *("time", "time_batch", "facts", "ceilings", "profile", "quality"),  # of language models
    *("outputs", "time_calls", "account"),  # of graphs
)


def make(kind: str, options: Mapping[str, Any]) -> Any:
    """A contestant of this kind."""
    if kind == "intaglio":
        from ours import Intaglio

        return Intaglio(**options)
    from graph_contestants import CONTESTANTS
    from rivals import RIVALS

    return {**CONTESTANTS, **RIVALS}[kind](**options)


def say(contestant: Any) -> dict[str, Any]:
    """What it says after a fixed prompt: one that computes nonsense must not be compared with."""
    prompt = contestant.encode(PROMPT)
    tokens = [int(token) for token in contestant.complete(prompt, CONTINUATION)]
    return {"prompt": PROMPT, "tokens": tokens, "text": contestant.decode(tokens)}


def requests(contestant: Any) -> dict[str, Callable[..., Any]]:
    """What can be asked of this one, by name."""
    known = {name: getattr(contestant, name) for name in REQUESTS if hasattr(contestant, name)}
    return known | {"say": lambda: say(contestant)}


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
        options = json.loads(sys.argv[2])
        contestant = make(options.pop("kind"), options)
    except ImportError as error:
        write(answers, {"error": f"not installed ({error})"})
        return
    write(answers, {"answer": "ready"})
    serve(contestant, sys.stdin, answers)


if __name__ == "__main__":
    main()
