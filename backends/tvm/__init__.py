"""CPU programs from TVM-generated kernels: stage tables, code, and the session that runs them.

Lowering is in `intaglio.backends.tvm.lower`: it brings TVM, which running a program does not need.
"""

from intaglio.backends.tvm.codegen import build_library
from intaglio.backends.tvm.library import Ceilings
from intaglio.backends.tvm.program import Program
from intaglio.backends.tvm.session import NativeSession

__all__ = ["Ceilings", "NativeSession", "Program", "build_library"]
