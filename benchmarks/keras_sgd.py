"""Time of one optimizer step: KerasSGD and torch.optim.SGD, both with momentum.

Method: all optimizers run in one process, each with its own copy of the same weights and fixed gradients (no model is
run). In every round each does a fixed number of steps, in an order that rotates from round to round, so that other load
on the machine affects all of them alike. The table shows the median time of a step over the rounds, and the median and
quartiles of its ratios, within each round, to torch's default.

    python benchmarks/keras_sgd.py
    python benchmarks/keras_sgd.py --models mlp resnet18 --rounds 200 --nesterov --device cuda
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable

import torch

from lr_plugins.optim import KerasSGD

Shapes = list[tuple[int, ...]]
REFERENCE = "torch SGD"


def mlp() -> Shapes:
    return [(6, 4), (6,), (3, 6), (3,)]


def squares() -> Shapes:
    return [(64, 64)] * 50


def resnet18() -> Shapes:
    shapes: Shapes = [(64, 3, 7, 7), (64,), (64,)]
    channels = 64
    for width in (64, 128, 256, 512):
        for _ in range(2):
            shapes += [(width, channels, 3, 3), (width,), (width,), (width, width, 3, 3), (width,), (width,)]
            if channels != width:
                shapes += [(width, channels, 1, 1), (width,), (width,)]
            channels = width
    return [*shapes, (1000, 512), (1000,)]


# The shapes of a model, and the steps of one round: about 5 to 10 ms on a CPU.
MODELS: dict[str, tuple[Callable[[], Shapes], int]] = {
    "mlp": (mlp, 200),
    "squares": (squares, 40),
    "resnet18": (resnet18, 2),
}


def optimizers(nesterov: bool) -> dict[str, Callable[..., torch.optim.Optimizer]]:
    settings = {"lr": 0.01, "momentum": 0.9, "nesterov": nesterov}
    return {
        REFERENCE: functools.partial(torch.optim.SGD, **settings),
        "torch SGD, foreach=True": functools.partial(torch.optim.SGD, **settings, foreach=True),
        "KerasSGD": functools.partial(KerasSGD, **settings),
    }


def parameters(shapes: Shapes, device: str) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(shape, generator=generator).to(device)) for shape in shapes]
    for weight in weights:
        weight.grad = 1e-3 * torch.randn(weight.shape, generator=generator).to(device)
    return weights


def seconds_per_step(step: Callable[[], object], steps: int, synchronize: Callable[[], None]) -> float:
    synchronize()
    start = time.perf_counter()
    for _ in range(steps):
        step()
    synchronize()
    return (time.perf_counter() - start) / steps


def measure(shapes: Shapes, steps: int, arguments: argparse.Namespace) -> dict[str, list[float]]:
    synchronize = torch.accelerator.synchronize if arguments.device != "cpu" else lambda: None
    contenders = {
        name: build(parameters(shapes, arguments.device)) for name, build in optimizers(arguments.nesterov).items()
    }
    names = list(contenders)
    times: dict[str, list[float]] = {name: [] for name in names}
    warm_up = 3
    for round_ in range(warm_up + arguments.rounds):
        first = round_ % len(names)
        for name in names[first:] + names[:first]:
            taken = seconds_per_step(contenders[name].step, steps, synchronize)
            if round_ >= warm_up:
                times[name].append(taken)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--nesterov", action="store_true")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()

    print(
        f"torch {torch.__version__}, {arguments.device}, {torch.get_num_threads()} threads, momentum 0.9,"
        f" nesterov {arguments.nesterov}, {arguments.rounds} interleaved rounds"
    )
    print("| model | tensors | weights | optimizer | median µs per step | ratio to torch's default (quartiles) |")
    print("|---|---|---|---|---|---|")
    for model in arguments.models:
        make_shapes, steps = MODELS[model]
        shapes = make_shapes()
        weights = sum(torch.Size(shape).numel() for shape in shapes)
        times = measure(shapes, steps, arguments)
        for name, taken in times.items():
            ratios = [one / other for one, other in zip(taken, times[REFERENCE], strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            print(
                f"| {model} | {len(shapes)} | {weights:,} | {name} | {1e6 * statistics.median(taken):.1f}"
                f" | {middle:.2f} ({low:.2f}-{high:.2f}) |"
            )


if __name__ == "__main__":
    main()
