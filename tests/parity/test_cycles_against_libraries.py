"""Cycles and warm-ups against the schedulers of torch, timm, transformers and Keras, at every step of a run.

All but Keras compute in float64: the largest relative deviation allowed is 1e-12. Where an original adds a height to a
value a thousand times smaller, its own rounding is larger than that; `abs` then allows one rounding of the height.
"""

from __future__ import annotations

import math
import warnings

import keras
import numpy as np
import pytest
import torch
import transformers.optimization as hf
from timm.scheduler import CosineLRScheduler, StepLRScheduler
from timm.scheduler.wsd_lr import WSDLRScheduler
from torch.optim import lr_scheduler
from torch.optim.swa_utils import SWALR

from lr_plugins import Chain, Constant, FunctionSchedule, RunLength
from lr_plugins.schedules.combinators.annealed import Annealed
from lr_plugins.schedules.combinators.warmup import Warmup
from lr_plugins.schedules.combinators.warmup_stable_decay import WarmupStableDecay
from lr_plugins.schedules.shapes.cosine import CosineDecay
from lr_plugins.schedules.shapes.cycle import CycleThrough, Cyclic, OneCycle
from lr_plugins.schedules.shapes.inverse import InverseSquareRoot
from lr_plugins.schedules.shapes.polynomial import LinearDecay, PolynomialDecay
from lr_plugins.schedules.shapes.step import StepDecay

from .deviation import assert_agrees

BASE = 0.3
ROUNDING = 2**-52


def optimizer():
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=BASE, momentum=0.9)


def used(make, steps):
    """The lr and the momentum of each step under a torch scheduler."""
    inner = optimizer()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheduler = make(inner)
        rates, momenta = [], []
        for step in range(steps):
            rates.append(inner.param_groups[0]["lr"])
            momenta.append(inner.param_groups[0]["momentum"])
            if step < steps - 1:
                inner.step()
                scheduler.step()
    return rates, momenta


def check(original, schedule, expected, total=None, rel=1e-12, of_peak=0.0, peak=BASE):
    run = RunLength.of(steps=total or len(expected))
    single = [schedule(run.position(step, BASE)) for step in range(len(expected))]
    whole = schedule(run.position(np.arange(len(expected)), BASE))
    both = np.stack([single, whole])
    assert_agrees(schedule, both, expected, original=original, relative=rel, of_peak=of_peak, peak=peak)


# --- torch --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("three_phase", [False, True])
@pytest.mark.parametrize("anneal", ["cosine", "linear"])
@pytest.mark.parametrize("total", [1, 2, 3, 7, 10, 33, 100, 450])
def test_one_cycle_and_its_momentum(total, anneal, three_phase):
    for pct_start in (0.0, 0.01, 0.1, 0.25, 0.3, 0.5, 0.7, 0.99, 1.0):
        if pct_start * total == 1:
            continue  # torch divides by zero: its first phase has no length
        for divided, last_divided in ((25.0, 1e4), (10.0, 3.0), (0.5, 0.1)):
            rates, momenta = used(
                lambda inner: lr_scheduler.OneCycleLR(
                    inner,
                    max_lr=0.7,
                    total_steps=total,
                    pct_start=pct_start,  # noqa: B023
                    anneal_strategy={"cosine": "cos"}.get(anneal, anneal),
                    div_factor=divided,  # noqa: B023
                    final_div_factor=last_divided,  # noqa: B023
                    three_phase=three_phase,
                ),
                total,
            )
            options = {
                "pct_start": pct_start,
                "anneal": anneal,
                "div_factor": divided,
                "final_div_factor": last_divided,
                "three_phase": three_phase,
            }
            near_0 = {"of_peak": ROUNDING, "peak": max(0.7, *rates)}
            original = f"torch OneCycleLR, {anneal}{', three phases' if three_phase else ''}"
            check(original, OneCycle(0.7, total_steps="100%", **options), rates, **near_0)
            check(original, OneCycle(0.7, total_steps=total, **options), rates, 10**6, **near_0)
            if three_phase:
                continue  # torch's momentum then stays at the first value in the third phase: as ours from it to it
            check(
                f"{original}, momentum",
                CycleThrough(0.95, 0.85, 0.95, total_steps="100%", pct_start=pct_start, anneal=anneal),
                momenta,
            )


