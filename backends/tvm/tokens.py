"""Tokens as a call takes them, checked before anything runs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from intaglio.backends.tvm.program import Program
from intaglio.compiler.errors import ContextLengthError, OptionError


def checked_tokens(tokens: Sequence[int], program: Program, position: int) -> NDArray[np.int32]:
    """`tokens`, which are to follow `position` others.

    Raises:
        OptionError: for no tokens, or for what is none.
        ContextLengthError: where the cache has no room for them.
    """
    ids = np.asarray(tokens)
    if ids.ndim != 1 or len(ids) == 0 or ids.dtype.kind not in "iu":
        raise OptionError(f"tokens: a sequence of at least one token id is wanted, not {tokens!r:.60}")
    if ids.min() < 0 or ids.max() >= program.vocabulary:
        bad = int(ids.min() if ids.min() < 0 else ids.max())
        raise OptionError(f"tokens: id {bad} is outside 0 … {program.vocabulary - 1}")
    if position + len(ids) > program.capacity:
        raise ContextLengthError(
            f"context: {position} + {len(ids)} tokens are more than the {program.capacity} compiled for; "
            "shorten the prompt, or compile with a larger context"
        )
    return ids.astype(np.int32)
