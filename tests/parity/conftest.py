"""Keras beside Lightning in one process."""

import os

# Keras reads it when it is first imported. This file is run before any test file beside it, so that they can simply
# `import keras`.
os.environ["KERAS_BACKEND"] = "torch"

import keras
import pytest

if keras.backend.backend() != "torch":
    raise pytest.UsageError("keras was imported before tests/parity/conftest.py could choose its torch backend")
