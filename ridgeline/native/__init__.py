"""Our own kernels: programs of instructions that one library in C++ runs on a pool of threads."""
