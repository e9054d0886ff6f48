"""Keras 3 -> Graph: a model read, checked, and interpreted with torch, which capture then traces.

Neither keras nor tensorflow is imported.
"""

from ridgeline.frontends.keras.module import KerasModule
from ridgeline.frontends.keras.read import read_model

__all__ = ["KerasModule", "read_model"]
