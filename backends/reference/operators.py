"""The table of ops that the interpreter knows, with the attributes it honours; anything else is refused."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from intaglio.backends.reference import (
    arithmetic,
    attention,
    normalization,
    quantization,
    selection,
    shaping,
)
from intaglio.backends.reference.arithmetic import binary, reduction, unary, variadic
from intaglio.backends.reference.call import Operator

_REDUCTION = ("keepdims", "noop_with_empty_axes")
_ATTENTION = (
    "is_causal",
    "kv_num_heads",
    "left_window_size",
    "q_num_heads",
    "qk_matmul_output_mode",
    "right_window_size",
    "scale",
    "softcap",
    "softmax_precision",
)
_CONSTANT = ("value", "value_int", "value_ints", "value_float", "value_floats")
# `stash_type` asks for float32 inside, which the working precision stands for.
_NORM = ("axis", "epsilon", "stash_type")
# `saturate` concerns float8 alone, which is refused.
_QUANTIZE = ("axis", "block_size", "output_dtype", "precision", "saturate")

OPERATORS: Mapping[str, Operator] = {
    "Abs": Operator(unary(torch.abs)),
    "Add": Operator(binary(torch.add)),
    "And": Operator(binary(torch.logical_and)),
    "Attention": Operator(attention.attention, _ATTENTION),
    "Cast": Operator(quantization.cast, ("to", "saturate")),
    "CastLike": Operator(quantization.cast_like, ("saturate",)),
    "Ceil": Operator(unary(torch.ceil)),
    "Clip": Operator(arithmetic.clip),
    "Concat": Operator(shaping.concat, ("axis",)),
    "Constant": Operator(shaping.constant, _CONSTANT),
    "ConstantOfShape": Operator(shaping.constant_of_shape, ("value",)),
    "Cos": Operator(unary(torch.cos)),
    "CumSum": Operator(arithmetic.cumulative_sum),
    "DequantizeLinear": Operator(quantization.dequantize_linear, ("axis", "block_size", "output_dtype")),
    "Div": Operator(arithmetic.divide),
    "Equal": Operator(binary(torch.eq)),
    "Erf": Operator(unary(torch.erf)),
    "Exp": Operator(unary(torch.exp)),
    "Expand": Operator(shaping.expand),
    "Flatten": Operator(shaping.flatten, ("axis",)),
    "Floor": Operator(unary(torch.floor)),
    "Gather": Operator(shaping.gather, ("axis",)),
    "GatherElements": Operator(selection.gather_elements, ("axis",)),
    "Gelu": Operator(arithmetic.gelu, ("approximate",)),
    "Gemm": Operator(arithmetic.gemm, ("alpha", "beta", "transA", "transB")),
    "Greater": Operator(binary(torch.gt)),
    "GreaterOrEqual": Operator(binary(torch.ge)),
    "Identity": Operator(unary(lambda x: x)),
    "LayerNormalization": Operator(normalization.layer_normalization, _NORM),
    "Less": Operator(binary(torch.lt)),
    "LessOrEqual": Operator(binary(torch.le)),
    "Log": Operator(unary(torch.log)),
    "LogSoftmax": Operator(arithmetic.log_softmax, ("axis",)),
    "MatMul": Operator(binary(torch.matmul)),
    "Max": Operator(variadic(torch.maximum)),
    "Min": Operator(variadic(torch.minimum)),
    "Mod": Operator(arithmetic.remainder, ("fmod",)),
    "Mul": Operator(binary(torch.mul)),
    "Neg": Operator(unary(torch.neg)),
    "Not": Operator(unary(torch.logical_not)),
    "Or": Operator(binary(torch.logical_or)),
    "Pow": Operator(arithmetic.power),
    "QuantizeLinear": Operator(quantization.quantize_linear, _QUANTIZE),
    "RMSNormalization": Operator(normalization.rms_normalization, _NORM),
    "Range": Operator(shaping.arange),
    "Reciprocal": Operator(unary(torch.reciprocal)),
    "ReduceMax": Operator(reduction(arithmetic.largest), _REDUCTION),
    "ReduceMean": Operator(reduction(arithmetic.mean), _REDUCTION),
    "ReduceMin": Operator(reduction(arithmetic.smallest), _REDUCTION),
    "ReduceSum": Operator(reduction(arithmetic.total), _REDUCTION),
    "Relu": Operator(unary(torch.relu)),
    "Reshape": Operator(shaping.reshape, ("allowzero",)),
    "RotaryEmbedding": Operator(
        normalization.rotary_embedding, ("interleaved", "num_heads", "rotary_embedding_dim")
    ),
    "Round": Operator(unary(torch.round)),
    "ScatterElements": Operator(selection.scatter_elements, ("axis", "reduction")),
    "Shape": Operator(shaping.shape, ("start", "end")),
    "Sigmoid": Operator(unary(torch.sigmoid)),
    "Sign": Operator(unary(torch.sign)),
    "Sin": Operator(unary(torch.sin)),
    "Size": Operator(shaping.size),
    "Slice": Operator(shaping.cut),
    "Softmax": Operator(arithmetic.softmax, ("axis",)),
    "Split": Operator(shaping.split, ("axis", "num_outputs")),
    "Sqrt": Operator(unary(torch.sqrt)),
    "Squeeze": Operator(shaping.squeeze),
    "Sub": Operator(binary(torch.sub)),
    "Sum": Operator(variadic(torch.add)),
    "Swish": Operator(arithmetic.swish, ("alpha",)),
    "Tanh": Operator(unary(torch.tanh)),
    "TensorScatter": Operator(shaping.tensor_scatter, ("axis", "mode")),
    "Tile": Operator(shaping.tile),
    # `sorted` asks for an order that there is anyway.
    "TopK": Operator(selection.top_k, ("axis", "largest", "sorted")),
    "Transpose": Operator(shaping.transpose, ("perm",)),
    "Trilu": Operator(shaping.triangle, ("upper",)),
    "Unsqueeze": Operator(shaping.unsqueeze),
    "Where": Operator(shaping.where),
}
