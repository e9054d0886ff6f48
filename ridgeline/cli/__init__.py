"""The command line: one module per command. Each parses, calls one API function, prints one
report.
"""
