"""pyarrow, which is an extra."""

from types import ModuleType

from ridgeline.errors import MissingExtra


def require_arrow() -> ModuleType:
    """The module pyarrow. Raises MissingExtra where it is not installed."""
    try:
        import pyarrow
    except ImportError:
        raise MissingExtra(
            'Arrow tables need pyarrow; install it with `pip install "ridgeline[arrow]"`.'
        ) from None
    module: ModuleType = pyarrow
    return module
