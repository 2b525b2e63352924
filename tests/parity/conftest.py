"""Keras beside Lightning in one process."""

import os

# Keras reads it when it is first imported. This file is run before any test file beside it, so that they can simply
# `import keras`.
os.environ["KERAS_BACKEND"] = "torch"

import keras
import pytest

if keras.backend.backend() != "torch":
    raise pytest.UsageError("keras was imported before tests/parity/conftest.py could choose its torch backend")

_LEFT_OUT = []


def pytest_collection_modifyitems(items):
    """The table runs last, when the other tests have recorded their comparisons."""
    items.sort(key=lambda item: item.path.name == "test_table.py")


def pytest_deselected(items):
    """By -k and the like."""
    _LEFT_OUT.extend(item for item in items if "parity" in item.path.parts)


@pytest.fixture
def parity_tests_left_out(request):
    """Whether some of the tests beside this file are not run."""
    of_a_part = any("::" in argument for argument in request.config.args)
    return bool(_LEFT_OUT) or of_a_part
