"""Front ends, one folder each: `tracing` picks the one that reads a model."""
