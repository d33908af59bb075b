"""Backends, one folder each: what runs a graph, or turns it into something that runs."""
