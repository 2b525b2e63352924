"""The run that a configuration describes, as far as it is known without data, model, torch or Lightning.

`sizes` counts the samples and their batches, for the data modules as well. How a Trainer limits batches, shares them
among processes and ends is stated here a second time: Lightning's own count needs a Trainer, whose import brings torch,
and `lr-plugins preview` answers without it. The tests hold the two against each other (tests/training/test_planned.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from lr_plugins import validation
from lr_plugins.errors import InvalidArgumentError, LearningRateError
from lr_plugins.schedules.assign import Assignments
from lr_plugins.schedules.position import RunLength
from lr_plugins.simulation.metric_courses import Course, Validations
from lr_plugins.simulation.preview import Preview, preview_of
from lr_plugins.simulation.segments import Planned
from lr_plugins.training.sizes import SAMPLES, TRAINING_SAMPLES, batches, held_out, of_process
from lr_plugins.validation import number

# The Trainer's arguments that decide; other fields may only be resolved in a Hydra job.
_LENGTH = (
    "max_epochs",
    "max_steps",
    "accelerator",
    "devices",
    "num_nodes",
    "accumulate_grad_batches",
    "limit_train_batches",
    "limit_val_batches",
    "overfit_batches",
    "fast_dev_run",
    "check_val_every_n_epoch",
    "val_check_interval",
)
_HOME = "lr_plugins.training.data."
_UNLIMITED = -1
_LIGHTNINGS_EPOCHS = 1000  # where neither epochs nor steps are limited


@dataclass
class _Samples:
    train: int
    validate: int
    batch_size: int


class _Epoch(NamedTuple):
    """For one process: the batches of an epoch, whether the run validates, and what the count rests on."""

    batches: int
    validates: bool
    note: str


def preview_of_config(config: DictConfig, metrics: Mapping[str, Course], steps_per_epoch: int | None) -> Preview:
    """What the schedule of a configuration will do in the run that it describes.

    Args:
        config: as `train.py` composes it.
        metrics: the assumed course of each metric that a schedule monitors.
        steps_per_epoch: optimizer steps of an epoch, for data of unknown size. Default None: what the configuration
            implies.

    Raises:
        InvalidArgumentError: a setting that cannot work.
        LearningRateError: the length of the run is not known.
    """
    scheduler = config.callbacks.get("scheduler")
    if scheduler is None:
        raise LearningRateError("lr-plugins preview needs callbacks.scheduler; it is null.")
    if "lr" in config.optimizer:
        number("optimizer.lr", config.optimizer.lr, "a finite number >= 0", at_least=0.0)
    assignments = Assignments.of(instantiate(scheduler.schedule))
    trainer = {name: config.trainer[name] for name in _LENGTH if name in config.trainer}
    accumulated = validation.integer("trainer.accumulate_grad_batches", trainer.get("accumulate_grad_batches", 1), 1)
    changes = any("GradientAccumulationScheduler" in str(node.get("_target_")) for node in _nodes(config.callbacks))
    if steps_per_epoch is None:
        if changes:
            raise _unknown("GradientAccumulationScheduler changes the number of steps per epoch")
        epoch = _epoch(config.data, trainer)
        steps_per_epoch = math.ceil(epoch.batches / accumulated)
        validations = _validations(epoch, trainer, accumulated)
    else:
        epoch = _Epoch(steps_per_epoch * accumulated, True, "steps per epoch as given")
        validations = Validations((steps_per_epoch,))
    samples = None if changes else _samples_per_step(config.data, trainer, accumulated)
    run = _run(trainer, steps_per_epoch, samples)
    planned = Planned(run, metrics, validations, frozenset(map(str, scheduler.get("measure") or ())))
    defaults: Any = OmegaConf.to_container(config.optimizer, resolve=True)
    notes = [epoch.note + (f", {accumulated} batches a step" if accumulated > 1 else ""), *_differs(config)]
    return preview_of(assignments, planned, defaults, notes)


def _nodes(callbacks: DictConfig) -> list[DictConfig]:
    return [node for node in callbacks.values() if isinstance(node, DictConfig)]


def _differs(config: DictConfig) -> list[str]:
    """What only the training shows: what may end it early, or scale the learning rate."""
    stops = any("EarlyStopping" in str(node.get("_target_")) for node in _nodes(config.callbacks))
    ends = ["callbacks.early_stopping"] * stops + ["trainer.max_time"] * bool(config.trainer.get("max_time"))
    searches = any(
        "LearningRateRangeTest" in str(node.get("_target_")) and node.get("apply", True)
        for node in _nodes(config.callbacks)
    )
    replaced = "callbacks.lr_finder may replace optimizer.lr: the shape holds, the heights do not"
    return [f"{name} may end the run sooner" for name in ends] + [replaced] * searches


def _samples_per_step(data: DictConfig, trainer: Mapping[str, Any], accumulated: int) -> int | None:
    """The same as `samples_per_step` in a training; None if the configuration does not say."""
    if data.get("batch_size") is None:
        return None
    batch_size = validation.integer("data.batch_size", data.batch_size, 1)
    try:
        return batch_size * accumulated * _processes(trainer)
    except LearningRateError:  # raised where it matters: if the steps of an epoch are not given
        return None


def _run(trainer: Mapping[str, Any], steps_per_epoch: int, batch_size: int | None) -> RunLength:
    """The same as `run_length` in a training."""
    epochs, steps = trainer.get("max_epochs"), trainer.get("max_steps", _UNLIMITED)
    if trainer.get("fast_dev_run"):
        epochs, steps = 1, int(trainer["fast_dev_run"])
    if epochs is None:
        epochs = _LIGHTNINGS_EPOCHS if steps == _UNLIMITED else _UNLIMITED
    epochs = validation.integer("trainer.max_epochs", epochs, _UNLIMITED)
    steps = validation.integer("trainer.max_steps", steps, _UNLIMITED)
    if epochs == _UNLIMITED and steps == _UNLIMITED:
        raise LearningRateError("The run has no end: set trainer.max_epochs or trainer.max_steps.")
    if 0 in (epochs, steps):
        raise LearningRateError(f"Nothing is trained: trainer.max_{'epochs' if epochs == 0 else 'steps'} is 0.")
    return RunLength.of(
        steps_per_epoch,
        epochs=None if epochs == _UNLIMITED else epochs,
        steps=None if steps == _UNLIMITED else steps,
        batch_size=batch_size,
    )


def _epoch(data: DictConfig, trainer: Mapping[str, Any]) -> _Epoch:
    samples, processes = _samples(data), _processes(trainer)
    own = of_process(samples.train, 0, processes, even=True)
    limit, validates = trainer.get("limit_train_batches", 1.0), trainer.get("limit_val_batches", 1.0)
    if trainer.get("fast_dev_run"):
        limit = validates = int(trainer["fast_dev_run"])
    if trainer.get("overfit_batches"):
        limit = validates = trainer["overfit_batches"]
    count = _limited(batches(own, samples.batch_size), limit)
    note = f"{samples.train:,} training samples in batches of {samples.batch_size}"
    note += f", {processes} processes" if processes > 1 else ""
    note += f", {count} batches an epoch" if limit != 1.0 or isinstance(limit, int) else ""
    return _Epoch(count, samples.validate > 0 and validates != 0, note)


def _limited(count: int, limit: Any) -> int:
    """The number of batches after Lightning's limit: an integer is a number of batches, a float a share."""
    field, allowed = "trainer.limit_train_batches", "an integer >= 1, or a share of the batches > 0 and <= 1"
    if limit is None:
        return count
    share = number(field, limit, allowed, above=0.0)
    if isinstance(limit, float) and share <= 1:
        if not int(count * share):
            raise LearningRateError(f"{field}={limit} leaves none of the {count} batches of an epoch.")
        return int(count * share)
    if not share.is_integer():
        raise InvalidArgumentError(field, limit, allowed)
    return min(count, int(share))