def test_one_cycle_with_momentum_in_three_phases():
    _, momenta = used(lambda inner: lr_scheduler.OneCycleLR(inner, 0.7, 100, three_phase=True), 100)
    check("torch OneCycleLR, cosine, three phases, momentum", CycleThrough(0.95, 0.85, 0.95, three_phase=True), momenta)


def test_last_step_follows_the_documentation_of_torch():
    ours = OneCycle(0.3, anneal="linear")(RunLength.of(steps=100).position(99))
    (*_, theirs), _ = used(lambda inner: lr_scheduler.OneCycleLR(inner, 0.3, 100, anneal_strategy="linear"), 100)
    assert ours == 0.3 / 25 / 1e4
    assert theirs != ours
    assert theirs == pytest.approx(ours, rel=1e-10)


@pytest.mark.parametrize("mode", ["triangular", "triangular2", "exp_range"])
@pytest.mark.parametrize(("up", "down"), [(20, None), (20, 50), (50, 20), (1, 1), (7, 3)])
def test_cyclic_and_its_momentum(mode, up, down):
    for gamma in (1.0, 0.999, 0.9):
        rates, momenta = used(
            lambda inner: lr_scheduler.CyclicLR(inner, 0.01, 0.5, up, down, mode, gamma),  # noqa: B023
            500,
        )
        check(f"torch CyclicLR, {mode}", Cyclic(0.01, 0.5, up_steps=up, down_steps=down, mode=mode, gamma=gamma), rates)
        check(
            f"torch CyclicLR, {mode}, momentum",
            Cyclic(0.9, 0.8, up_steps=up, down_steps=down, mode=mode, gamma=gamma),
            momenta,
        )


@pytest.mark.parametrize("start", [1e-3, 0.25, 1.0])
def test_linear_warm_up_and_then_half_a_cosine(start):
    def sequential(inner):
        warm = lr_scheduler.LinearLR(inner, start_factor=start, total_iters=20)
        return lr_scheduler.SequentialLR(inner, [warm, lr_scheduler.CosineAnnealingLR(inner, T_max=180)], [20])

    rates, _ = used(sequential, 200)
    # torch goes on from the value before, at each step one rounding further off.
    original = "torch SequentialLR of LinearLR and CosineAnnealingLR"
    for ours in (
        Warmup(CosineDecay(decay_steps=180), warmup_steps=20, start_factor=start),
        CosineDecay().with_warmup("10%", start_factor=start),
        Chain([LinearDecay(BASE * start, end_learning_rate=BASE), CosineDecay()], lengths=["10%"]),
    ):
        check(original, ours, rates, of_peak=200 * ROUNDING)


def test_constant_warm_up():
    rates, _ = used(lambda inner: lr_scheduler.ConstantLR(inner, factor=0.25, total_iters=7), 30)
    check("torch ConstantLR", Constant().with_warmup(7, start_factor=0.25, shape="constant"), rates)


@pytest.mark.parametrize(("strategy", "shape"), [("cos", "cosine"), ("linear", "linear")])
@pytest.mark.parametrize("annealing", [1, 7, 20])
def test_swa_annealing_in_the_loop_of_torchs_documentation(strategy, shape, annealing):
    inner, start, rates = optimizer(), 40, []
    scheduler = lr_scheduler.CosineAnnealingLR(inner, T_max=200)
    averaging = SWALR(inner, swa_lr=0.05, anneal_epochs=annealing, anneal_strategy=strategy)
    for step in range(100):
        rates.append(inner.param_groups[0]["lr"])
        inner.step()
        (averaging if step > start else scheduler).step()
    # torch goes on from the value before, at each step one rounding further off.
    annealed = Annealed(
        CosineDecay(None, decay_steps=200), end_learning_rate=0.05, after=start + 1, decay_steps=annealing, shape=shape
    )
    check(f"torch SWALR, {strategy}", annealed, rates, of_peak=200 * ROUNDING)


# --- timm ---------------------------------------------------------------------------------------------------

