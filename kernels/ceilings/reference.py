"""What the kernels compute, in numpy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def read_memory(data: NDArray[np.int32], workers: int) -> NDArray[np.int32]:
    """`data` `[blocks, 1024]` → `[workers, 16]`: the exclusive or of each worker's share of the blocks."""
    share = -(-len(data) // workers)
    shares = [data[worker * share : (worker + 1) * share].reshape(-1, 16) for worker in range(workers)]
    return np.stack([np.bitwise_xor.reduce(one, axis=0) for one in shares]).astype(np.int32)


def multiply_in_cache(
    vectors: NDArray[np.generic], factors: NDArray[np.generic], count: int
) -> NDArray[np.float64]:
    """Sums of products `[tokens, parts, 16]`, `count` times over.

    Args:
        vectors: `[steps, parts, 16, elements of a lane]`.
        factors: `[steps, tokens, elements of a lane]`.
        count: how often.
    """
    once: NDArray[np.float64] = np.einsum(
        "splk,stk->tpl", vectors.astype(np.float64), factors.astype(np.float64)
    )
    return count * once
