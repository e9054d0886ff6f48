"""Graphs cut into parts that run on two backends in turns."""
