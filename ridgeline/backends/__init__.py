"""Backends: a graph to a callable; the choice among them; the file that holds what was chosen."""
