"""Keras on its torch backend. It reads both at import, before any test of this folder."""

import os
import tempfile

os.environ["KERAS_BACKEND"] = "torch"
# Its settings must not come from, or go to, the user's home.
os.environ["KERAS_HOME"] = tempfile.mkdtemp(prefix="keras-home-")
