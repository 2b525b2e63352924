"""Time of every built-in schedule: over a million steps at once, in the writer's blocks, and one step at a time.

The schedules are those of `docs/schedules.md` and some options that are slower than the plain shape, in a run of a
million steps in a hundred epochs. The first column is the median over several evaluations of the whole run, the second
over blocks of 1024 steps of one epoch, spread over the run, the third over single steps far from each other, the fourth
over steps in a row, as a loop asks for them. The position is made within the time of a call.

    python benchmarks/shapes.py
    python benchmarks/shapes.py --rounds 9 --only cosine noise
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np

from docs_tools.catalogue import EXAMPLES
from lr_plugins import schedules as s
from lr_plugins.schedules import Position, RunLength, Schedule

STEPS, BLOCK = 1_000_000, 1024
RUN = RunLength.of(steps_per_epoch=10_000, epochs=100, batch_size=32)
SLOWER: dict[str, Schedule] = {
    "step_decay, every step": s.StepDecay(0.1, drop=0.999999, every="1st"),
    "multi_step, 9 milestones": s.MultiStepDecay(0.1, milestones=[f"{10 * one}ep" for one in range(1, 10)], gamma=0.5),
    "exponential, staircase": s.ExponentialDecay(0.1, decay_steps=100, decay_rate=0.9999, staircase=True),
    "polynomial, cycle": s.PolynomialDecay(0.1, decay_steps=1000, power=2.5, cycle=True),
    "cosine, power": s.CosineDecay(0.1, power=1.5),
    "cosine_restarts, equal": s.CosineRestarts(0.1, first_decay_steps=43, t_mul=1.0),
    "cosine_restarts, slowly growing": s.CosineRestarts(0.1, first_decay_steps=43, t_mul=1.01, m_mul=0.99),
    "interpolation, cosine": s.PiecewiseInterpolation([[0, 0.0], ["10%", 0.1], ["100%", 0.0]], interpolation="cosine"),
    "one_cycle, three phases": s.OneCycle(0.1, three_phase=True),
    "cyclic, exp_range": s.Cyclic(0.01, 0.1, up_steps=40, mode="exp_range", gamma=0.99999),
    "inverse_sqrt, power": s.InverseSquareRoot(0.1, decay_steps=100, power=0.7),
    "cooldown, exponential": s.Cooldown(0.1, shape="exponential"),
    "loss_driven": s.LossDriven(0.1),
    "noise, every step": s.Noise(s.Constant(0.1), every="1st"),
    "noise, every step, far tails": s.Noise(s.Constant(0.1), every="1st", std=0.1),
    "noise, every step, uniform": s.Noise(s.Constant(0.1), every="1st", distribution="uniform"),
    "chain of 5": s.Chain([s.CosineDecay(0.1)] * 5, lengths=["20%"] * 4),
}


def seconds(call: Callable[[int], object], calls: int, rounds: int) -> float:
    """The median over rounds of the time of one of some calls; the first round does not count."""
    taken = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        for index in range(calls):
            call(index)
        taken.append((time.perf_counter() - start) / calls)
    return statistics.median(taken[1:])


def measure(schedule: Schedule, rounds: int) -> tuple[float, float, float, float]:
    """(ms per million steps, ns per step in blocks, µs per single step, µs per step in a row)."""
    steps = np.arange(STEPS)

    def block(index: int) -> object:
        epoch = 5 * index % 100
        first = epoch * 10_000 + 3000
        return schedule(Position(np.arange(first, first + BLOCK), epoch, RUN, 0.1))

    whole = seconds(lambda _: schedule(RUN.position(steps, 0.1)), 1, rounds)
    blocks = seconds(block, 50, rounds)
    single = seconds(lambda index: schedule(RUN.position(991 * index, 0.1)), 1000, rounds)
    in_a_row = seconds(lambda index: schedule(RUN.position(index, 0.1)), 10_000, rounds)
    return whole * 1e3, blocks * 1e9 / BLOCK, single * 1e6, in_a_row * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", default=[], help="names, or parts of them")
    arguments = parser.parse_args()
    schedules = {name: one for examples in EXAMPLES.values() for name, one in examples.items()} | SLOWER
    print(f"NumPy {np.__version__}, median of {arguments.rounds}")
    print("| schedule | ms per million steps | ns per step in blocks of 1024 | µs per single step | in a row |")
    print("|---|---|---|---|---|")
    for name, schedule in schedules.items():
        if not arguments.only or any(part in name for part in arguments.only):
            whole, block, single, in_a_row = measure(schedule, arguments.rounds)
            print(f"| {name} | {whole:.1f} | {block:.1f} | {single:.2f} | {in_a_row:.2f} |")


if __name__ == "__main__":
    main()
