"""Keys and values in a smaller type: what storing them loses, spelled out."""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from intaglio.compiler.errors import OptionError
from intaglio.compiler.ir.functions import DOMAIN, ensure_function, quantize_activation
from intaglio.compiler.ir.match import sole_consumer
from intaglio.passes.quantize.formats import CACHE_FORMATS, CacheFormat
from intaglio.passes.quantize.quantize_activations import round_activations
from intaglio.passes.result import Applied, Certificate, Declined, PassResult
from intaglio.passes.rewriting import insert, is_op

PROBE_ROWS = 64
FLOAT = ir.DataType.FLOAT
TYPES = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}
# Relative: half a step of the significant bits; of int8 as certified for other activations.
TOLERANCES = {"fp16": 2.0**-11, "bf16": 2.0**-8, "int8": 0.02}
CACHES = ("key_cache.", "value_cache.")  # inputs of the canonical decoder
UPDATE = 1  # input of TensorScatter


@dataclass(frozen=True)
class StoreCache:
    """`TensorScatter(cache, x)` → the same of x rounded, for every key and value cache of a decoder.

    fp16, bf16: `Cast(Cast(x → type) → float32)`. int8: `QuantizeActivation(x; group = head_dim)`: one float32
    scale for each head and position. The caches of the graph stay float32; kernels store what is left.

    Exceptions:
    1. fp32: nothing changes.
    2. A cache is not filled by a `TensorScatter` of float32 heads of a known size: declined.
    Raises `OptionError` for another format.
    """

    format: CacheFormat
    name: str = "store_cache"

    def __post_init__(self) -> None:
        if self.format not in CACHE_FORMATS:
            raise OptionError(f"{self.name}: {self.format!r} is not one of {', '.join(CACHE_FORMATS)}.")

    def __call__(self, model: ir.Model) -> PassResult:
        """Round what goes into the caches."""
        if self.format == "fp32":
            return PassResult(model)
        accounts = [self._store(cache) for cache in model.graph.inputs if str(cache.name).startswith(CACHES)]
        if self.format == "int8" and any(isinstance(one, Applied) for one in accounts):
            ensure_function(model, quantize_activation())
        return PassResult.of(model, accounts)

    def _store(self, cache: ir.Value) -> Applied | Declined:
        site, scatter = str(cache.name), sole_consumer(cache)
        update = scatter.inputs[UPDATE] if scatter is not None and is_op(scatter, "TensorScatter") else None
        size = None if update is None or update.shape is None else update.shape[-1]
        if scatter is None or update is None or update.dtype != FLOAT or not isinstance(size, int):
            return Declined(self.name, site, "no TensorScatter fills it with float32 heads of a known size")
        scatter.replace_input_with(UPDATE, self._rounded(scatter, update, site, size))
        return Applied(self.name, site, self.format, _certificate(self.format, size))

    def _rounded(self, scatter: ir.Node, update: ir.Value, site: str, size: int) -> ir.Value:
        if self.format == "int8":
            node = insert(
                scatter, "QuantizeActivation", [update], {"group": size}, domain=DOMAIN, name=f"{site}.int8"
            )
            return _typed(node, update, FLOAT)
        dtype, name = TYPES[self.format], f"{site}.{self.format}"
        narrow = _typed(insert(scatter, "Cast", [update], {"to": int(dtype)}, name=name), update, dtype)
        wide = insert(scatter, "Cast", [narrow], {"to": int(FLOAT)}, name=f"{name}.float32")
        return _typed(wide, update, FLOAT)


def _typed(node: ir.Node, like: ir.Value, dtype: ir.DataType) -> ir.Value:
    (value,) = node.outputs
    value.type, value.shape = ir.TensorType(dtype), like.shape
    return value


def _certificate(cache: CacheFormat, size: int) -> Certificate:
    probe = np.random.default_rng(0).standard_normal((PROBE_ROWS, size), np.float32)
    error = np.linalg.norm(_round(probe, cache) - probe) / np.linalg.norm(probe)
    where = f"{PROBE_ROWS} standard normal heads of {size}"
    return Certificate("relative error of keys and values", where, float(error), TOLERANCES[cache])


def _round(heads: NDArray[np.float32], cache: CacheFormat) -> NDArray[np.float32]:
    if cache == "int8":
        return round_activations(heads, heads.shape[-1])
    return heads.astype(np.float16 if cache == "fp16" else ml_dtypes.bfloat16).astype(np.float32)
