"""Compile a model, generate with it in three ways, save it, open it again.

python examples/compile_and_generate.py model.gguf build/model
"""

from __future__ import annotations

import sys

import intaglio
from intaglio.compiler.continuation import GenerationOptions


def main(model: str, folder: str) -> None:
    workload = intaglio.Workload(prefill=64, decode=32)
    with intaglio.compile(model, target="cpu", workload=workload) as compiled:
        compiled.save(folder)

    with intaglio.load(folder) as compiled:
        # Greedy, whole.
        result = compiled.generate("The capital of France is", max_new_tokens=16)
        print(f"{result.text!r} ({result.reason} after {len(result.tokens)} tokens)")

        # Sampled, each piece as it comes.
        options = {"temperature": 0.8, "top_p": 0.95, "seed": 1}
        compiled.generate("Once upon a time", 24, stream=lambda piece: print(piece, end=""), **options)
        print()

        # A chat, as an iterator.
        messages = [{"role": "user", "content": "Name three colours."}]
        for piece in compiled.stream(messages, GenerationOptions(max_new_tokens=24)):
            print(piece, end="")
        print()

        # Logits [tokens, vocabulary], for anything else.
        print(compiled([1, 2, 3]).shape)


if __name__ == "__main__":
    main(*sys.argv[1:])
