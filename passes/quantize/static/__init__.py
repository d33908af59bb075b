"""Static 8-bit arithmetic for graphs: convolutions and products between rounded activations."""

from intaglio.passes.quantize.static.fold_channels import FoldChannels
from intaglio.passes.quantize.static.hard_swish import RecognizeHardSwish
from intaglio.passes.quantize.static.layers import Layer, find_layers
from intaglio.passes.quantize.static.places import Places, places_of
from intaglio.passes.quantize.static.round_statically import RoundStatically
from intaglio.passes.quantize.static.value_range import ValueRange

__all__ = [
    "FoldChannels",
    "Layer",
    "Places",
    "RecognizeHardSwish",
    "RoundStatically",
    "ValueRange",
    "find_layers",
    "places_of",
]
