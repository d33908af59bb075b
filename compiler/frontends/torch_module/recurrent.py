"""LSTM and GRU layers kept whole, so that each becomes one ONNX node and takes sequences of any length.

`torch.export` unrolls them over the example's sequence. The rules into ONNX are the exporter's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch

LSTM = torch._VF.lstm
GRU = torch._VF.gru

_Function = Callable[..., Any]

_ARGUMENTS = 9
_OPTIONS = (
    "Tensor[] params, bool has_biases, int num_layers, float dropout, bool train, "
    "bool bidirectional, bool batch_first"
)


def kept_recurrent_layers() -> Mapping[_Function, tuple[_Function, _Function]]:
    """Operators that a trace keeps as they are, by PyTorch's functions, and when they take their place."""
    return {LSTM: (_lstm(), is_plain), GRU: (_gru(), is_plain)}


@cache
def recurrent_translations() -> Mapping[_Function, _Function]:
    """What our operators become, for `export_module`."""
    from onnxscript.function_libs.torch_lib.ops.core import aten_gru, aten_lstm

    return {_lstm(): aten_lstm, _gru(): aten_gru}


def is_plain(*args: Any, **keywords: Any) -> bool:
    """Whether these are arguments of a batch of equally long sequences, and no layer is projected."""
    if keywords or len(args) != _ARGUMENTS or not isinstance(args[3], bool):
        return False
    _, _, parameters, has_biases, layers, _, _, bidirectional, _ = args
    each = (4 if has_biases else 2) * (2 if bidirectional else 1)
    return bool(len(parameters) == layers * each)


# Defined on first use: importing this module registers nothing with PyTorch.
@cache
def _lstm() -> _Function:
    return _operator(
        "lstm", f"(Tensor input, Tensor[] hx, {_OPTIONS}) -> (Tensor, Tensor, Tensor)", _lstm_shapes
    )


@cache
def _gru() -> _Function:
    return _operator("gru", f"(Tensor input, Tensor hx, {_OPTIONS}) -> (Tensor, Tensor)", _gru_shapes)


def _operator(name: str, schema: str, shapes: _Function) -> _Function:
    # These operators are traced, never run: what they would compute is empty.
    operator = torch.library.custom_op(f"intaglio::{name}", shapes, mutates_args=(), schema=schema)
    operator.register_fake(shapes)
    overload: _Function = getattr(torch.ops.intaglio, name).default
    return overload


def _lstm_shapes(*call: Any) -> tuple[torch.Tensor, ...]:
    sequence, (hidden, cell), *_ = call
    return _output(sequence, hidden, call), torch.empty_like(hidden), torch.empty_like(cell)


def _gru_shapes(*call: Any) -> tuple[torch.Tensor, ...]:
    sequence, hidden, *_ = call
    return _output(sequence, hidden, call), torch.empty_like(hidden)


def _output(sequence: torch.Tensor, hidden: torch.Tensor, call: tuple[Any, ...]) -> torch.Tensor:
    bidirectional = call[7]
    return sequence.new_empty(*sequence.shape[:2], hidden.shape[-1] * (2 if bidirectional else 1))
