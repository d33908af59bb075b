"""Compile an ONNX file, call it with inputs by name, and compare with onnxruntime on the file itself.

python examples/onnx_file.py model.onnx build/model
"""

from __future__ import annotations

import sys

import numpy as np
import onnxruntime

import intaglio


def main(model: str, folder: str) -> None:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    # Sizes that the file leaves open have a name instead of a number: here they are 2.
    inputs = {
        one.name: np.ones([size if isinstance(size, int) else 2 for size in one.shape], np.float32)
        for one in session.get_inputs()
    }
    expected = dict(zip((one.name for one in session.get_outputs()), session.run(None, inputs), strict=True))

    with intaglio.compile(model) as compiled:
        results = compiled(inputs)
        compiled.save(folder)

    for name, result in results.items():
        print(f"{name}: {list(result.shape)}, largest difference {np.abs(result - expected[name]).max():.1e}")


if __name__ == "__main__":
    main(*sys.argv[1:])
