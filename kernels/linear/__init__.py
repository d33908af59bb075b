"""Linear layers: y = x Wᵀ, with quantised or floating-point weights."""
