"""Keras 3 -> Graph: a model read, checked, and interpreted with torch, which capture then traces.

Neither keras nor tensorflow is imported.
"""

from ridgeline.frontends.keras.archive import opened
from ridgeline.frontends.keras.module import KerasModule
from ridgeline.frontends.keras.table import Row

__all__ = ["KerasModule", "Row", "opened"]
