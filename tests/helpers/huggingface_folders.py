"""Writes folders of random models as transformers writes them, and runs the originals."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

WEIGHTS = "model.safetensors"


def write_random_model(
    config: Any, folder: Path, *, dtype: torch.dtype = torch.float32, **options: Any
) -> Any:
    """A causal language model of `config` with random weights, saved in `folder`; returned in float32.

    Weights are larger than an initialisation's, so that attention attends to something; `options` go to
    `save_pretrained`.
    """
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0 if parameter.ndim > 1 else 0.5, 0.2)
            parameter.copy_(parameter.to(dtype))
    copy.deepcopy(model).to(dtype).save_pretrained(folder, **options)  # a copy: buffers would be rounded, too
    return model


def write_tokenizer(folder: Path, size: int) -> None:
    """A `tokenizer.json` of bytes, as many as `size` leaves room for."""
    names = ["<pad>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())][:size]
    tokenizer = Tokenizer(models.BPE(vocab={name: index for index, name in enumerate(names)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))


def run_original(model: Any, tokens: np.ndarray) -> np.ndarray:
    """Logits `[batch, sequence, vocabulary]` of the original in float32."""
    with torch.no_grad():
        return model(input_ids=torch.from_numpy(tokens), use_cache=False).logits.numpy()


def edit_config(folder: Path, **fields: Any) -> None:
    """Change entries of `config.json`; `None` removes one."""
    path = folder / "config.json"
    data = {**json.loads(path.read_text()), **fields}
    path.write_text(json.dumps({key: value for key, value in data.items() if value is not None}))


def edit_weights(folder: Path, change: Any) -> None:
    """Write the tensors that `change` makes of those in the folder."""
    tensors: Mapping[str, torch.Tensor] = change(load_file(folder / WEIGHTS))
    save_file({name: one.contiguous() for name, one in tensors.items()}, folder / WEIGHTS)
