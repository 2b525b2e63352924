"""Each shape over a whole run against the libraries that have it: torch, timm, transformers, Keras.

The first three compute in float64, and agree to 1e-12, relative to the value. Next to 0 all of them take the difference
of rounded numbers, which leaves an error of some roundings of the largest value: to it, 4e-15 relative to the peak is
added where the library has a formula. torch's schedulers multiply the learning rate of the step before, and gather
errors as they go: over these runs they are off by 8.1e-15 of the peak at most (LinearLR down); 1.6e-14 is allowed.
Keras computes in float32: 1e-6, relative to the peak.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import timm.scheduler as timm
import torch
import transformers

from lr_plugins.schedules.combinators.chain import Chain
from lr_plugins.schedules.combinators.noise import Noise
from lr_plugins.schedules.combinators.repeated import Repeated
from lr_plugins.schedules.position import RunLength
from lr_plugins.schedules.schedule import Schedule
from lr_plugins.schedules.shapes.constant import Constant
from lr_plugins.schedules.shapes.cosine import CosineDecay, CosineRestarts
from lr_plugins.schedules.shapes.exponential import ExponentialDecay
from lr_plugins.schedules.shapes.inverse import InverseSquareRoot
from lr_plugins.schedules.shapes.polynomial import LinearDecay, PolynomialDecay
from lr_plugins.schedules.shapes.step import MultiStepDecay, StepDecay
from lr_plugins.schedules.shapes.tanh import TanhDecay

from .deviation import assert_agrees

PEAK = 0.1
N = 1000
RELATIVE, OF_PEAK_FORMULA, OF_PEAK_RECURSION, OF_PEAK_FLOAT32 = 1e-12, 4e-15, 1.6e-14, 1e-6


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)


def ours(schedule: Schedule, steps: int) -> np.ndarray:
    """Evaluated as an array and step by step; both must agree."""
    run = RunLength.of(steps_per_epoch=1, epochs=steps)
    curve = schedule(run.position(np.arange(steps)))
    single = np.array([schedule(run.position(step)) for step in range(steps)])
    np.testing.assert_allclose(curve, single, rtol=1e-14, atol=PEAK * 2**-52)
    return single


def assert_same(schedule: Schedule, theirs: np.ndarray, of_peak: float, original: str) -> None:
    assert theirs.dtype == np.float64
    assert len(np.unique(theirs)) > 1
    mine = ours(schedule, len(theirs))
    assert_agrees(schedule, mine, theirs, original=original, relative=RELATIVE, of_peak=of_peak, peak=PEAK)


# --- torch --------------------------------------------------------------------------------------------------

torch_lr = torch.optim.lr_scheduler


def torch_trace(make: Callable[..., Any], steps: int) -> np.ndarray:
    """The lr of each step of a loop of optimizer.step(), scheduler.step()."""
    optim = optimizer()
    scheduler, rates = make(optim), []
    for _ in range(steps):
        rates.append(optim.param_groups[0]["lr"])
        optim.step()
        scheduler.step()
    return np.array(rates)


TORCH = {
    "LinearLR down": (
        LinearDecay(0.09, end_learning_rate=0.03, decay_steps=N),
        lambda o: torch_lr.LinearLR(o, 0.9, 0.3, N),
        1200,
    ),
    "LinearLR up": (
        LinearDecay(PEAK / 3, end_learning_rate=PEAK, decay_steps=50),
        lambda o: torch_lr.LinearLR(o, total_iters=50),
        100,
    ),
    "PolynomialLR line": (PolynomialDecay(PEAK, decay_steps=N), lambda o: torch_lr.PolynomialLR(o, N), 1200),
    "PolynomialLR square": (
        PolynomialDecay(PEAK, decay_steps=N, power=2),
        lambda o: torch_lr.PolynomialLR(o, N, 2.0),
        1200,
    ),
    "PolynomialLR root": (
        PolynomialDecay(PEAK, decay_steps=N, power=0.5),
        lambda o: torch_lr.PolynomialLR(o, N, 0.5),
        1200,
    ),
    # Only up to T_max: from there torch's goes up again.
    "CosineAnnealingLR": (CosineDecay(PEAK, decay_steps=N), lambda o: torch_lr.CosineAnnealingLR(o, N), N + 1),
    "CosineAnnealingLR floor": (
        CosineDecay(PEAK, decay_steps=N, end_learning_rate=0.003),
        lambda o: torch_lr.CosineAnnealingLR(o, N, 0.003),
        N + 1,
    ),
    "CosineAnnealingWarmRestarts equal": (
        CosineRestarts(PEAK, first_decay_steps=50, t_mul=1, end_learning_rate=0.003),
        lambda o: torch_lr.CosineAnnealingWarmRestarts(o, 50, 1, 0.003),
        5000,
    ),
    "CosineAnnealingWarmRestarts doubling": (
        CosineRestarts(PEAK, first_decay_steps=10),
        lambda o: torch_lr.CosineAnnealingWarmRestarts(o, 10, 2),
        5000,
    ),
    "CosineAnnealingWarmRestarts trebling": (
        CosineRestarts(PEAK, first_decay_steps=7, t_mul=3),
        lambda o: torch_lr.CosineAnnealingWarmRestarts(o, 7, 3),
        5000,
    ),
    "MultiStepLR": (
        MultiStepDecay(PEAK, milestones=["30st", "60st", "60st", "500st"], gamma=0.3),
        lambda o: torch_lr.MultiStepLR(o, [30, 60, 60, 500], 0.3),
        N,
    ),
    "StepLR": (StepDecay(PEAK, drop=0.5, every="30st"), lambda o: torch_lr.StepLR(o, 30, 0.5), N),
    "ExponentialLR": (
        ExponentialDecay(PEAK, decay_steps=1, decay_rate=0.99),
        lambda o: torch_lr.ExponentialLR(o, 0.99),
        N,
    ),
}


@pytest.mark.parametrize("name", TORCH)
def test_torch(name):
    schedule, make, steps = TORCH[name]
    assert_same(schedule, torch_trace(make, steps), OF_PEAK_RECURSION, f"torch {name}")


WITH_A_FORMULA = [name for name in TORCH if not name.startswith("CosineAnnealingWarmRestarts")]


@pytest.mark.filterwarnings("ignore:The epoch parameter in")
@pytest.mark.parametrize("name", WITH_A_FORMULA)
def test_torch_by_its_formulas(name):
    """`scheduler.step(epoch)` is deprecated, and the one way to them that is not private."""
    schedule, make, steps = TORCH[name]
    optim = optimizer()
    scheduler, theirs = make(optim), []
    optim.step()
    for step in range(steps):
        scheduler.step(step)
        theirs.append(optim.param_groups[0]["lr"])
    assert_same(schedule, np.array(theirs), OF_PEAK_FORMULA, f"torch {name}, by its formula")


@pytest.mark.parametrize("epochs_of", [1, 3])
def test_torch_once_an_epoch_is_a_schedule_of_epochs(epochs_of):
    run = RunLength.of(steps_per_epoch=epochs_of, epochs=100)
    rates = MultiStepDecay(PEAK, milestones=["30ep", "60ep"])(run.position(np.arange(100 * epochs_of)))
    theirs = torch_trace(lambda o: torch_lr.MultiStepLR(o, [30, 60]), 100)
    original = "torch MultiStepLR, once an epoch"
    assert_agrees(
        MultiStepDecay(PEAK, milestones=["30ep", "60ep"]), rates, np.repeat(theirs, epochs_of), original=original
    )


# --- timm ---------------------------------------------------------------------------------------------------


def timm_trace(make: Callable[..., Any], steps: int) -> np.ndarray:
    optim = optimizer()
    scheduler, rates = make(optim), []
    for step in range(steps):
        scheduler.step(step)
        rates.append(optim.param_groups[0]["lr"])
    return np.array(rates)


TIMM = {
    "cosine": (
        CosineDecay(PEAK, decay_steps=N, end_learning_rate=0.003),
        lambda o: timm.CosineLRScheduler(o, N, lr_min=0.003),
    ),
    "cosine, equal cycles": (
        CosineRestarts(PEAK, first_decay_steps=100, t_mul=1, m_mul=0.8),
        lambda o: timm.CosineLRScheduler(o, 100, cycle_decay=0.8, cycle_limit=99),
    ),
    "cosine, growing cycles above a floor": (
        CosineRestarts(PEAK, first_decay_steps=100, t_mul=1.5, m_mul=0.8, end_learning_rate=0.003, whole_peak=True),
        lambda o: timm.CosineLRScheduler(o, 100, lr_min=0.003, cycle_mul=1.5, cycle_decay=0.8, cycle_limit=99),
    ),
    "cosine, three cycles and no more": (
        Chain([CosineRestarts(PEAK, first_decay_steps=100), Constant(0.0)], lengths=["700st"]),
        lambda o: timm.CosineLRScheduler(o, 100, cycle_mul=2.0, cycle_limit=3),
    ),
    "cosine, k-decay": (
        CosineDecay(PEAK, decay_steps=N, end_learning_rate=0.003, k_decay=1.5),
        lambda o: timm.CosineLRScheduler(o, N, 0.003, k_decay=1.5),
    ),
    "cosine, growing cycles, k-decay": (
        CosineRestarts(
            PEAK, first_decay_steps=100, t_mul=1.5, m_mul=0.8, end_learning_rate=0.003, whole_peak=True, k_decay=0.7
        ),
        lambda o: timm.CosineLRScheduler(o, 100, 0.003, 1.5, 0.8, 99, k_decay=0.7),
    ),
    "poly, k-decay": (
        PolynomialDecay(PEAK, decay_steps=N, end_learning_rate=0.003, power=2.0, k_decay=2.0),
        lambda o: timm.PolyLRScheduler(o, N, 2.0, 0.003, k_decay=2.0),
    ),
    "poly": (
        PolynomialDecay(PEAK, decay_steps=N, end_learning_rate=0.003, power=0.5),
        lambda o: timm.PolyLRScheduler(o, N, lr_min=0.003),
    ),
    "poly, cycles": (
        Repeated(PolynomialDecay(PEAK, decay_steps="100%", end_learning_rate=0.003, power=2), every="100st"),
        lambda o: timm.PolyLRScheduler(o, 100, power=2, lr_min=0.003, cycle_limit=99),
    ),
    "tanh": (
        TanhDecay(PEAK, decay_steps=N, end_learning_rate=0.003),
        lambda o: timm.TanhLRScheduler(o, N, lr_min=0.003),
    ),
    "tanh, part of it": (
        TanhDecay(PEAK, decay_steps=N, lower=-4.0, upper=4.0),
        lambda o: timm.TanhLRScheduler(o, N, lb=-4.0, ub=4.0),
    ),
    "tanh, cycles": (
        Repeated(TanhDecay(PEAK, decay_steps="100%"), every="100st"),
        lambda o: timm.TanhLRScheduler(o, 100, cycle_limit=99),
    ),
    # timm counts its milestones from 1: what it calls 30 is reached at index 29.
    "multistep": (
        MultiStepDecay(PEAK, milestones=["29st", "59st", "499st"]),
        lambda o: timm.MultiStepLRScheduler(o, [30, 60, 500], 0.1),
    ),
    "step": (StepDecay(PEAK, drop=0.5, every="30st"), lambda o: timm.StepLRScheduler(o, 30, 0.5)),
}


@pytest.mark.parametrize("name", TIMM)
def test_timm(name):
    schedule, make = TIMM[name]
    assert_same(schedule, timm_trace(make, 1500), OF_PEAK_FORMULA, f"timm {name}")


def test_the_noise_has_the_distribution_and_range_of_timms():
    """The random numbers are others: timm's come from torch."""
    steps, first, last, limit, std = 5000, 500, 4500, 0.4, 0.5

    def make(optim: torch.optim.Optimizer) -> Any:
        return timm.StepLRScheduler(
            optim, 9999, 0.1, noise_range_t=(first, last), noise_pct=limit, noise_std=std, noise_seed=7
        )

    theirs = timm_trace(make, steps) / PEAK - 1
    noisy = Noise(
        Constant(PEAK), every="1st", after=first, until=last, limit=limit, std=std, distribution="normal", seed=7
    )
    mine = ours(noisy, steps) / PEAK - 1
    assert ((theirs != 0) == (mine != 0)).all()
    theirs, mine = (np.sort(noise[first:last]) for noise in (theirs, mine))
    # Kolmogorov and Smirnov, two samples: with a probability of 0.999 no farther apart than this.
    both = np.concatenate([theirs, mine])
    apart = np.searchsorted(theirs, both, side="right") - np.searchsorted(mine, both, side="right")
    assert np.abs(apart).max() / mine.size < 1.95 * (2 / mine.size) ** 0.5
    assert np.abs([theirs.min() - mine.min(), theirs.max() - mine.max()]).max() < 0.005


