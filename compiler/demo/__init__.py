"""The demonstration: a real language model compiled for this machine, beside other runtimes."""
