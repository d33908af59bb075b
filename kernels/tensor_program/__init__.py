"""Element-wise arithmetic over tensors of any rank, broadcast or transposed by their strides."""
