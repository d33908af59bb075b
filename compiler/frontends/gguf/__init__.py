"""Reads decoders from GGUF files: `frontend` puts together what the other modules read."""
