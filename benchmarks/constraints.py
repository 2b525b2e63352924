"""Time of one step of KerasSGD: alone, with Keras' constraints on all weights, and with a hand-written loop.

Method: all contenders run in one process, each with its own copy of the same layers and fixed gradients (no model is
run). In every round each does a fixed number of steps, in an order that rotates from round to round, so that other load
on the machine affects all of them alike. The loop is the obvious code: after the step, apply the formula of the
constraint to each weight. The table shows the median time of a step over the rounds, and the median and quartiles of
its ratios, within each round, to the step alone.

    python benchmarks/constraints.py
    python benchmarks/constraints.py --constraints unit_norm min_max_norm non_neg --rounds 100 --device cuda
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from lr_plugins.keras import constraints
from lr_plugins.optim import KerasSGD

ALONE = "KerasSGD alone"
EPS = 1e-7

# The inputs and outputs of a layer, how many there are, and the steps of one round.
MODELS = {
    "small": (16, 100, 5),
    "squares": (64, 100, 5),
    "large": (1024, 10, 1),
}


def norms(weight: Tensor) -> Tensor:
    return weight.square().sum(0, keepdim=True).sqrt()


def max_norm(weight: Tensor) -> Tensor:
    n = norms(weight)
    return weight * (n.clip(0, 2) / (EPS + n))


def unit_norm(weight: Tensor) -> Tensor:
    return weight / (EPS + norms(weight))


def min_max_norm(weight: Tensor) -> Tensor:
    n = norms(weight)
    return weight * ((1.0 * n.clip(0.0, 1.0) + 0.0 * n) / (EPS + n))


def non_neg(weight: Tensor) -> Tensor:
    return weight.clamp(min=0)


FORMULAS = {"max_norm": max_norm, "unit_norm": unit_norm, "min_max_norm": min_max_norm, "non_neg": non_neg}


def layers(size: int, count: int, device: str) -> nn.ModuleList:
    generator = torch.Generator().manual_seed(0)
    module = nn.ModuleList(nn.Linear(size, size, bias=False) for _ in range(count))
    for layer in module:
        layer.weight.data = torch.randn(size, size, generator=generator).to(device)
        layer.weight.grad = 1e-3 * torch.randn(size, size, generator=generator).to(device)
    return module


def contenders(name: str, size: int, count: int, device: str) -> dict[str, Callable[[], object]]:
    modules = [layers(size, count, device) for _ in range(3)]
    optimizers = [KerasSGD(module.parameters(), lr=0.01, momentum=0.9) for module in modules]
    constraints.constrain(optimizers[1], modules[1], {r"weight$": name})
    formula, by_hand, optimizer = FORMULAS[name], list(modules[2].parameters()), optimizers[2]

    def step_and_loop() -> None:
        optimizer.step()
        with torch.no_grad():
            for weight in by_hand:
                kernel = weight.T  # as Keras has it
                kernel.copy_(formula(kernel))

    return {ALONE: optimizers[0].step, f"with {name}": optimizers[1].step, f"loop, {name}": step_and_loop}


def seconds_per_step(step: Callable[[], object], steps: int, synchronize: Callable[[], None]) -> float:
    synchronize()
    start = time.perf_counter()
    for _ in range(steps):
        step()
    synchronize()
    return (time.perf_counter() - start) / steps


def measure(name: str, model: str, arguments: argparse.Namespace) -> dict[str, list[float]]:
    synchronize = torch.accelerator.synchronize if arguments.device != "cpu" else lambda: None
    size, count, steps = MODELS[model]
    found = contenders(name, size, count, arguments.device)
    names = list(found)
    times: dict[str, list[float]] = {one: [] for one in names}
    warm_up = 3
    for round_ in range(warm_up + arguments.rounds):
        first = round_ % len(names)
        for one in names[first:] + names[:first]:
            taken = seconds_per_step(found[one], steps, synchronize)
            if round_ >= warm_up:
                times[one].append(taken)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--constraints", nargs="+", choices=list(FORMULAS), default=["max_norm"])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()

    threads = torch.get_num_threads()
    print(f"torch {torch.__version__}, {arguments.device}, {threads} threads, {arguments.rounds} interleaved rounds")
    print("| model | tensors | weights | step | median µs | ratio to the step alone (quartiles) |")
    print("|---|---|---|---|---|---|")
    for model in arguments.models:
        size, count, _ = MODELS[model]
        for name in arguments.constraints:
            times = measure(name, model, arguments)
            for step, taken in times.items():
                ratios = [one / other for one, other in zip(taken, times[ALONE], strict=True)]
                low, middle, high = statistics.quantiles(ratios, n=4)
                print(
                    f"| {model} | {count} | {count * size * size:,} | {step} | {1e6 * statistics.median(taken):.0f}"
                    f" | {middle:.2f} ({low:.2f}-{high:.2f}) |"
                )


if __name__ == "__main__":
    main()
