"""Continue several prompts together, and see what rows of a batch or a draft cost.

python examples/batches.py model.gguf
"""

from __future__ import annotations

import sys

import intaglio

PROMPTS = ("The capital of France is", "Once upon a time", "2 + 2 =", "def main():", "Water boils at")


def main(model: str) -> None:
    workload = intaglio.Workload(prefill=64, decode=32, batch=3)
    with intaglio.compile(model, workload=workload) as compiled:
        # Five prompts over three slots: whoever ends makes room for the next.
        for prompt, result in zip(PROMPTS, compiled.generate_many(PROMPTS, max_new_tokens=12), strict=True):
            print(f"{prompt!r} … {result.text!r}")

        # v(M), measured when the model was compiled: sequences up to 3, tokens of one sequence beyond.
        for rows, cost in compiled.manifest.batch_cost.items():
            print(f"{rows:>2} rows cost {cost:.2f} times as much as one: {cost / int(rows):.2f} each")

        # The slots themselves: prompts of any length into each, then a token for each in one step.
        sequences = compiled.session.sequences
        for slot, tokens in enumerate(([5, 6, 7], [8, 9])):
            sequences.reset(slot)
            sequences.extend(slot, tokens)
        print(sequences.extend_many({0: 10, 1: 11}).shape, sequences.positions)


if __name__ == "__main__":
    main(*sys.argv[1:])
