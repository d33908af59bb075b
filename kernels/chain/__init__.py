"""Element-wise steps at the end of a kernel: what becomes of a vector before it is stored."""