SHAPES = {"linear": "linear", "1-sqrt": "1-sqrt", "cosine": "cosine", "exp": "exponential"}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("warmup", "decay", "total"), [(10, 40, 200), (0, 40, 200), (1, 1, 9), (0, 50, 50)])
def test_timms_warm_up_stable_decay(shape, warmup, decay, total):
    for lr_min, first in ((0.0, 0.0), (1e-3, 1e-4)):
        theirs = WSDLRScheduler(
            optimizer(), total - warmup, decay, lr_min, decay_fn=shape, warmup_t=warmup, warmup_lr_init=first
        )
        expected = [theirs._get_lr(step)[0] for step in range(total + 5)]
        start = first / BASE
        original = f"timm WSDLRScheduler, {shape}"
        check(
            original,
            WarmupStableDecay(
                BASE,
                warmup_steps=warmup,
                decay_steps=decay,
                decay_shape=SHAPES[shape],
                end_learning_rate=lr_min,
                start_factor=start,
            ),
            expected,
            total,
        )
        if warmup:
            percent = WarmupStableDecay(
                None,
                warmup_steps=f"{100 * warmup / total}%",
                decay_steps=f"{100 * decay / total}%",
                decay_shape=SHAPES[shape],
                end_learning_rate=lr_min,
                start_factor=start,
            )
            check(f"{original}, in percent", percent, expected, total, of_peak=total * ROUNDING)  # of the percentages


@pytest.mark.parametrize("stable", ["constant", "rsqrt", "power"])
@pytest.mark.parametrize("shape", SHAPES)
def test_timms_decay_of_any_stable_part(stable, shape):
    for lr_min in (0.0, 0.06):
        theirs = WSDLRScheduler(
            optimizer(), 400, 150, lr_min, stable, 30, 0.8, shape, warmup_t=20, warmup_lr_init=0.003
        )
        expected = [theirs._get_lr(step)[0] for step in range(430)]
        inner = (
            Constant()
            if stable == "constant"
            else InverseSquareRoot(None, decay_steps=30, power=0.5 if stable == "rsqrt" else 0.8)
        )
        annealed = Annealed(
            inner.at_least(lr_min),
            end_learning_rate=lr_min,
            after=250,
            decay_steps=None,
            shape=SHAPES[shape],
            hold=False,
        )
        original = f"timm WSDLRScheduler, {stable}, {shape}"
        check(original, annealed.with_warmup(20, start_factor=0.01), expected, 420, of_peak=2 * ROUNDING)


@pytest.mark.parametrize("prefix", [True, False])
def test_timms_warm_up_with_and_without_a_prefix(prefix):
    for kind, ours in (
        (
            lambda **more: CosineLRScheduler(optimizer(), 100, 1e-3, k_decay=1.5, **more),
            CosineDecay(None, decay_steps=100, end_learning_rate=1e-3, k_decay=1.5),
        ),
        (lambda **more: StepLRScheduler(optimizer(), 7, 0.5, **more), StepDecay(drop=0.5, every="7st")),
    ):
        theirs = kind(warmup_t=10, warmup_lr_init=1e-4, warmup_prefix=prefix)
        expected = [theirs._get_lr(step)[0] for step in range(110)]
        original = f"timm {type(theirs).__name__}, warmup_prefix={prefix}"
        check(
            original, Warmup(ours, warmup_steps=10, start_factor=1e-4 / BASE, prefix=prefix), expected, of_peak=ROUNDING
        )


def test_timms_cosine_with_its_warm_up_in_front():
    theirs = CosineLRScheduler(
        optimizer(), t_initial=100, lr_min=1e-3, warmup_t=10, warmup_lr_init=1e-4, warmup_prefix=True
    )
    expected = [theirs._get_lr(step)[0] for step in range(110)]
    check(
        "timm cosine, with its warm-up",
        CosineDecay(None, decay_steps=100, end_learning_rate=1e-3).with_warmup(10, start_factor=1e-4 / BASE),
        expected,
    )


# --- transformers -------------------------------------------------------------------------------------------

W, T = 20, 200


