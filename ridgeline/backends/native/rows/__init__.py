"""The lowering tables, a file per family of operators."""
