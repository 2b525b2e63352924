"""docs/features.md: every expression builds a schedule and equals the original in its row."""

from __future__ import annotations

import ast
import math
import os
import re
import warnings
from pathlib import Path

os.environ["KERAS_BACKEND"] = "torch"  # read when keras is first imported

import keras
import numpy as np
import pytest
import timm.scheduler
import torch
import transformers
from timm.scheduler.wsd_lr import WSDLRScheduler

import lr_plugins
from lr_plugins import RunLength, Schedule
from lr_plugins.interop import TorchSchedule
from lr_plugins.keras.constraints import Constraints, MaxNorm

BASE, STEPS = 0.1, 1000
RUN = RunLength.of(steps_per_epoch=100, epochs=10, batch_size=32)
# Relative to the value, and beside it to the peak: a library with a formula takes the difference of rounded numbers
# next to 0, torch's recursions gather some more on their way, and Keras computes in float32.
RELATIVE, OF_PEAK = 1e-12, {"torch": 5e-14, "timm": 4e-15, "transformers": 4e-15, "Keras": 1e-6}
TORCH = {name: getattr(torch.optim.lr_scheduler, name) for name in torch.optim.lr_scheduler.__all__}
THEIRS = {
    "torch": {**TORCH, "SWALR": torch.optim.swa_utils.SWALR},
    "timm": {**vars(timm.scheduler), "WSDLRScheduler": WSDLRScheduler},
    "transformers": {"get_scheduler": transformers.get_scheduler},
    "Keras": vars(keras.optimizers.schedules),
}
OURS = {name: getattr(lr_plugins, name) for name in lr_plugins.__all__}
OURS |= {"TorchSchedule": TorchSchedule, "MultiplicativeLR": TORCH["MultiplicativeLR"], "StepLR": TORCH["StepLR"]}
OURS |= {"Constraints": Constraints, "MaxNorm": MaxNorm}


def rows():
    """(library or title, first cell, expressions of the second cell) of every row of every table."""
    title = ""
    for line in (Path(__file__).parents[1] / "docs" / "features.md").read_text().splitlines():
        if line.startswith("## "):
            title = line.removeprefix("## ").removeprefix("Coming from ")
        elif line.startswith("|") and not line.startswith("|---"):
            first, second, third = (cell.strip() for cell in line.strip("|").split(" | "))
            if second != "here":
                yield title, first, second, third


ROWS = list(rows())
CODE = re.compile(r"`([^`]+)`")


def call(cell):
    """The code of a cell that is one call and nothing else."""
    code = CODE.fullmatch(cell)
    return code[1] if code and isinstance(ast.parse(code[1], mode="eval").body, ast.Call) else None


EXPRESSIONS = [
    pytest.param(code, id=code) for code in dict.fromkeys(code for *_, here, _ in ROWS for code in CODE.findall(here))
]
PAIRS = [
    pytest.param(title, theirs, CODE.fullmatch(here)[1], id=f"{title} {theirs}")
    for title, first, here, _ in ROWS
    if title in THEIRS and (theirs := call(first))
]


def built(code):
    return eval(code, dict(OURS))


def curve(schedule):
    """The learning rate of every step, as an array and one by one."""
    values = schedule(RUN.position(np.arange(STEPS), BASE))
    single = [schedule(RUN.position(step, BASE)) for step in range(STEPS)]
    np.testing.assert_allclose(values, single, rtol=1e-13, atol=1e-16)
    return values


@pytest.mark.parametrize("code", EXPRESSIONS)
def test_every_expression_builds_a_schedule(code):
    schedule = built(code)
    if isinstance(schedule, Schedule) and not schedule.monitors:
        values = curve(schedule)
        assert np.isfinite(values).all()
        assert (values >= 0).all()


