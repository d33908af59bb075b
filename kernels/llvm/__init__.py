"""What kernels say in LLVM's own language."""
