"""Fixtures for all tests."""

import functools
import logging
import os
import sys

import hypothesis
import pytest

from tests import preloaded

os.environ.setdefault("KERAS_BACKEND", "torch")  # the oracle of the parity tests
hypothesis.settings.register_profile("lr_plugins", deadline=None)  # how long a test takes depends on the machine
hypothesis.settings.load_profile("lr_plugins")


@pytest.fixture(autouse=True)
def _one_thread():
    """For models this small a second thread only waits for the first."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _entry_points_once():
    """Lightning looks through all installed packages for each Trainer, which takes as long as a dozen steps."""
    from lightning_fabric.utilities import registry

    registry.entry_points = functools.cache(registry.entry_points)


@pytest.fixture(autouse=True)
def _quiet_lightning():
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_utilities"):
        logging.getLogger(name).setLevel(logging.WARNING)


@pytest.fixture(autouse=True)
def _no_experiment_of_another_test():
    """`mlflow.set_experiment` changes the environment, which a logger follows."""
    yield
    os.environ.pop("MLFLOW_EXPERIMENT_ID", None)
    if "mlflow" in sys.modules:
        sys.modules["mlflow"].tracking.fluent._active_experiment_id = None


@pytest.fixture(autouse=True)
def _forked_senders(monkeypatch):
    """A process takes seconds to import MLflow: senders are forked from one that has. Gives the real start."""
    from lr_plugins.tracking import sender_process

    start = sender_process._start
    monkeypatch.setattr(sender_process, "_start", preloaded.Sender)
    return start


@pytest.fixture
def started_senders(_forked_senders, monkeypatch):
    """For tests of the start: senders are started, as a user's are, and inherit what they inherit then."""
    monkeypatch.setattr("lr_plugins.tracking.sender_process._start", _forked_senders)


@pytest.fixture(autouse=True)
def _sender_of_the_last_test(monkeypatch):
    """A process takes seconds to import MLflow: that of a test's run sends the run of the next test, as in a sweep."""
    from lr_plugins.tracking.delivery import Delivery

    deliveries, open_run = [], Delivery.open

    def noted(self, *arguments):
        deliveries.append(self)
        open_run(self, *arguments)

    monkeypatch.setattr(Delivery, "open", noted)
    yield
    for delivery in deliveries:
        delivery.release()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config):
    """One more than there are processors, because tests wait for servers, disks and other processes, too."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None  # somebody has chosen
    return 1 + (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Whole files run in parallel, and all of parity in one process: its last test reads what the others recorded."""
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid):
            return "tests/parity" if nodeid.startswith("tests/parity/") else super()._split_scope(nodeid)

    return ByFile(config, log)
