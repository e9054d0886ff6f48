"""Reports: a dataclass in, text, JSON or one HTML page out. They add up and show; the analysis is
done before.
"""
