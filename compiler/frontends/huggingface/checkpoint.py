"""The weights of a folder: `model.safetensors`, or the shards that `model.safetensors.index.json` names.

Only headers are read; tensors are views of mapped files, so that opening a folder of any size costs next to
no memory. Pickled weights are never opened: unpickling runs whatever code the file holds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from intaglio.compiler.errors import ModelFileError, UnsupportedModelError
from intaglio.compiler.frontends.huggingface.arrays import Stored
from intaglio.compiler.frontends.huggingface.safetensors import SafetensorsFile, open_safetensors

WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.pth", "pytorch_model.pt")
OTHERS = ("tf_model.h5", "flax_model.msgpack", "model.ckpt.index", "rust_model.ot")


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a folder by the names they have there."""

    folder: Path
    tensors: Mapping[str, Stored]
    bytes: int  # of all its files

    @classmethod
    def open(cls, folder: Path) -> Checkpoint:
        """Map the files and check their tables.

        Raises `ModelFileError` that lists everything wrong with the files, and `UnsupportedModelError` where
        the weights are only there in a format that is not read.
        """
        weight_map = _weight_map(folder)
        names = sorted(set(weight_map.values()))
        opened = {name: _open(folder, name) for name in names}
        problems = [problem for one in opened.values() if isinstance(one, list) for problem in one]
        files = {name: one for name, one in opened.items() if isinstance(one, SafetensorsFile)}
        problems += _absent(weight_map, files)
        if problems:
            raise ModelFileError("\n  - ".join([f"checkpoint: {folder} is broken:", *problems]))
        return cls(folder, _tensors(weight_map, files), sum(len(one.data) for one in files.values()))


def _weight_map(folder: Path) -> dict[str, str]:
    """File names by tensor name; under an empty name, a file that holds whatever it holds."""
    if (folder / WHOLE).is_file():
        return {"": WHOLE}
    if (folder / INDEX).is_file():
        return _read_index(folder / INDEX)
    found = [name for name in (*PICKLED, *OTHERS) if (folder / name).is_file()]
    if found:
        raise UnsupportedModelError(
            f"checkpoint: {folder} has its weights only as {', '.join(found)}, which is never opened, since "
            "reading it may run code: convert it with `save_pretrained` of transformers to safetensors."
        )
    raise ModelFileError(f"checkpoint: {folder} holds neither {WHOLE} nor {INDEX}: there are no weights.")


def _read_index(path: Path) -> dict[str, str]:
    try:
        index: Any = json.loads(path.read_text("utf-8"))
        weight_map = index["weight_map"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelFileError(f"checkpoint: {path} is no index of shards ({error!r}).") from error
    sound = isinstance(weight_map, dict) and all(isinstance(name, str) for name in weight_map.values())
    if not sound or not weight_map:
        raise ModelFileError(f"checkpoint: {path}: weight_map must name a file for each tensor.")
    return dict(weight_map)


def _open(folder: Path, name: str) -> SafetensorsFile | list[str]:
    if Path(name).name != name:
        return [f"{name!r} is not the name of a file in the folder: shards lie beside their index"]
    if not (folder / name).is_file():
        return [f"{name} is missing"]
    return open_safetensors(folder / name)


def _absent(weight_map: Mapping[str, str], files: Mapping[str, SafetensorsFile]) -> list[str]:
    return [
        f"{shard} does not hold {name}, which the index places there"
        for name, shard in weight_map.items()
        if name and shard in files and name not in files[shard].entries
    ]


def _tensors(weight_map: Mapping[str, str], files: Mapping[str, SafetensorsFile]) -> dict[str, Stored]:
    """All tensors of all files; where two files hold one of the same name, the index says which counts."""
    tensors = {name: Stored(file, entry) for file in files.values() for name, entry in file.entries.items()}
    for name, shard in weight_map.items():
        if name:
            tensors[name] = Stored(files[shard], files[shard].entries[name])
    return tensors
