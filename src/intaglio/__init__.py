"""Intaglio: a graph compiler and hardware co-design toolchain for neural networks."""
