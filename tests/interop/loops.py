"""Plain loops for tests."""

import torch


def sgd(lr=0.1, **options):
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=lr, **options)


def used(optimizer, scheduler, steps):
    """The learning rates of each group at each step of a loop, read when the optimizer steps."""
    rates = []
    for _ in range(steps):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.ones_like(parameter)
        handle = optimizer.register_step_pre_hook(
            lambda one, *_: rates.append([float(group["lr"]) for group in one.param_groups])
        )
        optimizer.step()
        handle.remove()
        scheduler.step()
    return rates


def first_rates(optimizer, scheduler, steps):
    return [rates[0] for rates in used(optimizer, scheduler, steps)]
