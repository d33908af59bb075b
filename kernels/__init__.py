"""Kernels: one folder per operator, each with its maths, a naive reference and builders of TVM TIR functions.

Every kernel is a frozen dataclass of compile-time parameters with `pointers` (name → element type, in order)
and `emit(frame, instructions)`, which writes its code into the function being built; see
`intaglio.kernels.tir`. `intaglio.kernels.catalogue` lists them all.
"""
