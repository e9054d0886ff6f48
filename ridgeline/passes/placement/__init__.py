"""Where each part of a graph runs, when there is more than one device."""

from ridgeline.passes.placement.place import Placement, place

__all__ = ["Placement", "place"]
