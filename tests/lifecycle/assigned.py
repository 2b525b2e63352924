"""A model of several layers, an optimizer of two groups, and the values that a schedule assigns to them."""

import torch

from lr_plugins import RunLength
from tests.toys import Toy


class Deep(Toy):
    """Three layers in a backbone, and a head."""

    def __init__(self, make_optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1)):
        super().__init__(make_optimizer)
        del self.layer
        torch.manual_seed(0)
        self.backbone = torch.nn.Sequential(*[torch.nn.Linear(3, 3) for _ in range(3)])
        self.head = torch.nn.Linear(3, 1)

    def compute_loss(self, batch):
        x, y = batch
        return torch.nn.functional.mse_loss(self.head(self.backbone(x)), y)


def two_groups(parameters):
    weight, bias = parameters
    groups = [{"params": [weight]}, {"params": [bias], "lr": 0.02, "name": "bias"}]
    return torch.optim.SGD(groups, lr=0.1)


def used(scheduler, name="lr"):
    return scheduler.trace[name].values.tolist()


RUN = RunLength.of(steps_per_epoch=6, epochs=3)


def planned(schedule, base=0.1, run=RUN):
    return [schedule(run.position(step, base)) for step in range(run.steps)]
