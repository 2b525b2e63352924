"""The split into training and validation."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from lr_plugins.training.data import stratified_split
from tests.training.data import LAWS, SEEDS


@LAWS
@given(
    labels=st.lists(st.integers(0, 5), min_size=1, max_size=80),
    fraction=st.floats(0, 1, exclude_max=True),
    seed=SEEDS,
)
def test_stratified_split_laws(labels, fraction, seed):
    y = torch.tensor(labels)
    train, val = stratified_split(y, fraction, seed)
    assert sorted(train.tolist() + val.tolist()) == list(range(len(y)))
    assert train.tolist() == sorted(train.tolist())
    assert val.tolist() == sorted(val.tolist())
    assert len(train) >= 1
    assert len(val) == min(int(np.ceil(np.round(fraction * len(y), 9))), len(y) - 1)
    for label in set(labels):
        share = labels.count(label) * len(val) / len(labels)
        assert abs((y[val] == label).sum().item() - share) < 1
    again = stratified_split(y, fraction, seed)
    assert torch.equal(again[0], train)
    assert torch.equal(again[1], val)


def test_the_split_follows_the_seed():
    splits = {tuple(stratified_split(torch.arange(150) // 50, 0.2, seed)[1].tolist()) for seed in range(20)}
    assert len(splits) == 20
