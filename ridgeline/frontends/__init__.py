"""Frontends: from what people have (modules, files, configs, names) to a Graph."""
