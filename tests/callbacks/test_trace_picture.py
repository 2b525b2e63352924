"""The picture of LearningRateTrace: the learning rate, and metrics next to it or below it."""

import math
from itertools import pairwise

import numpy as np
import pytest
import pytorch_lightning as pl
from matplotlib.figure import Figure

from lr_plugins import LearningRateScheduler, LearningRateTrace, LossDriven, StepDecay
from lr_plugins.callbacks import FullPass
from lr_plugins.errors import InvalidArgumentError
from tests.toys import QUIET, Toy, fit, loader

STEPS = 6  # of an epoch


@pytest.fixture(name="figures")
def _figures(monkeypatch):
    """The figures that are saved."""
    saved, save = [], Figure.savefig

    def recorded(figure, *arguments, **options):
        saved.append(figure)
        save(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", recorded)
    return saved


def curves(axes):
    """The points of each labelled line, without the marks of the epochs."""
    lines = [line for line in axes.get_lines() if not line.get_label().startswith("_")]
    return {line.get_label(): (line.get_xdata().tolist(), line.get_ydata().tolist()) for line in lines}


def marks(axes):
    return [line.get_xdata()[0] for line in axes.get_lines() if line.get_label().startswith("_")]


def loss_driven():
    schedule = LossDriven(0.01, monitor="whole", max_learning_rate=None)
    return LearningRateScheduler(schedule, measure={"whole": FullPass()})


PANELS = ["whole", ["loss", "val_loss"]]


@pytest.mark.parametrize("order", [1, -1])
def test_metrics_are_drawn_in_panels_below_the_learning_rate(order, tmp_path, figures):
    trace = LearningRateTrace(tmp_path, metrics=PANELS)
    fit(None, *[loss_driven(), trace][::order], val=loader(8), num_sanity_val_steps=0)
    (figure,) = figures
    rate, whole, losses = figure.axes
    assert [axes.get_ylabel() for axes in figure.axes] == ["learning rate", "whole", "loss"]
    assert [axes.get_xlabel() for axes in figure.axes] == ["", "", "optimizer step (vertical lines: epochs)"]
    assert rate.get_xlim() == whole.get_xlim() == losses.get_xlim()
    assert all(marks(axes) == [0, 6, 12, 18] for axes in figure.axes)
    steps, values = curves(whole)["whole"]
    assert steps == [0, 6, 12]  # where each epoch began
    drawn = np.repeat([0.01 * math.exp(value) for value in values], STEPS)
    assert curves(rate)["lr"][1][:-1] == pytest.approx(drawn, rel=1e-6)  # a metric that is logged is a float32
    assert list(curves(losses)) == ["loss", "val_loss"]
    assert all(steps == [6, 12, 18] for steps, _ in curves(losses).values())
    assert [text.get_text() for text in losses.get_legend().get_texts()] == ["loss", "val_loss"]
    assert [text.get_text() for text in whole.get_legend().get_texts()] == ["whole"]
    colors = [line.get_color() for axes in figure.axes for line in axes.get_lines() if line.get_label()[0] != "_"]
    assert colors[0] not in colors[1:]
    assert colors[2] != colors[3]


def test_a_metric_has_points_only_where_it_was_logged(tmp_path, figures):
    trace = LearningRateTrace(tmp_path, metrics=[["loss", "val_loss"]])
    options = {"val": loader(8), "num_sanity_val_steps": 0, "check_val_every_n_epoch": 2, "epochs": 5}
    fit(None, LearningRateScheduler(StepDecay(0.1)), trace, **options)
    drawn = curves(figures[0].axes[1])
    assert drawn["loss"][0] == [6, 12, 18, 24, 30]
    assert drawn["val_loss"][0] == [12, 24]


@pytest.mark.parametrize("epochs", [1, 2])
def test_curves_are_complete_after_a_resume(epochs, tmp_path, figures):
    def run(epochs, ckpt_path=None):
        callbacks = [loss_driven(), LearningRateTrace(tmp_path, metrics=PANELS)]
        trainer = pl.Trainer(**QUIET, max_epochs=epochs, num_sanity_val_steps=0, callbacks=callbacks)
        trainer.fit(Toy(), loader(), loader(8), ckpt_path=ckpt_path)
        return trainer

    run(3)
    run(epochs).save_checkpoint(tmp_path / "a.ckpt")
    run(3, tmp_path / "a.ckpt")
    undisturbed, _, resumed = figures
    assert [curves(axes) for axes in resumed.axes] == [curves(axes) for axes in undisturbed.axes]


def test_resume_with_other_metrics_draws_the_new_ones(tmp_path, figures):
    trainer = fit(None, loss_driven(), LearningRateTrace(tmp_path, metrics=["whole", "loss"]), epochs=2)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    callbacks = [loss_driven(), LearningRateTrace(tmp_path, metrics=["whole"])]
    pl.Trainer(**QUIET, max_epochs=3, callbacks=callbacks).fit(Toy(), loader(), ckpt_path=tmp_path / "a.ckpt")
    assert [list(curves(axes)) for axes in figures[-1].axes] == [["lr"], ["whole"]]
    assert curves(figures[-1].axes[1])["whole"][0] == [0, 6, 12]


def test_losses_are_drawn_next_to_the_rate_by_default(tmp_path, figures):
    fit(None, loss_driven(), LearningRateTrace(tmp_path))
    rate, losses = figures[0].axes
    assert (rate.get_ylabel(), losses.get_ylabel()) == ("learning rate", "loss")
    assert {name: steps for name, (steps, _) in curves(losses).items()} == {"loss": [6, 12, 18]}  # "whole" has no loss


def test_empty_list_draws_only_the_learning_rate(tmp_path, figures):
    fit(None, loss_driven(), LearningRateTrace(tmp_path, metrics=[]))
    assert [axes.get_ylabel() for axes in figures[0].axes] == ["learning rate"]


def test_a_name_that_is_never_logged_is_reported(tmp_path, figures):
    trace = LearningRateTrace(tmp_path, metrics=["loss", "val_f1"])
    message = r"never logged: val_f1\. The picture has no curve for them\. Logged metrics: loss\."
    with pytest.warns(UserWarning, match=message):
        fit(None, LearningRateScheduler(StepDecay(0.1)), trace)
    assert [axes.get_ylabel() for axes in figures[0].axes] == ["learning rate", "loss"]


def test_loss_over_orders_of_magnitude_gets_a_log_axis(tmp_path, figures):
    class Logs(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            pl_module.log("gap", 10.0**-trainer.current_epoch)
            pl_module.log("acc", 0.5 + 0.1 * trainer.current_epoch)

    fit(
        None,
        LearningRateScheduler(StepDecay(0.1)),
        Logs(),
        LearningRateTrace(tmp_path, metrics=["gap", "acc"]),
        epochs=4,
    )
    _, gap, acc = figures[0].axes
    assert (gap.get_yscale(), acc.get_yscale()) == ("log", "linear")
    assert all(one > other for one, other in pairwise(curves(gap)["gap"][1]))


@pytest.mark.parametrize("value", ["loss", 3, [""], [[]], [["loss"], 1], [[["loss"]]], {"loss": 1}])
def test_invalid_metric_names_are_refused(value):
    with pytest.raises(
        InvalidArgumentError, match=r"LearningRateTrace\.metrics must be null, or a list of metric names"
    ):
        LearningRateTrace(metrics=value)
