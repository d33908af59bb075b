"""Where something happens: in which submodule, and on which line of which file."""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from pathlib import Path
from types import FrameType

import torch

# Code that is no user's: PyTorch's, this package's, and code that was made up as a string.
_OURS = (str(Path(torch.__file__).parent), str(Path(__file__).parent), "<")


class Places:
    """Names places in the code of `module` and what it is made of."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._paths = {id(one): name for name, one in module.named_modules()}
        self._root = type(module).__qualname__

    def of_stack(self, frame: FrameType | None) -> str:
        """The place of a call on the stack that ends with `frame`."""
        return self._described(traceback.walk_stack(frame))

    def of_error(self, error: BaseException) -> str:
        """The place where `error` was raised."""
        return self._described(reversed(list(traceback.walk_tb(error.__traceback__))))

    def of_module(self, path: str, module: str) -> str:
        """A submodule by its path, and by the name of its class."""
        return f"{path or self._root} ({module})"

    def _described(self, frames: Iterable[tuple[FrameType, int]]) -> str:
        """The innermost submodule, and the innermost line of others' code; `frames` are innermost first."""
        walked = list(frames)
        owners = (frame.f_locals.get("self") for frame, _ in walked)
        own = [one for one in owners if isinstance(one, torch.nn.Module) and id(one) in self._paths]
        place = self.of_module(self._paths[id(own[0])], type(own[0]).__name__) if own else self._root
        files = ((frame.f_code.co_filename, number) for frame, number in walked)
        lines = [f", {Path(name).name} line {number}" for name, number in files if not name.startswith(_OURS)]
        return place + "".join(lines[:1])
