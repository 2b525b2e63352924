"""Time of one learning-rate update, for 1, 10, 100 and 1000 param groups.

How it is measured: in one process, each way has an optimizer of its own with as many param groups as the column says.
In every round each way does a fixed number of updates, in an order that rotates from round to round. The table shows
the median time of one update over the rounds and the median of its ratios, within each round, to the bare loop.

- `bare loop`: `for group in optimizer.param_groups: group["lr"] = value`, the value taken from a list.
- `bare loop, one number`: the same without the list, one number again and again.
- `ours`: the update of LearningRateScheduler (`Writer.advance`), for some schedules. `own rates`: every group has a
  ratio of its own to the optimizer's default; the bare loop beside it multiplies as well.
- `idle step`: `step()` of an optimizer that does nothing, for what torch itself needs; and the same with the hooks of
  LearningRateScheduler on it: the update, the look at who else has written, before and after, and the record.
- torch: `scheduler.step()` of LambdaLR, CosineAnnealingLR and SequentialLR (linear, then cosine).

    python benchmarks/update.py
    python benchmarks/update.py --groups 1 100 --rounds 300
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import time
import warnings
from collections.abc import Callable

import torch
from torch.optim import lr_scheduler

from lr_plugins import Assign, CosineDecay, InverseTimeDecay, Position, RunLength, Schedule, StepDecay
from lr_plugins.engine.trace import Trace
from lr_plugins.engine.writer import Writer
from lr_plugins.schedules.position import Count

STEPS = 100_000  # of the run
RUN = RunLength.of(steps_per_epoch=STEPS, epochs=1)
SCHEDULES: dict[str, Schedule] = {
    "step decay": StepDecay(0.1, every="10ep"),
    "inverse time": InverseTimeDecay(0.1, decay_steps=1, decay_rate=0.01),
    "cosine": CosineDecay(0.1),
    "warm-up, cosine": CosineDecay(0.1).with_warmup("5%"),
}
BARE = "bare loop"
Update = Callable[[], object]


def optimizer(groups: int, own_rates: bool = False) -> torch.optim.Optimizer:
    parameters = [{"params": [torch.nn.Parameter(torch.zeros(1))]} for _ in range(groups)]
    if own_rates:
        for index, group in enumerate(parameters):
            group["lr"] = 0.1 * (index + 2)
    return torch.optim.SGD(parameters, lr=0.1)


def bare(groups: int) -> Update:
    driven = optimizer(groups)
    values = itertools.cycle([0.05 * (1 + math.cos(math.pi * step / STEPS)) for step in range(STEPS)])

    def update() -> None:
        value = next(values)
        for group in driven.param_groups:
            group["lr"] = value

    return update


def bare_own_rates(groups: int) -> Update:
    driven = optimizer(groups)
    values = itertools.cycle([0.05 * (1 + math.cos(math.pi * step / STEPS)) for step in range(STEPS)])
    ratios = [float(index + 2) for index in range(groups)]

    def update() -> None:
        value = next(values)
        for group, ratio in zip(driven.param_groups, ratios, strict=True):
            group["lr"] = value * ratio

    return update


def one_number(groups: int) -> Update:
    driven = optimizer(groups)

    def update() -> None:
        for group in driven.param_groups:
            group["lr"] = 0.05

    return update


def place(step: Count, base: float) -> Position:
    """As in a training: the steps of one epoch."""
    return Position(step, 0, RUN, base)


def ours(schedule: Schedule, groups: int, own_rates: bool = False) -> Update:
    writer = Writer(optimizer(groups, own_rates), {0: Assign(schedule)}, place)
    writer.refresh()
    return writer.advance


class Idle(torch.optim.Optimizer):
    """Takes steps that change nothing."""

    def __init__(self, groups: int) -> None:
        super().__init__([{"params": [torch.nn.Parameter(torch.zeros(1))]} for _ in range(groups)], {"lr": 0.1})

    def step(self, closure: object = None) -> None:  # type: ignore[override]
        pass


def hooked(groups: int) -> Update:
    driven = Idle(groups)
    writer = Writer(driven, {0: Assign(SCHEDULES["cosine"])}, place)
    writer.refresh()
    writer.attach(Trace())
    return driven.step


def theirs(make: Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler], groups: int) -> Update:
    driven = optimizer(groups)
    scheduler = make(driven)
    driven.step()
    return scheduler.step


def torchs() -> dict[str, Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler]]:
    return {
        "torch LambdaLR": lambda one: lr_scheduler.LambdaLR(
            one, lambda step: 0.5 * (1 + math.cos(math.pi * step / STEPS))
        ),
        "torch CosineAnnealingLR": lambda one: lr_scheduler.CosineAnnealingLR(one, STEPS),
        "torch SequentialLR": lambda one: lr_scheduler.SequentialLR(
            one,
            [lr_scheduler.LinearLR(one, 0.01, 1.0, 5000), lr_scheduler.CosineAnnealingLR(one, STEPS - 5000)],
            [5000],
        ),
    }


def ways(groups: int) -> dict[str, Update]:
    return {
        BARE: bare(groups),
        "bare loop, one number": one_number(groups),
        "bare loop, own rates": bare_own_rates(groups),
        **{f"ours: {name}": ours(schedule, groups) for name, schedule in SCHEDULES.items()},
        "ours: cosine, own rates": ours(SCHEDULES["cosine"], groups, own_rates=True),
        "idle step": Idle(groups).step,
        "idle step, ours hooked": hooked(groups),
        **{name: theirs(make, groups) for name, make in torchs().items()},
    }


def measure(groups: int, rounds: int) -> dict[str, tuple[float, float]]:
    """Median seconds of one update, and median ratio to the bare loop, by way."""
    # So many that each round has its share of the blocks that ours computes ahead, where that matters.
    updates, count = ways(groups), 8192 if groups < 100 else max(10_000 // (groups + 10), 20)
    seconds: dict[str, list[float]] = {name: [] for name in updates}
    names = list(updates)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            update, begin = updates[name], time.perf_counter()
            for _ in range(count):
                update()
            seconds[name].append((time.perf_counter() - begin) / count)
    return {
        name: (
            statistics.median(mine),
            statistics.median(one / bare for one, bare in zip(mine, seconds[BARE], strict=True)),
        )
        for name, mine in seconds.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=int, nargs="+", default=[1, 10, 100, 1000])
    parser.add_argument("--rounds", type=int, default=100)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)
    warnings.filterwarnings("ignore", "The epoch parameter in", UserWarning)
    found = {groups: measure(groups, options.rounds) for groups in options.groups}
    print(f"{'param groups':26}" + "".join(f"{groups:>20}" for groups in options.groups))
    for name in found[options.groups[0]]:
        cells = (f"{found[groups][name][0] * 1e6:.3f} us {found[groups][name][1]:6.2f}x" for groups in options.groups)
        print(f"{name:26}" + "".join(f"{cell:>20}" for cell in cells))


if __name__ == "__main__":
    main()
