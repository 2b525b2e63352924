"""The page with every schedule and its picture: `python -m docs_tools.catalogue docs`."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lr_plugins import schedules as s
from lr_plugins.callbacks.learning_rate_trace.epoch_metrics import MetricPoints
from lr_plugins.engine.trace import Series
from lr_plugins.plotting.learning_rate import plot_learning_rate
from lr_plugins.schedules import Observation, Position, RunLength, Schedule
from lr_plugins.schedules.observation import BEGIN, EPOCH
from lr_plugins.simulation.preview import plot_all

RUN = RunLength.of(steps_per_epoch=10, epochs=30, batch_size=32)
STEPS = np.arange(RUN.steps or 0)

EXAMPLES: Mapping[str, Mapping[str, Schedule]] = {
    "Shapes": {
        "constant": s.Constant(0.1),
        "step_decay": s.StepDecay(0.1, drop=0.5, every="6ep"),
        "multi_step": s.MultiStepDecay(0.1, milestones=["15ep", "24ep"], gamma=0.1),
        "piecewise": s.PiecewiseConstant(["6ep", "18ep"], [0.1, 0.04, 0.01]),
        "interpolation": s.PiecewiseInterpolation([[0, 0.02], ["20%", 0.1], ["60%", 0.08], ["100%", 0.0]]),
        "exponential": s.ExponentialDecay(0.1, decay_steps=100, decay_rate=0.3),
        "inverse_time": s.InverseTimeDecay(0.1, decay_steps=1, decay_rate=0.02),
        "inverse_sqrt": s.InverseSquareRoot(0.1, decay_steps=20),
        "linear": s.LinearDecay(0.1),
        "polynomial": s.PolynomialDecay(0.1, power=2.0),
        "cosine": s.CosineDecay(0.1, end_learning_rate=0.01),
        "cosine_restarts": s.CosineRestarts(0.1, first_decay_steps=43, t_mul=2.0, m_mul=0.8),
        "tanh": s.TanhDecay(0.1),
        "one_cycle": s.OneCycle(0.1),
        "cycle_through": s.CycleThrough(0.95, 0.85, 0.95),
        "cyclic": s.Cyclic(0.01, 0.1, up_steps=40, mode="triangular2"),
        "warmup_stable_decay": s.WarmupStableDecay(0.1, warmup_steps="5%", decay_steps="20%", decay_shape="1-sqrt"),
        "function": s.FunctionSchedule(lambda epoch: 0.1 / (1 + epoch // 5)),
    },
    "Combinations": {
        "warmup_cosine": s.CosineDecay(0.1).with_warmup("10%"),
        "chain": s.Constant(0.1)
        .then(s.LinearDecay(0.1, end_learning_rate=0.01), after="40%")
        .then(s.Constant(0.01), after="80%"),
        "product": s.CosineDecay(0.1) * s.StepDecay(drop=0.7, every="5ep"),
        "bounded": s.ExponentialDecay(0.1, decay_steps=50, decay_rate=0.3).at_least(0.01),
        "repeated": s.CosineDecay(0.1).repeated("10ep"),
        "stretched": s.StepDecay(0.1, drop=0.5, every="6ep").stretched(0.5),
        "as_planned": s.Replanned(s.CosineDecay(0.1), steps_per_epoch=10, epochs=20, steps=200, since=100, ratio=2.0),
        "smooth": s.ExponentialDecay(0.1, decay_steps="10ep", decay_rate=0.3).smooth(),
        "per_epoch": s.InverseTimeDecay(0.1, decay_steps=1, decay_rate=0.05).per_epoch(),
        "annealed": s.Annealed(
            s.StepDecay(0.1, drop=0.6, every="6ep"),
            end_learning_rate=0.01,
            after="70%",
            decay_steps="5ep",
            shape="cosine",
        ),
        "noise": s.Noise(s.CosineDecay(0.1), std=0.2),
    },
    "Following a metric": {
        "loss_driven": s.LossDriven(0.01),
        "plateau": s.ReduceLROnPlateau(0.1, monitor="loss", factor=0.5, patience=2),
        "plateau_warmup": (
            s.CosineDecay(0.1) * s.ReduceLROnPlateau(monitor="loss", factor=0.5, patience=2)
        ).with_warmup("10%"),
        "greedy": s.Greedy(0.1, monitor="loss", factor=0.7, patience=1),
        "bold_driver": s.BoldDriver(0.1),
    },
}
# Those of the picture of several previews: as they are configured, in the main job's run.
COMPARED: Mapping[str, Schedule] = {
    "schedule=step_decay": s.StepDecay(every="3ep"),
    "schedule=warmup_cosine": s.CosineDecay().with_warmup("5%"),
    "schedule=one_cycle": s.OneCycle(),
    "schedule=cosine_restarts": s.CosineRestarts(first_decay_steps="3ep"),
}
# What those see in their pictures: a loss that falls, stays, rises for a while, and falls again.
LOSSES = [2.3 * 0.75 ** min(epoch, 9) + 0.1 * math.sin(1.9 * epoch) ** 2 for epoch in range(16)]
LOSSES += [0.3 + 0.08 * epoch for epoch in range(5)] + [0.25 * 0.8**epoch + 0.05 for epoch in range(9)]


def page() -> str:
    """The page's text."""
    lines = [
        "# Every schedule, with its picture",
        "",
        f"Each picture is a run of {RUN.epochs} epochs of {RUN.steps_per_epoch} optimizer steps; where the schedule",
        "follows a metric, a loss that it might see is drawn as well. Below it, folded, is",
        "what `help()` says of the class: the formula, the arguments with units and ranges, the edges, the source.",
        "`python -m docs_tools.catalogue docs` makes this page.",
    ]
    for title, examples in EXAMPLES.items():
        lines += ["", f"## {title}"]
        for name, schedule in examples.items():
            text = inspect.getdoc(type(schedule)) or ""
            arguments = text.split("\nExample:")[0].rstrip()
            lines += ["", f"### {name}", "", f"`{_call(schedule)}`", "", f"![{name}](pictures/{name}.png)", ""]
            lines += ["<details markdown><summary markdown>", "", arguments.split("\n")[0], "", "</summary>", ""]
            lines += ["```text", *arguments.split("\n")[2:], "```", "", "</details>"]
    return "\n".join(lines) + "\n"


