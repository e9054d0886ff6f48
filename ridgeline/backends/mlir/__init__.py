"""The graph as one module of MLIR: TOSA, and linalg where TOSA has no op or only a slow one."""
