"""Passes: pure functions from Graph to Graph, verified and diffed by the manager."""
