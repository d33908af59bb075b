"""CPU programs from TVM-generated kernels: stage tables, code, and the session that runs them.

In the order in which a model passes through:

    reading, regions            calls of fused functions → regions
    checks                      regions that have no kernel, all at once
    lower, emit, tables         regions → stage tables; `joints` and `stored` say where values lie
    packing, arena              weights → the kernels' layouts → one file
    program                     the result as data
    codegen, entry, runtime.c   kernels → one shared object
    library, session            loading and running it
    ceilings                    what the machine could do at best, by kernels that every program carries

Lowering is in `intaglio.backends.tvm.lower`: it brings TVM, which running a program does not need.
"""

from intaglio.backends.tvm.batch_session import BatchSession
from intaglio.backends.tvm.ceilings import Ceilings
from intaglio.backends.tvm.codegen import build_library
from intaglio.backends.tvm.program import Program
from intaglio.backends.tvm.session import NativeSession

__all__ = ["BatchSession", "Ceilings", "NativeSession", "Program", "build_library"]
