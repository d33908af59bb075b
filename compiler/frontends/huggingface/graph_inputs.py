"""The inputs of models that are no decoders: which a model takes, of what shape and type."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch

from intaglio.compiler.errors import UnsupportedModelError

BATCH, SEQUENCE, DECODER_SEQUENCE, SAMPLES = "batch", "sequence", "decoder_sequence", "samples"
HEIGHT, WIDTH = "height", "width"
# Sizes of the traced examples; nothing in the graph depends on those that have a name.
EXAMPLE = {BATCH: 2, SEQUENCE: 7, DECODER_SEQUENCE: 5, SAMPLES: 4000, HEIGHT: 224, WIDTH: 224}


@dataclass(frozen=True)
class GraphInput:
    """One input."""

    dtype: torch.dtype
    shape: tuple[int | str, ...]  # a name stands for a size that may change
    longest: int | None = None  # tokens that the model has positions for

    def example(self) -> torch.Tensor:
        """A tensor without values."""
        sizes = [EXAMPLE[one] if isinstance(one, str) else one for one in self.shape]
        return torch.empty(sizes, dtype=self.dtype, device="meta")

    def dynamic(self) -> dict[int, str]:
        """Names of sizes by axis, with a bound where there is one."""
        bound = {axis: one for axis, one in enumerate(self.shape) if isinstance(one, str)}
        return {
            axis: f"{name} <= {self.longest}" if self._bounded(name) else name for axis, name in bound.items()
        }

    def _bounded(self, name: str) -> bool:
        return self.longest is not None and name in (SEQUENCE, DECODER_SEQUENCE)


def inputs_of(module: Any) -> dict[str, GraphInput]:
    """What `module`, of transformers, takes by name; raises `UnsupportedModelError` where that is unclear."""
    accepted = inspect.signature(module.forward).parameters
    main = module.main_input_name
    makers = {
        "input_ids": _text,
        "pixel_values": _image,
        "input_features": _features,
        "input_values": _samples,
    }
    problems = [] if main in makers else [f"its main input is {main!r}"]
    modalities = [one for one in makers if one in accepted]
    if len(modalities) > 1:
        problems.append(f"it takes several kinds of inputs: {', '.join(modalities)}")
    if problems:
        raise UnsupportedModelError(
            f"trace: {type(module).__name__} is of no kind that is traced from a folder: load it with "
            "transformers and give the module with example_inputs:",
            problems,
        )
    found: dict[str, GraphInput] = makers[main](module.config)
    return {name: one for name, one in found.items() if name in accepted}


def _text(config: Any) -> dict[str, GraphInput]:
    longest = getattr(config, "max_position_embeddings", None)
    sequence = GraphInput(torch.int64, (BATCH, SEQUENCE), longest)
    found = {"input_ids": sequence, "attention_mask": sequence}
    if (getattr(config, "type_vocab_size", None) or 0) > 1:
        found["token_type_ids"] = sequence
    if config.is_encoder_decoder:
        found["decoder_input_ids"] = GraphInput(torch.int64, (BATCH, DECODER_SEQUENCE), longest)
    return found


def _image(config: Any) -> dict[str, GraphInput]:
    size = getattr(config, "image_size", None) or (HEIGHT, WIDTH)
    if isinstance(size, dict):
        size = (size["height"], size["width"])
    height, width = size if isinstance(size, list | tuple) else (size, size)
    channels = getattr(config, "num_channels", 3)
    return {"pixel_values": GraphInput(torch.float32, (BATCH, channels, height, width))}


def _features(config: Any) -> dict[str, GraphInput]:
    # Whisper's convolutions halve the frames; its positions are a table of fixed length.
    frames = 2 * config.max_source_positions
    return {"input_features": GraphInput(torch.float32, (BATCH, config.num_mel_bins, frames))}


def _samples(config: Any) -> dict[str, GraphInput]:
    del config
    return {"input_values": GraphInput(torch.float32, (BATCH, SAMPLES))}
