"""What the tests of KerasClassifier share."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_iris
from torch import nn

from lr_plugins.keras import SGD, KerasClassifier
from lr_plugins.training.models import initialize

X, Y = load_iris(return_X_y=True)
NAMES = load_iris().target_names[Y]
ONE_HOT = np.eye(3)[Y]


def build(units=6, lr=0.01, softmax=True, classes=3):
    layers = [nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, units), nn.ReLU(), nn.Linear(units, classes)]
    network = nn.Sequential(*layers, *([nn.Softmax(dim=-1)] if softmax else []))
    initialize(network, "keras")
    return network, SGD(network.parameters(), lr=lr, momentum=0.9)


def step_decay(epoch):
    return 0.01 * 0.9**epoch


def classifier(build_fn=build, **arguments):
    return KerasClassifier(build_fn, **{"epochs": 2, "batch_size": 25, "verbose": 0, "random_state": 3, **arguments})


def weights(fitted):
    return torch.cat([parameter.detach().flatten() for parameter in fitted.model_.parameters()])
