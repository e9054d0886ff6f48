"""com.microsoft: the fused operators that optimised transformers are made of."""

from ridgeline.frontends.onnx.table import Row

ROWS: tuple[Row, ...] = ()
