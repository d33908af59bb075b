"""The reference backend: an interpreter of the IR in torch."""

from intaglio.backends.reference.session import ReferenceSession

__all__ = ["ReferenceSession"]
