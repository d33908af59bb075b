"""Which module of a folder is compiled as a graph, on the meta device, and with what around it."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_MAPPING

from intaglio.compiler.errors import UnsupportedModelError
from intaglio.compiler.frontends.huggingface.config import FolderConfig

WRAPPED = "decoder"  # where the model is inside `PaddedDecoder`


class PaddedDecoder(torch.nn.Module):
    """A causal language model over padded batches: positions count the real tokens of each sequence."""

    main_input_name = "input_ids"

    def __init__(self, decoder: Any) -> None:
        super().__init__()
        self.decoder = decoder
        self.config = decoder.config
        self.takes_positions = "position_ids" in inspect.signature(decoder.forward).parameters

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """int64 `[batch, sequence]`, the mask 1 for real tokens → logits `[batch, sequence, vocabulary]`."""
        positions = (attention_mask.cumsum(-1) - 1).clamp(min=0)
        places = {"position_ids": positions} if self.takes_positions else {}
        result = self.decoder(input_ids=input_ids, attention_mask=attention_mask, use_cache=False, **places)
        return {"logits": result.logits}


@dataclass(frozen=True)
class Part:
    """What is exported: a part of a model, or the model and something around it."""

    module: Any
    inside: str = ""  # path of the exported module in the model
    around: str = ""  # path of the model in the exported module

    def name(self, whole: str) -> str | None:
        """What the model's parameter `whole` is called in the exported module, if it is there."""
        if self.inside and not whole.startswith(f"{self.inside}."):
            return None
        own = whole.removeprefix(f"{self.inside}.") if self.inside else whole
        return f"{self.around}.{own}" if self.around else own


def class_of(folder: FolderConfig) -> Any:
    """The class that the folder's weights were saved from; without a word on that, the family's base model.

    Only classes of the installed transformers that fit the config are taken.
    """
    for name in folder.architectures:
        found = getattr(transformers, name, None)
        if _fits(found, folder.config):
            return found
    if folder.architectures or type(folder.config) not in MODEL_MAPPING:
        named = ", ".join(folder.architectures) or "none"
        raise UnsupportedModelError(
            f"trace: {folder.folder} cannot be compiled:",
            [f"its architectures ({named}) are no models of {type(folder.config).__name__} in transformers"],
        )
    return MODEL_MAPPING[type(folder.config)]


def _fits(found: Any, config: Any) -> bool:
    is_model = isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)
    return is_model and isinstance(config, getattr(found, "config_class", None) or ())


def part_of(model: Any, padded: bool) -> Part:
    """What of `model` is compiled: the encoder of one that listens or sees and writes, else all of it.

    With `padded`, a causal language model with positions that skip padding.
    """
    if padded:
        return Part(PaddedDecoder(model).eval(), around=WRAPPED)
    if not model.config.is_encoder_decoder or model.main_input_name == "input_ids":
        return Part(model)
    encoder = model.get_encoder()
    paths = {id(one): path for path, one in model.named_modules()}
    return Part(encoder, inside=paths[id(encoder)])
