"""Element-wise operators of ONNX by the names that kernels give them."""

from __future__ import annotations

UNARY = {
    "Neg": "negate",
    "Abs": "absolute",
    "Exp": "exp",
    "Log": "log",
    "Tanh": "tanh",
    "Sigmoid": "logistic",
    "Erf": "erf",
    "Sqrt": "sqrt",
    "Reciprocal": "reciprocal",
    "Relu": "relu",
}
BINARY = {"Add": "add", "Sub": "subtract", "Mul": "multiply", "Max": "maximum", "Min": "minimum"}
