"""Compile a folder as `save_pretrained` of transformers writes it.

python examples/huggingface_folder.py path/to/SmolLM2-135M-Instruct

Nothing is downloaded, and no code that the folder brings is run. The folder holds `config.json`,
`model.safetensors` (or shards and their index), and `tokenizer.json` for text.
"""

from __future__ import annotations

import sys

import intaglio


def main(folder: str) -> None:
    workload = intaglio.Workload(prefill=64, decode=32)
    with intaglio.compile(folder, target="cpu", workload=workload) as compiled:
        result = compiled.generate("The capital of France is", max_new_tokens=16)
        print(f"{result.text!r} ({result.reason} after {len(result.tokens)} tokens)")


if __name__ == "__main__":
    main(sys.argv[1])
