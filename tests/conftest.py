"""What all tests share."""

import logging
import os

import pytest

os.environ.setdefault("KERAS_BACKEND", "torch")  # the oracle of the parity tests


@pytest.fixture(autouse=True)
def _one_thread():
    """For models this small a second thread only waits for the first."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _quiet_lightning():
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_utilities"):
        logging.getLogger(name).setLevel(logging.WARNING)
