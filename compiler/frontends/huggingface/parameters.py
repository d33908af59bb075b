"""Which tensor of a checkpoint is which parameter of a module: names, layouts, ties and shapes.

Source of the rules: `convert_and_load_state_dict_in_model` of transformers, which `from_pretrained` uses.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
)

from intaglio.compiler.errors import ModelFileError
from intaglio.compiler.frontends.huggingface.arrays import Array
from intaglio.compiler.frontends.huggingface.checkpoint import Checkpoint
from intaglio.compiler.frontends.huggingface.conversions import converted

# Buffers that old versions of transformers saved and new ones compute.
HARMLESS = re.compile(
    r"(rotary_emb\.inv_freq|\.attn\.(masked_)?bias|\.attention\.(masked_)?bias|\.position_ids|\.rotary_emb\..*)$"
)

_ROWS = 1024  # of two tables that are compared


@dataclass
class _Found:
    """What the checkpoint gives for the module, and what is wrong with it."""

    arrays: dict[str, Array] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)


def parameters_for(module: torch.nn.Module, checkpoint: Checkpoint) -> dict[str, Array]:
    """Every entry of the `state_dict` of `module`, which may be on the meta device, by name.

    Tied parameters share one `Array`; where the checkpoint holds two of different content for a tie, each
    keeps its own, as in transformers. Raises `ModelFileError` that lists all tensors that are missing, have
    another shape, or belong to nothing.
    """
    expected = module.state_dict(keep_vars=True)
    found = _find(module, checkpoint, expected)
    _tie(found.arrays, expected)
    problems = [*found.problems, *_missing(found.arrays, expected), *_misshapen(found.arrays, expected)]
    problems += [
        f"{name} belongs to no parameter" for name in found.unexpected if not _harmless(module, name)
    ]
    if problems:
        head = f"checkpoint: {checkpoint.folder} does not fit {type(module).__name__}:"
        raise ModelFileError("\n  - ".join([head, *problems]))
    return {name: found.arrays[name] for name in expected}


def _find(module: torch.nn.Module, checkpoint: Checkpoint, expected: Mapping[str, torch.Tensor]) -> _Found:
    known = isinstance(module, PreTrainedModel)
    mapping = get_model_conversion_mapping(module) if known else []
    renamings = [one for one in mapping if isinstance(one, WeightRenaming)]
    converters = [one for one in mapping if isinstance(one, WeightConverter)]
    prefix = module.base_model_prefix if known else ""
    found = _Found()
    collected: dict[tuple[str, int], dict[str, list[Array]]] = defaultdict(lambda: defaultdict(list))
    for name in sorted(checkpoint.tensors, key=dot_natural_key):
        target, pattern = rename_source_key(name, renamings, converters, prefix, expected)
        if target not in expected and name in expected:
            target, pattern = name, None
        if target not in expected:
            found.unexpected.append(name)
        elif pattern is None:
            found.arrays[target] = checkpoint.tensors[name]
        else:
            which = next(i for i, one in enumerate(converters) if pattern in one.source_patterns)
            collected[target, which][pattern].append(checkpoint.tensors[name])
    for (target, which), arrays in collected.items():
        _convert(converters[which], target, arrays, expected, found)
    return found


def _convert(
    converter: Any,
    target: str,
    arrays: Mapping[str, list[Array]],
    expected: Mapping[str, torch.Tensor],
    found: _Found,
) -> None:
    """Put what `converter` makes into `found`; `target` is named after its first target pattern."""
    first, *_ = patterns = converter.target_patterns
    names = {pattern: target.replace(first, pattern) for pattern in patterns}
    axis = next((one.dim for one in converter.operations if hasattr(one, "dim")), 0)
    sizes = {one: expected[name].shape[axis] for one, name in names.items() if name in expected}
    result = converted(converter, arrays, sizes)
    if isinstance(result, str):
        found.problems.append(f"{target}: {result}")
    else:
        found.arrays.update({names[pattern]: array for pattern, array in result.items()})


def _tie(arrays: dict[str, Array], expected: Mapping[str, torch.Tensor]) -> None:
    groups: dict[int, list[str]] = defaultdict(list)
    for name, tensor in expected.items():
        groups[id(tensor)].append(name)
    for names in groups.values():
        present = [arrays[name] for name in names if name in arrays]
        if present and all(_equal(present[0], other) for other in present[1:]):
            arrays.update(dict.fromkeys(names, present[0]))


def _equal(one: Array, other: Array) -> bool:
    if one is other or (one.shape, one.dtype) != (other.shape, other.dtype):
        return one is other
    left, right = np.atleast_1d(one.read()), np.atleast_1d(other.read())
    starts = range(0, len(left), _ROWS)  # comparing takes memory of its own
    return all(np.array_equal(left[i : i + _ROWS], right[i : i + _ROWS]) for i in starts)


def _missing(arrays: Mapping[str, Array], expected: Iterable[str]) -> list[str]:
    return [f"{name} is missing" for name in expected if name not in arrays]


def _misshapen(arrays: Mapping[str, Array], expected: Mapping[str, torch.Tensor]) -> list[str]:
    problems = []
    for name, tensor in expected.items():
        array = arrays.get(name)
        if array is None:
            continue
        if array.shape != tuple(tensor.shape):
            problems.append(
                f"{name} has the shape {list(array.shape)}, the config asks for {list(tensor.shape)}"
            )
        elif array.dtype.is_floating_point() != tensor.is_floating_point():
            problems.append(f"{name} has the dtype {array.dtype.name}, the module's is {tensor.dtype}")
    return problems


def _harmless(module: torch.nn.Module, name: str) -> bool:
    ignored = getattr(module, "_keys_to_ignore_on_load_unexpected", None) or ()
    return bool(HARMLESS.search(name)) or any(re.search(pattern, name) for pattern in ignored)