def trace(library, code):
    """The learning rate of each step under the original."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=BASE, momentum=0.9)
    rates = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheduler = eval(code, {**THEIRS[library], "optimizer": optimizer})
        for step in range(STEPS):
            if library == "Keras":
                rates.append(float(scheduler(step)))
                continue
            if library == "timm":
                scheduler.step(step)
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            if library != "timm":
                scheduler.step()
    return np.array(rates)


@pytest.mark.parametrize(("library", "theirs", "ours"), PAIRS)
def test_schedule_equals_the_original(library, theirs, ours):
    expected = trace(library, theirs)
    relative = RELATIVE if library != "Keras" else OF_PEAK["Keras"]
    atol = expected.max() * OF_PEAK[library]
    np.testing.assert_allclose(curve(built(ours)), expected, rtol=relative, atol=atol)


def test_page_has_rows_to_compare():
    assert len(EXPRESSIONS) > 100
    assert {title for title, *_ in (pair.values for pair in PAIRS)} == set(THEIRS)
    assert len(PAIRS) > 55
    for title, first, here, _ in ROWS:
        assert here.startswith(("Yes", "No", "`")), (title, first)


# --- the libraries that are not installed: their formulas ---------------------------------------------------


def line(start, end, share):
    return start + (end - start) * min(max(share, 0.0), 1.0)


def wave(start, end, share):
    return start + (end - start) * (1 - math.cos(math.pi * min(max(share, 0.0), 1.0))) / 2


FORMULAS = {
    "Composer": {
        'ConstantScheduler(0.5, "0.1dur")': lambda t: 0.05 if t < 100 else 0.1,
        "LinearScheduler(1.0, 0.1)": lambda t: 0.1 * line(1.0, 0.1, t / 1000),
        'ExponentialScheduler(0.96, "1ep")': lambda t: 0.1 * 0.96 ** (t // 100),
        "CosineAnnealingScheduler(alpha_f=0.01)": lambda t: 0.1 * wave(1.0, 0.01, t / 1000),
        'MultiStepWithWarmupScheduler("50ba", ["300ba", "600ba"])': lambda t: (
            0.1 * t / 50 if t < 50 else 0.1 * 0.1 ** ((t >= 300) + (t >= 600))
        ),
        'LinearWithWarmupScheduler("0.05dur")': lambda t: 0.1 * t / 50 if t < 50 else line(0.1, 0.0, (t - 50) / 950),
        "scale_schedule_ratio=0.5": lambda t: 0.1 * 0.1 ** (t // 150),
    },
    "MMEngine": {
        "ConstantLR(factor=0.5, begin=0, end=50)": lambda t: 0.05 if t < 49 else 0.1,
        "LinearLR(start_factor=0.1, begin=0, end=50)": lambda t: line(0.01, 0.1, t / 49),
        "CosineRestartLR(periods=[300, 700], restart_weights=[1, 0.5])": lambda t: (
            wave(0.1, 0.0, t / 300) if t < 300 else wave(0.05, 0.0, (t - 300) / 700)
        ),
        "PolyLR(power=0.9, eta_min=0.001, begin=0, end=1000)": lambda t: 0.001 + 0.099 * (1 - t / 999) ** 0.9,
    },
    "optax": {
        "linear_schedule(0.1, 0.001, 500, transition_begin=100)": lambda t: line(0.1, 0.001, (t - 100) / 500),
        "polynomial_schedule(0.1, 0.001, 2.0, 500)": lambda t: 0.001 + 0.099 * max(1 - t / 500, 0) ** 2,
        "exponential_decay(0.1, 100, 0.5, end_value=0.01)": lambda t: max(0.1 * 0.5 ** (t / 100), 0.01),
        "cosine_decay_schedule(0.1, 1000, alpha=0.01, exponent=2.0)": lambda t: (
            0.1 * (0.99 * wave(1.0, 0.0, t / 1000) ** 2 + 0.01)
        ),
        "linear_onecycle_schedule(1000, 0.5)": lambda t: (
            line(0.02, 0.5, t / 300)
            if t < 300
            else line(0.5, 0.02, (t - 300) / 550)
            if t < 850
            else line(0.02, 2e-6, (t - 850) / 150)
        ),
        "cosine_onecycle_schedule(1000, 0.5)": lambda t: (
            wave(0.02, 0.5, t / 300) if t < 300 else wave(0.5, 2e-6, (t - 300) / 700)
        ),
        "warmup_cosine_decay_schedule(0.001, 0.1, 50, 1000)": lambda t: (
            line(0.001, 0.1, t / 50) if t < 50 else wave(0.1, 0.0, (t - 50) / 950)
        ),
    },
    "ignite": {
        'LinearCyclicalScheduler(optimizer, "lr", 0.01, 0.1, 200)': lambda t: 0.1 - 0.09 * abs(t % 200 / 200 - 0.5) * 2,
        'CosineAnnealingScheduler(optimizer, "lr", 0.1, 0.001, 200)': lambda t: wave(0.1, 0.001, t % 200 / 200),
        "the same, cycle_mult=2, start_value_mult=0.5": lambda t: (
            wave(0.1, 0.001, t / 200)
            if t < 200
            else wave(0.05, 0.001, (t - 200) / 400)
            if t < 600
            else wave(0.025, 0.001, (t - 600) / 800)
        ),
        "create_lr_scheduler_with_warmup(f, 0.0, 50)": lambda t: (
            line(0.0, 0.1, t / 49) if t < 49 else wave(0.1, 0.0, (t - 49) / 951)
        ),
    },
    "fastai": {
        "SchedExp(0.1, 0.001)": lambda t: 0.1 * 0.01 ** (t / 1000),
        "SchedPoly(0.1, 0.001, 2)": lambda t: 0.1 - 0.099 * (t / 1000) ** 2,
        "combined_cos(0.25, 0.01, 0.1, 0.001)": lambda t: (
            wave(0.01, 0.1, t / 250) if t < 250 else wave(0.1, 0.001, (t - 250) / 750)
        ),
        "fit_flat_cos(n, 0.1)": lambda t: wave(0.1, 1e-6, (t - 750) / 250),
        "fit_sgdr(3, 1, 0.1)": lambda t: (
            wave(0.1, 0, t / 100)
            if t < 100
            else wave(0.1, 0, (t - 100) / 200)
            if t < 300
            else wave(0.1, 0, (t - 300) / 400)
            if t < 700
            else wave(0.1, 0, (t - 700) / 800)
        ),
    },
}


@pytest.mark.parametrize(("library", "theirs"), [(one, name) for one, rows in FORMULAS.items() for name in rows])
def test_schedule_equals_the_formula(library, theirs):
    (here,) = (here for title, first, here, _ in ROWS if (title, first) == (library, theirs))
    expected = [FORMULAS[library][theirs](step) for step in range(STEPS)]
    np.testing.assert_allclose(curve(built(CODE.fullmatch(here)[1])), expected, rtol=1e-12, atol=4e-15)
