"""The gallery of the schedules and its pictures: `python -m docs_tools.catalogue docs`."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lr_plugins import preview, schedules
from lr_plugins.callbacks.learning_rate_trace.epoch_metrics import MetricPoints
from lr_plugins.engine.trace import Series
from lr_plugins.plotting.learning_rate import plot_learning_rate
from lr_plugins.schedules import Observation, Position, RunLength, Schedule
from lr_plugins.schedules.observation import BEGIN, EPOCH
from lr_plugins.simulation.preview import plot_all

RUN = RunLength.of(steps_per_epoch=10, epochs=30, batch_size=32)
STEPS = np.arange(RUN.steps or 0)


class Example(NamedTuple):
    """A schedule of the gallery: what it does in one line, and the code that makes it."""

    what: str
    code: str
    shows: str = ""  # the class that it is about, where that is not the outermost one

    @property
    def kind(self) -> type[Schedule]:
        """The class that it is about."""
        found: type[Schedule] = getattr(schedules, self.shows) if self.shows else type(self.schedule)
        return found

    @property
    def reference(self) -> str:
        """The page that has the docstring of that class, by the folder of `lr_plugins/schedules/` that it is in."""
        return f"reference/{self.kind.__module__.split('.')[2]}.md#lr_plugins.{self.kind.__name__}"

    @property
    def schedule(self) -> Schedule:
        """The schedule that the code makes, with the names of `lr_plugins.schedules`."""
        made: Schedule = eval(self.code, dict(vars(schedules)))
        return made


class Group(NamedTuple):
    """The schedules of one folder of `lr_plugins/schedules/`."""

    title: str
    introduction: str
    examples: Mapping[str, Example]


GALLERY = [
    Group(
        "Shapes",
        "Functions of time. `lr_plugins/schedules/shapes/` has one formula per file.",
        {
            "constant": Example("The same learning rate at every step.", "Constant(0.1)"),
            "step_decay": Example("Halve it every six epochs.", 'StepDecay(0.1, drop=0.5, every="6ep")'),
            "multi_step": Example(
                "Divide it by ten at each milestone.",
                'MultiStepDecay(0.1, milestones=["15ep", "24ep"], gamma=0.1)',
            ),
            "piecewise": Example(
                "One value per interval.",
                'PiecewiseConstant(["6ep", "18ep"], [0.1, 0.04, 0.01])',
            ),
            "interpolation": Example(
                "Straight lines between points, or half cosine waves.",
                'PiecewiseInterpolation([[0, 0.02], ["20%", 0.1], ["60%", 0.08], ["100%", 0.0]])',
            ),
            "exponential": Example(
                "Multiply it by a factor over every `decay_steps`.",
                "ExponentialDecay(0.1, decay_steps=100, decay_rate=0.3)",
            ),
            "inverse_time": Example(
                "`1 / (1 + rate * t)`: the decay of Keras 2's optimizers.",
                "InverseTimeDecay(0.1, decay_steps=1, decay_rate=0.02)",
            ),
            "inverse_sqrt": Example(
                "`1 / sqrt(1 + t)`: runs of any length; after a warm-up, the schedule of the transformer paper.",
                "InverseSquareRoot(0.1, decay_steps=20)",
            ),
            "linear": Example("A straight line to an end value.", "LinearDecay(0.1)"),
            "polynomial": Example("A power of the time left.", "PolynomialDecay(0.1, power=2.0)"),
            "cosine": Example("Half a cosine wave to an end value.", "CosineDecay(0.1, end_learning_rate=0.01)"),
            "cosine_restarts": Example(
                "Cosine decay with warm restarts (SGDR).",
                "CosineRestarts(0.1, first_decay_steps=43, t_mul=2.0, m_mul=0.8)",
            ),
            "tanh": Example("High for long, then a late and steep fall.", "TanhDecay(0.1)"),
            "one_cycle": Example("Up and down once per run (1cycle).", "OneCycle(0.1)"),
            "cycle_through": Example(
                "One cycle through three values: the momentum that goes with `OneCycle`.",
                "CycleThrough(0.95, 0.85, 0.95)",
            ),
            "cyclic": Example(
                "Up and down between two values, again and again (CLR).",
                'Cyclic(0.01, 0.1, up_steps=40, mode="triangular2")',
            ),
            "function": Example(
                "Any function of `epoch`, `(epoch, lr)`, step or fraction.",
                "FunctionSchedule(lambda epoch: 0.1 / (1 + epoch // 5))",
            ),
        },
    ),
    Group(
        "Combinators",
        "Schedules made of schedules, to any depth. Most have a method that builds them.",
        {
            "warmup_cosine": Example(
                "Rise to a schedule's first value, then run the schedule.", 'CosineDecay(0.1).with_warmup("10%")'
            ),
            "warmup_stable_decay": Example(
                "Warm up, stay, and decay at the end (WSD).",
                'WarmupStableDecay(0.1, warmup_steps="5%", decay_steps="20%", decay_shape="1-sqrt")',
            ),
            "chain": Example(
                "One schedule after another, each in its own time.",
                'Constant(0.1).then(LinearDecay(0.1, end_learning_rate=0.01), after="40%")'
                '.then(Constant(0.01), after="80%")',
            ),
            "product": Example("A learning rate times factors.", 'CosineDecay(0.1) * StepDecay(drop=0.7, every="5ep")'),
            "bounded": Example(
                "A floor or a ceiling.", "ExponentialDecay(0.1, decay_steps=50, decay_rate=0.3).at_least(0.01)"
            ),
            "repeated": Example("A schedule over and over again.", 'CosineDecay(0.1).repeated("10ep")'),
            "stretched": Example(
                "A recipe for a long run, on a run half as long.",
                'StepDecay(0.1, drop=0.5, every="6ep").stretched(0.5)',
            ),
            "as_planned": Example(
                "The plan of a checkpoint in a longer run: what `on_resume` uses.",
                "Replanned(CosineDecay(0.1), steps_per_epoch=10, epochs=20, steps=200, since=100, ratio=2.0)",
            ),
            "smooth": Example(
                "A schedule of epochs that moves at every step.",
                'ExponentialDecay(0.1, decay_steps="10ep", decay_rate=0.3).smooth()',
            ),
            "per_epoch": Example(
                "A schedule of steps that holds within each epoch.",
                "InverseTimeDecay(0.1, decay_steps=1, decay_rate=0.05).per_epoch()",
            ),
            "annealed": Example(
                "From some point on, anneal a schedule to an end value.",
                'Annealed(StepDecay(0.1, drop=0.6, every="6ep"), end_learning_rate=0.01, after="70%",'
                ' decay_steps="5ep", shape="cosine")',
            ),
            "noise": Example("Seeded noise, the same after a resume.", "Noise(CosineDecay(0.1), std=0.2)"),
        },
    ),
    Group(
        "Metric-driven schedules",
        "Schedules that observe a logged metric. The gray curve is a loss that they might see.",
        {
            "loss_driven": Example("A function of the loss of the epoch before.", "LossDriven(0.01)"),
            "plateau": Example(
                "Reduce it when a metric stops improving.",
                'ReduceLROnPlateau(0.1, monitor="loss", factor=0.5, patience=2)',
            ),
            "plateau_warmup": Example(
                "A plateau factor on a cosine, after a warm-up.",
                '(CosineDecay(0.1) * ReduceLROnPlateau(monitor="loss", factor=0.5, patience=2)).with_warmup("10%")',
                "ReduceLROnPlateau",
            ),
            "greedy": Example(
                "Raise it while a metric improves, lower it while it does not (GreedyLR).",
                'Greedy(0.1, monitor="loss", factor=0.7, patience=1)',
            ),
            "bold_driver": Example("A little up with each improvement, halved when the loss rises.", "BoldDriver(0.1)"),
        },
    ),
]
EXAMPLES: Mapping[str, Mapping[str, Schedule]] = {
    group.title: {name: example.schedule for name, example in group.examples.items()} for group in GALLERY
}
# Those of the picture of several previews: as they are configured, in the main job's run.
COMPARED: Mapping[str, Schedule] = {
    "schedule=step_decay": schedules.StepDecay(every="3ep"),
    "schedule=warmup_cosine": schedules.CosineDecay().with_warmup("5%"),
    "schedule=one_cycle": schedules.OneCycle(),
    "schedule=cosine_restarts": schedules.CosineRestarts(first_decay_steps="3ep"),
}
# What those see in their pictures: a loss that falls, stays, rises for a while, and falls again.
LOSSES = [2.3 * 0.75 ** min(epoch, 9) + 0.1 * math.sin(1.9 * epoch) ** 2 for epoch in range(16)]
LOSSES += [0.3 + 0.08 * epoch for epoch in range(5)] + [0.25 * 0.8**epoch + 0.05 for epoch in range(9)]


def page() -> str:
    """The text of the gallery."""
    lines = [
        "# Every schedule",
        "",
        f"Each picture is a run of {RUN.epochs} epochs of {RUN.steps_per_epoch} optimizer steps, and the line of code",
        "makes its schedule. Each name links to the reference: formula, arguments, edge cases, source.",
        "[Which schedule should I use?](which_schedule.md) helps to choose.",
        "",
        'A plain number counts optimizer steps; `"10ep"` counts epochs, `"50000sp"` samples, and `"5%"` is a share of',
        "the run. A schedule without an initial learning rate starts from the optimizer's own.",
    ]
    for group in GALLERY:
        lines += ["", f"## {group.title}", "", group.introduction, "", '<div class="grid cards gallery" markdown>']
        for name, example in group.examples.items():
            lines += ["", f"-   ![{name}](pictures/{name}.png)", ""]
            lines += [f"    [**{example.kind.__name__}**]({example.reference}): {example.what}", ""]
            lines += ["    ```python", f"    {example.code}", "    ```"]
        lines += ["", "</div>"]
    return "\n".join(lines) + "\n"


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
        "bare rule": schedules.LossDriven(0.06, max_learning_rate=None, when="step"),
        "with the ceiling": schedules.LossDriven(0.06, when="step"),
        "k = -1": schedules.LossDriven(0.06, k=-1.0, when="step"),
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
    previews = {
        name: preview(one, steps_per_epoch=45, epochs=10, base_learning_rate=0.002) for name, one in COMPARED.items()
    }
    plot_all(previews, pictures / "preview.png")
    (folder / "schedules.md").write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1] if len(sys.argv) > 1 else "docs"))
