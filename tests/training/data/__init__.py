"""What the tests of the data modules share."""

import torch
from hypothesis import settings
from hypothesis import strategies as st

LAWS = settings(max_examples=50)
SEEDS = st.integers(0, 2**32 - 1)


def ready(data):
    data.prepare_data()
    data.setup()
    return data


def gathered(loader):
    batches = list(loader)
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


def order(loader):
    return torch.cat([y for _, y in loader]).tolist()
