"""Families whose instructions this machine lacks, with functions in C in place of the instructions.

Everything else stays: the kernels, and the functions in LLVM's language that the instructions occur in.
"""

from __future__ import annotations

import dataclasses
import re
import subprocess
from pathlib import Path

from intaglio.backends.tvm import codegen
from intaglio.kernels.instructions import Bfloat16Dots, ByteDots, ByteTiles, Instructions
from intaglio.kernels.llvm.functions import text_of as original_text

SOURCE = Path(__file__).with_suffix(".c")
HERE = 'target triple = "x86_64-unknown-linux-gnu"'


def emulated(instructions: Instructions) -> Instructions:
    """The family without what only runs on AVX-512, so that any x86-64-v3 can emulate it."""
    if instructions.byte_tiles is not ByteTiles.AMX:
        return instructions
    return dataclasses.replace(
        instructions, registers=8, byte_dots=ByteDots.NONE, bfloat16_dots=Bfloat16Dots.NONE
    )


def text_of(instructions: Instructions) -> str:
    """The family's functions, calling `emulated_…` where they have an instruction."""
    text = original_text(instructions)
    text = re.sub(r"llvm\.(aarch64\.neon|x86)\.(\w+)(\.v\w+)*", r"emulated_\2", text)
    text = re.sub(r"^target triple = .*$", HERE, text, flags=re.MULTILINE)
    return text.replace(" immarg", "").replace("<8 x bfloat>", "<8 x i16>")


def build(path: Path) -> Path:
    """Compile the functions in C to the object file `path`."""
    command = [codegen.c_compiler(), "-O2", "-fPIC", "-march=x86-64-v3", "-c", "-o", str(path), str(SOURCE)]
    subprocess.run(command, check=True)
    return path
