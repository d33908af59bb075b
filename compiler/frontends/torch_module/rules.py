"""Rules into ONNX that the exporter lacks or has only in part."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import onnxscript
import torch

from intaglio.compiler.frontends.torch_module.recurrent import recurrent_translations
from intaglio.compiler.ir.functions import OPSET

Rules = Mapping[Callable[..., Any], Callable[..., Any]]


@cache
def rules() -> Rules:
    """Functions over `onnxscript` values by torch operator."""
    aten = torch.ops.aten
    return {**recurrent_translations(), aten.amin.default: _amin, aten.amax.default: _amax}


def _amin(x: Any, dim: Sequence[int] = (), keepdim: bool = False) -> Any:
    opset = onnxscript.values.Opset("", OPSET)
    return opset.ReduceMin(x, *_axes(opset, dim), keepdims=int(keepdim))


def _amax(x: Any, dim: Sequence[int] = (), keepdim: bool = False) -> Any:
    opset = onnxscript.values.Opset("", OPSET)
    return opset.ReduceMax(x, *_axes(opset, dim), keepdims=int(keepdim))


def _axes(opset: Any, dim: Sequence[int]) -> list[Any]:
    # No axes stand for all of them; the exporter's own rules insist on some.
    return [opset.Constant(value_ints=list(dim))] if dim else []
