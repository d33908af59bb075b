"""What the compiler knows of hardware: targets, and (with later issues) cost models."""

from intaglio.cost_models.target import NAMED_TARGETS, Target, host_target, resolve_target

__all__ = ["NAMED_TARGETS", "Target", "host_target", "resolve_target"]
