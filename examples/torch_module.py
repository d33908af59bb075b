"""Compile a PyTorch module, call it like the module, with any batch, and compare.

python examples/torch_module.py build/classifier
"""

from __future__ import annotations

import sys

import torch

import intaglio


def main(folder: str) -> None:
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, stride=2),
        torch.nn.BatchNorm2d(8),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(8, 10),
    ).eval()
    # One example tells types and sizes; sizes with a name may change from call to call.
    example = torch.zeros(1, 3, 32, 32)
    images = torch.rand(5, 3, 32, 32)

    with intaglio.compile(module, example_inputs=(example,), dynamic_shapes=[{0: "batch"}]) as compiled:
        result = compiled(images)
        compiled.save(folder)

    with torch.no_grad():
        difference = (result - module(images)).abs().max()
    print(f"{list(result.shape)}, largest difference below 1e-4: {bool(difference < 1e-4)}")


if __name__ == "__main__":
    main(sys.argv[1])