# --- transformers -------------------------------------------------------------------------------------------

HF = {
    "linear": (
        LinearDecay(PEAK, end_learning_rate=0.0, decay_steps=N),
        lambda o: transformers.get_linear_schedule_with_warmup(o, 0, N),
        1200,
    ),
    "linear after a warm-up": (
        Chain(
            [
                LinearDecay(0.0, end_learning_rate=PEAK, decay_steps="100%"),
                LinearDecay(PEAK, end_learning_rate=0.0, decay_steps=N - 100),
            ],
            lengths=["100st"],
        ),
        lambda o: transformers.get_linear_schedule_with_warmup(o, 100, N),
        1200,
    ),
    # Only up to the end: from there theirs goes up again.
    "cosine": (
        CosineDecay(PEAK, decay_steps=N),
        lambda o: transformers.get_cosine_schedule_with_warmup(o, 0, N),
        N + 1,
    ),
    "cosine after a warm-up": (
        Chain(
            [LinearDecay(0.0, end_learning_rate=PEAK, decay_steps="100%"), CosineDecay(PEAK, decay_steps=N - 100)],
            lengths=["100st"],
        ),
        lambda o: transformers.get_cosine_schedule_with_warmup(o, 100, N),
        N + 1,
    ),
    "cosine with a floor": (
        CosineDecay(PEAK, decay_steps=N, end_learning_rate=0.003),
        lambda o: transformers.get_cosine_with_min_lr_schedule_with_warmup(o, 0, N, min_lr=0.003),
        N + 1,
    ),
    "cosine with restarts": (
        Chain([CosineRestarts(PEAK, first_decay_steps=N / 4, t_mul=1), Constant(0.0)], lengths=[N]),
        lambda o: transformers.get_cosine_with_hard_restarts_schedule_with_warmup(o, 0, N, 4),
        1200,
    ),
    "polynomial": (
        PolynomialDecay(PEAK, decay_steps=N, end_learning_rate=1e-3, power=2),
        lambda o: transformers.get_polynomial_decay_schedule_with_warmup(o, 0, N, 1e-3, 2.0),
        1200,
    ),
    "inverse square root": (
        InverseSquareRoot(PEAK, decay_steps=300),
        lambda o: transformers.get_inverse_sqrt_schedule(o, 0, timescale=300),
        5000,
    ),
    "inverse square root, defaults": (
        InverseSquareRoot(PEAK),
        lambda o: transformers.get_inverse_sqrt_schedule(o, 0),
        5000,
    ),
    "inverse square root after a warm-up": (
        Chain(
            [LinearDecay(0.0, end_learning_rate=PEAK, decay_steps="100%"), InverseSquareRoot(PEAK, decay_steps=300)],
            lengths=["300st"],
        ),
        lambda o: transformers.get_inverse_sqrt_schedule(o, 300),
        5000,
    ),
}


