"""What a machine can do at best: reading memory, and multiplying out of the first cache."""
