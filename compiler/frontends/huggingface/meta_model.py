"""A model without memory: built on the meta device from its config, with the buffers it computes."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from intaglio.compiler.errors import UnsupportedModelError


@dataclass(frozen=True)
class MetaModel:
    """A module whose tensors have shapes only, and the values of the buffers that no checkpoint holds."""

    module: torch.nn.Module  # on the meta device, in float32, in eval mode
    buffers: Mapping[str, NDArray[np.generic]]  # rotary frequencies, embedding scales and the like


def build_on_meta(model_class: Any, config: Any, **implementations: str) -> MetaModel:
    """The model of `config`, which is not changed; `implementations` are for transformers' `_from_config`.

    Raises `UnsupportedModelError` where the class refuses them or the config.
    """
    try:
        with torch.device("meta"):
            module = model_class._from_config(copy.deepcopy(config), dtype=torch.float32, **implementations)
    except (KeyError, ValueError) as error:  # some classes look implementations up in a table of their own
        wanted = ", ".join(f"{name} {value!r}" for name, value in implementations.items())
        raise UnsupportedModelError(
            f"trace: {model_class.__name__} cannot be built with {wanted}, which it must allow "
            f"({type(error).__name__}: {error})."
        ) from error
    module.eval()
    return MetaModel(module, _computed_buffers(module))


def _computed_buffers(module: Any) -> dict[str, NDArray[np.generic]]:
    """Values of the buffers outside the state dict, initialised as transformers does it when loading."""
    owners = {
        f"{path}.{name}".lstrip("."): (owner, name)
        for path, owner in module.named_modules(remove_duplicate=False)
        for name in owner._non_persistent_buffers_set
        if owner._buffers.get(name) is not None
    }
    shapes = {full: owner._buffers[name] for full, (owner, name) in owners.items()}
    for owner, name in owners.values():
        owner._buffers[name] = torch.zeros_like(owner._buffers[name], device="cpu")
    with torch.no_grad():
        module.initialize_weights()
    values = {full: owner._buffers[name].numpy() for full, (owner, name) in owners.items()}
    for full, (owner, name) in owners.items():
        owner._buffers[name] = shapes[full]
    return values
