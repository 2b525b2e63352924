"""The names of `lr_plugins.keras`: all there, and nothing of torch imported by looking at a schedule."""

from __future__ import annotations

import subprocess
import sys

import pytest

import lr_plugins
from lr_plugins import keras


@pytest.mark.parametrize("name", keras.__all__)
def test_every_name_is_there(name):
    assert getattr(keras, name).__name__.endswith(name)
    assert name in dir(keras)


def test_what_is_one_class_has_one():
    assert keras.LearningRateScheduler is lr_plugins.LearningRateScheduler
    assert keras.History is lr_plugins.History


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'Adam'"):
        keras.Adam  # noqa: B018


def test_schedules_import_no_torch_lightning_or_scikit_learn():
    program = (
        "import sys, lr_plugins.keras; lr_plugins.keras.ExponentialDecay(0.1, 10, 0.9)(5);"
        "print({'torch', 'pytorch_lightning', 'sklearn'} & set(sys.modules))"
    )
    assert (
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "set()\n"
    )
