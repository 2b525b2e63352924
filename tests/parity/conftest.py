"""Keras beside Lightning in one process."""

import os

# Keras reads it when it is first imported. This file is run before any test file beside it, so that they can simply
# `import keras`.
os.environ["KERAS_BACKEND"] = "torch"

import keras
import pytest
import torch

if keras.backend.backend() != "torch":
    raise pytest.UsageError("keras was imported before tests/parity/conftest.py could choose its torch backend")


@pytest.fixture(autouse=True)
def one_thread():
    """For networks this small a second thread only waits for the first."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
