"""Calibration: what range the activations of a graph have on inputs of the kind it is meant for."""

from intaglio.compiler.calibration.histogram import Histogram
from intaglio.compiler.calibration.inputs import CalibrationInputs
from intaglio.compiler.calibration.observing import observe
from intaglio.compiler.calibration.range_choice import RANGE_METHODS, RangeMethod, choose_range

__all__ = ["RANGE_METHODS", "CalibrationInputs", "Histogram", "RangeMethod", "choose_range", "observe"]
