"""The gated unit silu(gate) · up: an epilogue of the linear kernels, which compute both halves."""