@pytest.mark.parametrize("name", HF)
def test_transformers(name):
    schedule, make, steps = HF[name]
    assert_same(schedule, torch_trace(make, steps), OF_PEAK_FORMULA, f"transformers {name}")


# --- Keras --------------------------------------------------------------------------------------------------

keras_lr = keras.optimizers.schedules

KERAS = {
    "PolynomialDecay": (
        PolynomialDecay(PEAK, decay_steps=N, end_learning_rate=1e-4),
        keras_lr.PolynomialDecay(PEAK, N),
    ),
    "PolynomialDecay square": (
        PolynomialDecay(PEAK, decay_steps=N, end_learning_rate=0.01, power=2),
        keras_lr.PolynomialDecay(PEAK, N, 0.01, 2.0),
    ),
    "PolynomialDecay root": (
        PolynomialDecay(PEAK, decay_steps=N, end_learning_rate=0.01, power=0.5),
        keras_lr.PolynomialDecay(PEAK, N, 0.01, 0.5),
    ),
    "PolynomialDecay cycle": (
        PolynomialDecay(PEAK, decay_steps=100, end_learning_rate=0.01, cycle=True),
        keras_lr.PolynomialDecay(PEAK, 100, 0.01, cycle=True),
    ),
    "PolynomialDecay square, cycle": (
        PolynomialDecay(PEAK, decay_steps=70, end_learning_rate=0.0, power=2, cycle=True),
        keras_lr.PolynomialDecay(PEAK, 70, 0.0, 2.0, cycle=True),
    ),
    "CosineDecay": (CosineDecay(PEAK, decay_steps=N), keras_lr.CosineDecay(PEAK, N)),
    "CosineDecay floor": (
        CosineDecay(PEAK, decay_steps=N, end_learning_rate=0.05 * PEAK),
        keras_lr.CosineDecay(PEAK, N, alpha=0.05),
    ),
    "CosineDecay after a warm-up": (
        Chain(
            [
                LinearDecay(0.01, end_learning_rate=PEAK, decay_steps="100%"),
                CosineDecay(PEAK, decay_steps=N, end_learning_rate=0.05 * PEAK),
            ],
            lengths=["100st"],
        ),
        keras_lr.CosineDecay(0.01, N, alpha=0.05, warmup_target=PEAK, warmup_steps=100),
    ),
    "CosineDecayRestarts": (CosineRestarts(PEAK, first_decay_steps=100), keras_lr.CosineDecayRestarts(PEAK, 100)),
    "CosineDecayRestarts equal": (
        CosineRestarts(PEAK, first_decay_steps=100, t_mul=1, m_mul=0.8, end_learning_rate=0.05 * PEAK),
        keras_lr.CosineDecayRestarts(PEAK, 100, 1.0, 0.8, 0.05),
    ),
}


