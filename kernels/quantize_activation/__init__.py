"""Run-time quantisation of activations to int8, one scale per group."""