def _call(schedule: Schedule) -> str:
    text = repr(schedule)
    return "FunctionSchedule(lambda epoch: 0.1 / (1 + epoch // 5))" if "<function" in text else text


def _curve(schedule: Schedule) -> Series:
    """A schedule's learning rates over the example run."""
    series, state, length = Series(), schedule.start(), int(RUN.steps_per_epoch or 0)
    for epoch in range(int(RUN.epochs or 0)):
        first = RUN.position(epoch * length)
        for when in (EPOCH, BEGIN):
            logged = {"loss": LOSSES[epoch - 1]} if epoch else {}
            state = schedule.observe(state, first, Observation(when, logged, complete=bool(epoch)))
        for value in np.asarray(schedule(RUN.position(STEPS[epoch * length : (epoch + 1) * length]), state)).tolist():
            series.append(value)
    return series


def _losses() -> dict[str, MetricPoints]:
    points = MetricPoints()
    for epoch, loss in enumerate(LOSSES, 1):
        points.append(epoch * int(RUN.steps_per_epoch or 0), loss)
    return {"loss": points}


def feedback(steps: int = 10) -> dict[str, Series]:
    """Gradient descent on `loss = w ** 2` from w = 1.68, its learning rate following the loss by three rules."""
    rules = {
        "bare rule": s.LossDriven(0.06, max_learning_rate=None, when="step"),
        "with the ceiling": s.LossDriven(0.06, when="step"),
        "k = -1": s.LossDriven(0.06, k=-1.0, when="step"),
    }
    curves = {f"{quantity}/{name}": Series() for quantity in ("lr", "loss") for name in rules}
    for name, rule in rules.items():
        weight, state = 1.68, rule.start()
        for step in range(steps):
            loss = weight**2
            if loss > 10:  # and exp(loss) above 22,026: from here on it explodes
                break
            state = rule.observe(state, Position(step), Observation("step", {"loss": loss}))
            rate = float(rule(step, state))
            curves[f"lr/{name}"].append(rate)
            curves[f"loss/{name}"].append(loss)
            weight -= rate * 2 * weight
    return curves


def write(folder: Path) -> None:
    """Write `schedules.md` and its pictures, and those of other pages, into a folder."""
    pictures = folder / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    for examples in EXAMPLES.values():
        for name, schedule in examples.items():
            seen = _losses() if schedule.monitors else None
            plot_learning_rate({"lr": _curve(schedule)}, pictures / f"{name}.png", title="", small=True, metrics=seen)
    plot_learning_rate(feedback(), pictures / "feedback.png", title="w ** 2 by gradient descent")
    previews = {name: one.preview(45, 10, base_learning_rate=0.002) for name, one in COMPARED.items()}
    plot_all(previews, pictures / "preview.png")
    (folder / "schedules.md").write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1] if len(sys.argv) > 1 else "docs"))