@pytest.mark.parametrize("name", KERAS)
def test_keras(name):
    schedule, theirs = KERAS[name]
    rates = np.array([float(theirs(step)) for step in range(1500)])
    assert len(np.unique(rates)) > 100
    mine = ours(schedule, 1500)
    assert_agrees(schedule, mine, rates, original=f"keras {name}", relative=0, of_peak=OF_PEAK_FLOAT32, peak=PEAK)


@pytest.mark.parametrize(
    ("first", "t_mul"), [(10, 1.1), (10, 1.2), (10, 1.3), (90, 1.5), (100, 1.2), (1, 2.0), (7, 3.0)]
)
def test_no_restart_is_late_unlike_in_keras(first, t_mul):
    """Which ones it misses is a matter of float32 logarithms, and thereby of the processor."""
    theirs, mine = (
        keras_lr.CosineDecayRestarts(PEAK, first, t_mul, 0.9, 0.05),
        CosineRestarts(PEAK, first_decay_steps=first, t_mul=t_mul, m_mul=0.9, end_learning_rate=0.05 * PEAK),
    )
    steps = 1000
    rates, curve = np.array([float(theirs(step)) for step in range(steps)]), ours(mine, steps)
    (late,) = np.nonzero(np.abs(rates - curve) > PEAK * 2e-5)  # Keras' phase is float32: worse than its value
    begins = [first * (t_mul**index - 1) / (t_mul - 1) for index in range(1, 40)]
    for step in late:
        assert min(abs(step - begin) for begin in begins) < 1e-9
        assert rates[step] == pytest.approx(0.05 * PEAK, rel=1e-3)  # the end of the period before
        assert curve[step] > curve[step + 1] > curve[step - 1] > 0.05 * PEAK
    assert len(late) < 5
