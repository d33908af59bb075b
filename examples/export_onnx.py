"""Export a compiled model, and run the file in onnxruntime, without Intaglio.

python examples/export_onnx.py build/model build/onnx
"""

from __future__ import annotations

import sys

import numpy as np
import onnxruntime

import intaglio


def main(folder: str, output: str) -> None:
    prompt = [1, 2, 3, 4]
    with intaglio.load(folder) as compiled:
        path = compiled.export(output, format="onnx")
        expected = int(compiled(prompt)[-1].argmax())

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    # The caches begin empty: `position` says how many of their entries count.
    inputs = {
        one.name: np.zeros([1, *one.shape[1:]], np.float32)
        for one in session.get_inputs()
        if one.name.startswith(("key_cache.", "value_cache."))
    }
    inputs |= {"input_ids": np.array([prompt], np.int64), "position": np.array([0], np.int64)}
    names = [one.name for one in session.get_outputs()]
    outputs = dict(zip(names, session.run(names, inputs), strict=True))
    print(f"next token: {outputs['logits'][0, -1].argmax()}, in the compiled model {expected}")


if __name__ == "__main__":
    main(*sys.argv[1:])
