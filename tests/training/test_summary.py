"""The lines that end a run."""

import math

from lr_plugins.callbacks import Trace
from lr_plugins.training.summary import summary


def test_validation_metrics_come_before_those_of_training():
    metrics = {"loss": {0: 1.0}, "val_loss": {0: 0.5, 1: 0.25, 2: 0.5}, "val_acc": {1: 0.75, 2: 0.5}}
    assert summary(metrics, Trace(), {}).splitlines()[1:] == [
        "best val_loss  0.2500  (epoch 2)",
        "best val_acc   0.7500  (epoch 2)",
    ]


def test_diverged_run_is_reported():
    metrics = {"loss": {0: 0.5, 1: math.nan}, "other": {0: math.nan}}
    assert summary(metrics, Trace(), {}).splitlines()[1:] == [
        "best loss     0.5000  (epoch 1); nan at the end: training has diverged",
        "lowest other  nan in every epoch: training has diverged",
    ]


def test_each_group_has_its_learning_rates():
    trace = Trace()
    for name, values in (("lr/head", (0.1, 0.05)), ("lr/body", (0.01, 0.005))):
        for value in values:
            trace.series(name).append(value)
    assert summary({}, trace, {"run": "here"}).splitlines()[1:] == [
        "learning rate/head  0.1 at the first step, 0.05 at the last of 2",
        "learning rate/body  0.01 at the first step, 0.005 at the last of 2",
        "run                 here",
    ]


def test_best_depends_on_the_metric_name_and_skips_infinity():
    metrics = {
        "val_f1": {0: 0.5, 1: 0.75},
        "val_top5_error": {0: 0.5, 1: 0.75},
        "val_thing": {0: 2.0, 1: 1.0},
        "val_acc": {0: 0.5, 1: math.inf},
        "val_loss": {0: math.inf, 1: math.nan},
    }
    assert summary(metrics, Trace(), {}).splitlines()[1:] == [
        "best val_f1          0.7500  (epoch 2)",
        "best val_top5_error  0.5000  (epoch 1)",
        "lowest val_thing     1.0000  (epoch 2)",
        "best val_acc         0.5000  (epoch 1); inf at the end: training has diverged",
        "best val_loss        inf or nan in every epoch: training has diverged",
    ]
