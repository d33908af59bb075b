"""The module that is exported: a causal language model as a function of tokens alone."""

from __future__ import annotations

import torch

SIZES = {0: "batch", 1: "sequence"}
EXAMPLE = (2, 7)  # sizes of the traced example; nothing in the graph depends on them
WRAPPED = "decoder"  # where the model is inside `Logits`


class Positions(torch.nn.Module):
    """0, 1, … for every sequence; a module, so that its nodes are named after it."""

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """int64 `[batch, sequence]` → int64 `[batch, sequence]`."""
        row = torch.arange(input_ids.shape[1], device=input_ids.device)
        return row[None].expand(input_ids.shape)


class Logits(torch.nn.Module):
    """What is exported: `input_ids` to logits, positions counted from zero and given by name."""

    def __init__(self, decoder: torch.nn.Module, takes_positions: bool) -> None:
        super().__init__()
        self.decoder = decoder
        self.position_ids = Positions() if takes_positions else None

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """int64 `[batch, sequence]` → float32 `[batch, sequence, vocabulary]`."""
        places = {} if self.position_ids is None else {"position_ids": self.position_ids(input_ids)}
        result: torch.Tensor = self.decoder(input_ids=input_ids, use_cache=False, **places).logits
        return result
