"""Compile an ONNX file with integer arithmetic where that is faster and loses at most half a percent.

python examples/quantized_graph.py model.onnx inputs.npy

`inputs.npy` holds inputs for a model of one input, at least eight, one below the other.
"""

from __future__ import annotations

import sys

import numpy as np

import intaglio


def main(model: str, inputs: str) -> None:
    calls = [one[np.newaxis] for one in np.load(inputs)]
    with intaglio.compile(model, quality=0.005, calibration=calls) as compiled:
        print("kept:", compiled.manifest.partition["kept"])
        for one in compiled.manifest.account.applied:
            if one.certificate is not None and one.site == "model":
                print(f"{one.certificate.check}: {one.certificate.error:.5f} of {one.certificate.tolerance}")


if __name__ == "__main__":
    main(*sys.argv[1:3])