def _samples(data: DictConfig) -> _Samples:
    """How many samples a data module of ours has."""
    target = str(data.get("_target_"))
    name = target.removeprefix(_HOME)
    known = {*SAMPLES, *TRAINING_SAMPLES, "Fake"}
    if not target.startswith(_HOME) or name not in known or "batch_size" not in data:
        raise _unknown(f"The size of {target} is not known without reading it; only that of {', '.join(sorted(known))}")
    batch_size = validation.integer(f"{name}.batch_size", data.batch_size, 1)
    if name in TRAINING_SAMPLES:
        return _Samples(TRAINING_SAMPLES[name], 1, batch_size)
    total = validation.integer("Fake.num_samples", data.get("num_samples", 256), 1) if name == "Fake" else SAMPLES[name]
    fraction = validation.fraction(f"{name}.validation_fraction", data.get("validation_fraction", 0.2))
    validate = held_out(total, fraction) if fraction else 0
    return _Samples(total - validate, validate, batch_size)


def _unknown(reason: str) -> LearningRateError:
    return LearningRateError(f"{reason}. Give the length of an epoch: --steps-per-epoch N.")


def _processes(trainer: Mapping[str, Any]) -> int:
    """How many processes share the samples."""
    nodes = validation.integer("trainer.num_nodes", trainer.get("num_nodes", 1), 1)
    devices = trainer.get("devices", 1)
    if devices in ("auto", _UNLIMITED, "-1", None):
        if trainer.get("accelerator") == "cpu":
            return nodes
        raise _unknown(f"trainer.devices is {devices!r}, and how many there are is not known before training")
    if isinstance(devices, str):
        # For Lightning, "0," is a list of one device.
        listed = [part for part in devices.split(",") if part.strip()]
        devices = int(devices) if devices.strip().isdigit() else listed
    if not isinstance(devices, int):
        if not devices:
            raise InvalidArgumentError(
                "trainer.devices", trainer["devices"], "a number of devices, or a list of at least one"
            )
        return nodes * len(devices)
    return nodes * validation.integer("trainer.devices", devices, 1)


def _validations(epoch: _Epoch, trainer: Mapping[str, Any], accumulated: int) -> Validations | None:
    """After which steps of an epoch the run validates."""
    if not epoch.validates:
        return None
    every = trainer.get("check_val_every_n_epoch", 1)
    interval = 1.0 if trainer.get("fast_dev_run") else trainer.get("val_check_interval", 1.0)
    if every is None or not isinstance(interval, (int, float)) or isinstance(interval, bool):
        raise _unknown(
            f"When the run validates is not known before training: trainer.val_check_interval is {interval!r}, "
            f"trainer.check_val_every_n_epoch is {every!r}"
        )
    between = interval if isinstance(interval, int) else max(int(epoch.batches * interval), 1)
    after = range(between, epoch.batches + 1, between)
    steps = [math.ceil(batch / accumulated) if batch == epoch.batches else batch // accumulated for batch in after]
    return Validations(
        tuple(step for step in steps if step), validation.integer("trainer.check_val_every_n_epoch", every, 1)
    )
