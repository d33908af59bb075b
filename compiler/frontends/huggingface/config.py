"""`config.json` and `generation_config.json` of a folder, turned into transformers' own classes.

Nothing is downloaded, and code that a folder brings along (`auto_map`) is never run: the classes are those
that the installed transformers has for the config's `model_type`, or the folder is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING, CONFIG_MAPPING_NAMES
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
)

from intaglio.compiler.errors import ModelFileError, UnsupportedModelError

CONFIG = "config.json"
GENERATION = "generation_config.json"


@dataclass(frozen=True)
class FolderConfig:
    """What a folder says of its model."""

    folder: Path
    config: Any  # a transformers.PreTrainedConfig
    generation: Mapping[str, Any]  # of generation_config.json; empty where there is none

    @property
    def architectures(self) -> tuple[str, ...]:
        """Names of the classes the weights were saved from."""
        return tuple(self.config.architectures or ())


def read_config(folder: Path) -> FolderConfig:
    """The configs of `folder`.

    Raises `ModelFileError` that lists all files that cannot be read or make no sense, and
    `UnsupportedModelError` that lists all that the model asks for and that is not there: a type that
    transformers does not know, custom code, weights in a quantised format.
    """
    broken: list[str] = []
    data = _read(folder / CONFIG, broken) if (folder / CONFIG).is_file() else None
    if data is None and not broken:
        broken.append(f"{CONFIG} is missing")
    generation = _read(folder / GENERATION, broken) if (folder / GENERATION).is_file() else {}
    if data is not None and not broken:
        _check_supported(folder, data)
    config = _build(data, broken) if data is not None and not broken else None
    if broken:
        raise ModelFileError("\n  - ".join([f"config: {folder} is broken:", *broken]))
    return FolderConfig(folder, config, generation or {})


def causal_class(config: Any, architectures: tuple[str, ...] | None = None) -> Any | None:
    """The causal language model class for `config`; none where `architectures` name another kind."""
    if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return None
    known = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config.model_type]
    names = {known} if isinstance(known, str) else set(known)
    given = config.architectures if architectures is None else architectures
    if given and not names & set(given):
        return None
    return MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]


def _read(path: Path, broken: list[str]) -> dict[str, Any] | None:
    """The object in a JSON file; where that fails, why is appended to `broken`."""
    try:
        data = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        broken.append(f"{path.name} is not JSON ({error})")
        return None
    if not isinstance(data, dict):
        broken.append(f"{path.name} holds {type(data).__name__}, not an object")
        return None
    return data


def _check_supported(folder: Path, data: Mapping[str, Any]) -> None:
    kind = data.get("model_type")
    problems = []
    if kind not in CONFIG_MAPPING_NAMES and "auto_map" in data:
        problems.append(
            f"model_type {kind!r} is defined by code of the folder's own ({_custom(data)}); custom code is "
            "never run: convert the weights to a model that transformers knows"
        )
    elif kind not in CONFIG_MAPPING_NAMES:
        problems.append(f"model_type {kind!r} is not known to transformers {transformers.__version__}")
    if quantization := data.get("quantization_config"):
        method = quantization.get("quant_method") if isinstance(quantization, dict) else quantization
        problems.append(
            f"its weights are quantised by {method!r}, which is not read: give the model in floating point"
        )
    if problems:
        raise UnsupportedModelError(f"config: {folder} cannot be compiled:", problems)


def _custom(data: Mapping[str, Any]) -> str:
    classes = data["auto_map"]
    named = classes.values() if isinstance(classes, dict) else [classes]
    return ", ".join(map(str, named))


def _build(data: Mapping[str, Any], broken: list[str]) -> Any:
    kind = data["model_type"]
    if kind == "mistral" and "layer_types" in data:
        kind = "ministral"  # as AutoConfig does it
    plain = {key: value for key, value in data.items() if key not in ("auto_map", "model_type")}
    try:
        return CONFIG_MAPPING[kind].from_dict(plain)
    except Exception as error:  # validators of transformers raise many kinds
        broken.append(f"{CONFIG} makes no {kind} config ({type(error).__name__}: {error})")
        return None