@pytest.mark.parametrize("shape", ["linear", "cosine", "1-sqrt"])
@pytest.mark.parametrize("least", [0.0, 0.1])
def test_transformers_warm_up_stable_decay(shape, least):
    for warmup, decay in ((20, 40), (0, 40), (20, 180)):
        rates, _ = used(
            lambda inner: hf.get_wsd_schedule(
                inner,
                warmup,  # noqa: B023
                decay,  # noqa: B023
                T,
                decay_type=shape,
                min_lr_ratio=least,
            ),
            T + 5,
        )
        original = f"transformers get_wsd_schedule, {shape}"
        check(
            original,
            WarmupStableDecay(
                BASE,
                warmup_steps=warmup,
                decay_steps=decay,
                decay_shape=shape,
                end_learning_rate=least * BASE,
                start_factor=least,
            ),
            rates,
            T,
        )
    rises = {"linear": "linear", "cosine": "cosine"}
    if shape in rises:
        rates, _ = used(lambda inner: hf.get_wsd_schedule(inner, 20, 40, T, None, shape, shape, least), T)
        inside = WarmupStableDecay(
            None, warmup_steps=0, decay_steps=40, decay_shape=shape, end_learning_rate=least * BASE
        )
        check(
            f"{original} both ways",
            inside.with_warmup(20, start_factor=least, shape=rises[shape]),
            rates,
            of_peak=ROUNDING,
        )


def test_transformers_one_minus_square_root_warm_up():
    rates, _ = used(lambda inner: hf.get_wsd_schedule(inner, 20, 40, T, None, "1-sqrt", "1-sqrt"), T)
    rise = FunctionSchedule(lambda share: 1 - math.sqrt(1 - share), of="fraction")
    ours = WarmupStableDecay(None, warmup_steps=0, decay_steps=40, decay_shape="1-sqrt").with_warmup(20, shape=rise)
    check("transformers get_wsd_schedule, 1-sqrt both ways", ours, rates)


@pytest.mark.parametrize("length", [W, "10%", f"{W}st"])
def test_transformers_with_warmup(length):
    originals = {
        "cosine": (hf.get_cosine_schedule_with_warmup, CosineDecay()),
        "linear": (hf.get_linear_schedule_with_warmup, LinearDecay()),
        "polynomial": (
            lambda inner, warmup, total: hf.get_polynomial_decay_schedule_with_warmup(inner, warmup, total, 1e-3, 2.0),
            PolynomialDecay(end_learning_rate=1e-3, power=2.0),
        ),
        "constant": (lambda inner, warmup, total: hf.get_constant_schedule_with_warmup(inner, warmup), Constant()),
        "inverse_sqrt": (
            lambda inner, warmup, total: hf.get_inverse_sqrt_schedule(inner, warmup),
            InverseSquareRoot(decay_steps=W),
        ),
    }
    for name, (original, ours) in originals.items():
        rates, _ = used(lambda inner: original(inner, W, T), T)  # noqa: B023
        check(f"transformers {name}, with its warm-up", ours.with_warmup(length), rates, of_peak=ROUNDING)


def test_transformers_other_rules_for_the_first_step():
    """(t + 1) / warmup, and a factor of one's own for t = 0: both arrive one step earlier."""
    original = hf.get_cosine_with_min_lr_schedule_with_warmup_lr_rate
    for first in (None, 0.2):
        rates, _ = used(lambda inner: original(inner, W, T, min_lr_rate=0.1, warmup_lr_rate=first), T)  # noqa: B023
        ours = Warmup(
            CosineDecay(None, decay_steps=T - W, end_learning_rate=0.1 * BASE),
            warmup_steps=W - 1,
            start_factor=1 / W if first is None else first,
        )
        check("transformers cosine with a floor and a first value", ours, rates)


# --- Keras --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [0.0, 0.01])
@pytest.mark.parametrize("alpha", [0.0, 0.1])
def test_keras_cosine_with_a_warm_up_target(first, alpha):
    theirs = keras.optimizers.schedules.CosineDecay(
        first, decay_steps=180, alpha=alpha, warmup_target=BASE, warmup_steps=20
    )
    expected = [float(theirs(step)) for step in range(210)]
    ours = CosineDecay(BASE, decay_steps=180, end_learning_rate=alpha * BASE).with_warmup(20, start_factor=first / BASE)
    check("keras CosineDecay, with warmup_target", ours, expected, rel=1e-6, of_peak=2**-24)
