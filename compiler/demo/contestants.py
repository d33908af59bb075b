"""One model in three runtimes, each as a `DecoderSession`: compiled, in torch, in onnxruntime.

All compute with the numbers of the GGUF file. torch and onnxruntime get them dequantised to float32, since
neither runs the file's 4-bit blocks: torch through transformers' own reader, onnxruntime through ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from intaglio.compiler.errors import OptionError
from intaglio.compiler.session import DecoderSession
from intaglio.kernels.choose.selection import likeliest

NAMES = ("intaglio", "torch", "onnxruntime")


@dataclass(frozen=True)
class Setting:
    """What all contestants are given."""

    gguf: Path
    artifact: Path
    capacity: int  # tokens
    threads: int


class TorchSession:
    """transformers' Llama in float32, with its growing cache."""

    def __init__(self, setting: Setting) -> None:
        import torch

        torch.set_num_threads(setting.threads)
        torch.set_grad_enabled(False)
        self._torch = torch
        self._model = transformers_llama(setting.gguf)
        self.vocabulary = int(self._model.config.vocab_size)
        self.capacity = setting.capacity
        self.position = 0
        self._cache: Any = None

    def reset(self, position: int = 0) -> None:
        """Forget everything; transformers' cache is not cut."""
        if position:
            raise OptionError(f"reset: position {position}: this session can only begin afresh.")
        self.position, self._cache = 0, None

    def extend(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Append `tokens`; logits `[vocabulary]` after the last one."""
        last: NDArray[np.float32] = self._run(tokens, 1)[-1]
        return last

    def best(self, tokens: Sequence[int], count: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Append `tokens`; the `count` likeliest next ones, likeliest first, with their logits."""
        logits = self.extend(tokens)
        found = likeliest(logits, count)
        return found, logits[found]

    def score(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Append `tokens`; logits `[len(tokens), vocabulary]`."""
        return self._run(tokens, 0)

    def _run(self, tokens: Sequence[int], kept: int) -> NDArray[np.float32]:
        ids = self._torch.tensor([list(tokens)])
        output = self._model(ids, past_key_values=self._cache, use_cache=True, logits_to_keep=kept)
        self._cache = output.past_key_values
        self.position += len(tokens)
        logits: NDArray[np.float32] = output.logits[0].numpy()
        return logits


def transformers_llama(gguf: Path) -> Any:
    """The model as transformers itself reads it; `from_pretrained` would, but wants accelerate."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    config = LlamaConfig(**load_gguf_checkpoint(str(gguf))["config"])
    model = LlamaForCausalLM(config).to(torch.float32).eval()
    weights = load_gguf_checkpoint(str(gguf), return_tensors=True, model_to_load=model)["tensors"]
    unfilled = set(model.load_state_dict(weights, strict=False).missing_keys)
    assert unfilled <= {"lm_head.weight"}, f"transformers found no weights for {unfilled}"
    return model


def onnxruntime_session(setting: Setting, *, last_position_only: bool) -> DecoderSession:
    """The canonical decoder with float32 weights in onnxruntime; it copies its cache in every step."""
    from intaglio.backends.onnxruntime import OnnxRuntimeSession
    from intaglio.compiler.frontends.tracing import trace
    from intaglio.compiler.reference_session import GraphSession
    from intaglio.passes.normalize import normalize
    from intaglio.passes.quantize import Treatment, apply_treatments

    traced = trace(setting.gguf)
    model = normalize(
        traced.model,
        expected=traced.expected,
        capacity=setting.capacity,
        last_position_only=last_position_only,
    ).model
    apply_treatments(model, default=Treatment("fp32", None))
    return GraphSession(model, OnnxRuntimeSession(model, threads=setting.threads))


def timed_session(name: str, setting: Setting) -> DecoderSession:
    """The contestant `name`, ready to `extend`."""
    if name == "torch":
        return TorchSession(setting)
    if name == "onnxruntime":
        return onnxruntime_session(setting, last_position_only=True)
    from intaglio.compiler.driver import load

    session: DecoderSession = load(setting.artifact, threads=setting.threads).session
    return session


def scoring_session(name: str, setting: Setting, timed: DecoderSession) -> DecoderSession:
    """The contestant `name`, ready to `score`: the timed one where it can."""
    if name == "onnxruntime":
        return onnxruntime_session(setting, last_position_only=False)
    return timed
