"""Each test leaves torch's global hooks as it found them."""

import pytest

from lr_plugins.engine import step_hooks


@pytest.fixture(autouse=True)
def follow_nothing_afterwards():
    yield
    step_hooks._followers.clear()
    step_hooks._watchers.clear()
    step_hooks._install()
