"""The metrics that a Trainer has logged: which are new, and what schedules observe of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, SupportsFloat

import torch
from torch import Tensor

from lr_plugins._lightning.compat import Trainer
from lr_plugins.checkpoint_state import count, dict_of, list_of, real, record, row, text
from lr_plugins.schedules.observation import EPOCH, VALIDATION, Observation, steps_between

LOSS = "loss"
"""The name under which the mean training loss over some steps is observed."""

WAITING = record(
    {
        "waiting": dict_of(dict_of(real)),
        "means": dict_of(row(real, count)),
        "known": list_of(text),
    }
)
"""The form of `MetricCollector.state`, to check that of a checkpoint."""


class MetricCursor:
    """Separates the newly logged metrics of a Trainer from those already read.

    Lightning keeps a metric in `trainer.callback_metrics` until the next value replaces it, and logs a new tensor each
    time. It may hand out another view of the same tensor at each access, so tensors are compared by their memory. The
    cursor keeps a reference to the tensors it has passed, so that no other tensor can reuse their memory.

    Args:
        metrics: the metrics that are not new, e.g. `trainer.callback_metrics`. Default: none.

    Example:
        >>> cursor = MetricCursor({"loss": torch.tensor(0.5)})
        >>> metrics = {"loss": torch.tensor(0.5), "acc": torch.tensor(0.9)}
        >>> sorted(cursor.new(metrics))
        ['acc', 'loss']
        >>> cursor.advance(metrics)
        >>> cursor.new(metrics)
        {}
    """

    def __init__(self, metrics: Mapping[str, Tensor] = MappingProxyType({})) -> None:
        self._passed = dict(metrics)

    def new(self, metrics: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The metrics that have been logged since the cursor was last advanced; the cursor stays where it is."""
        return {name: value for name, value in metrics.items() if not _is_same(self._passed.get(name), value)}

    def advance(self, metrics: Mapping[str, Tensor]) -> None:
        """Pass over these metrics."""
        self._passed = dict(metrics)


def _is_same(passed: Tensor | None, value: Tensor) -> bool:
    return passed is not None and (passed is value or passed.data_ptr() == value.data_ptr())


def scalars(metrics: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The metrics that are a single number."""
    return {name: value for name, value in metrics.items() if value.numel() == 1}


class MetricCollector:
    """Collects what is logged between two observations of a kind, for the schedules of one optimizer.

    Losses stay tensors and are summed on their device until they are observed.

    Args:
        trainer: the Trainer of the run.
        watched: for each occasion (`when`), the metrics that schedules monitor at it.
        measured: quantities that are measured for an observation; their logged values are outdated at the next one.
        step: optimizer steps taken so far.
    """

    def __init__(
        self, trainer: Trainer, watched: Mapping[str, Iterable[str]], measured: Iterable[str] = (), step: int = 0
    ) -> None:
        self._trainer, self._measured = trainer, frozenset(measured)
        self._watched = {when: sorted(names) for when, names in watched.items()}
        # Metrics logged before training belong to another run, or to the run of the checkpoint.
        self._cursors = {when: MetricCursor(trainer.callback_metrics) for when in watched}
        self.over: set[str] = set()  # EPOCH and VALIDATION, once one has been completed
        self._pending: dict[str, dict[str, float]] = {}
        self.known: set[str] = set()
        intervals = {when: steps_between(when) for when in watched}
        self._reached = {when: step // interval for when, interval in intervals.items() if interval}
        self.is_of_steps = bool(self._reached)  # whether anything is observed every few steps
        self._means = {when: _Mean() for when, names in self._watched.items() if steps_between(when) and LOSS in names}

    def add_loss(self, outputs: Any) -> None:
        """Add the training loss of a batch to the means over the current steps."""
        loss = batch_loss(self._trainer, outputs) if self._means else None
        if loss is not None:
            for mean in self._means.values():
                mean.add(loss)

    def add(self, when: str, metrics: Mapping[str, float]) -> None:
        """Add metrics that Lightning has not logged to the next observation of a kind."""
        watched = {name: value for name, value in metrics.items() if name in self._watched[when]}
        self._pending[when] = {**self._pending.get(when, {}), **watched}

    def due(self, steps: int) -> list[str]:
        """The occasions that are due after this number of optimizer steps."""
        reached = {when: steps // (steps_between(when) or 1) for when in self._reached}
        due = [when for when, count in reached.items() if count > self._reached[when]]
        self._reached = reached
        return due

    def observation(self, when: str, measured: Mapping[str, SupportsFloat]) -> Observation:
        """What was logged since the last observation of this kind; the next one covers what is logged from now on.

        Args:
            when: the occasion.
            measured: the quantities that were measured for it.
        """
        metrics: dict[str, Tensor] = dict(self._trainer.callback_metrics)
        new = {**self._pending.pop(when, {}), **self._logged(when, metrics)}
        new |= self._means[when].take() if when in self._means else {}
        new |= measured
        self._cursors[when].advance(metrics)
        self.known |= {*metrics, *new}
        if self._trainer.world_size > 1:
            new = self._reduced(new, self._watched[when])
        return Observation(when, new, known=frozenset(self.known), complete=self._complete)

    @property
    def _complete(self) -> bool:
        return EPOCH in self.over and (VALIDATION in self.over or not self._trainer.enable_validation)

    def _logged(self, when: str, metrics: Mapping[str, Tensor]) -> dict[str, SupportsFloat]:
        new = self._cursors[when].new(metrics)
        return {name: value for name, value in new.items() if name not in self._measured}

    def _reduced(self, metrics: Mapping[str, SupportsFloat], names: list[str]) -> dict[str, SupportsFloat]:
        """The mean of each metric over the ranks that have it, the same on all ranks. A collective call."""
        device = self._trainer.strategy.root_device
        dtype = torch.float32 if device.type == "mps" else torch.float64  # Apple's devices have no float64
        local = [(float(metrics[name]), 1.0) if _is_scalar(metrics.get(name)) else (0.0, 0.0) for name in names]
        total = self._trainer.strategy.reduce(torch.tensor(local, dtype=dtype, device=device), reduce_op="sum")
        assert isinstance(total, Tensor)
        # A metric of several numbers is not reduced; the schedule raises an error for it.
        others = {name: value for name, value in metrics.items() if not _is_scalar(value)}
        sums = zip(names, total.reshape(-1, 2).tolist(), strict=True)
        return {**others, **{name: value / count for name, (value, count) in sums if count}}

    # --- the checkpoint ---------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Plain numbers: what is logged but not yet observed, and the current sums. A collective call."""
        metrics = dict(self._trainer.callback_metrics)
        waiting, is_distributed = {}, self._trainer.world_size > 1
        for when, names in self._watched.items():
            new = {**self._pending.get(when, {}), **self._logged(when, metrics)}
            new = self._reduced(new, names) if is_distributed else new
            waiting[when] = {name: float(new[name]) for name in names if _is_scalar(new.get(name))}
        known = {name for names in self._watched.values() for name in names} & {*metrics, *self.known}
        means = {when: mean.state() for when, mean in self._means.items()}
        if is_distributed:
            means = {when: (self._mean_of_ranks(total), count) for when, (total, count) in means.items()}
        return {
            "waiting": {when: values for when, values in waiting.items() if values},
            "means": {when: list(mean) for when, mean in means.items()},
            "known": sorted(known),
        }

    def _mean_of_ranks(self, value: float) -> float:
        return float(self._reduced({LOSS: value}, [LOSS])[LOSS])

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from a state."""
        self._pending = {when: dict(values) for when, values in state["waiting"].items() if when in self._watched}
        self.known = set(state["known"])
        for when, mean in state["means"].items():
            if when in self._means:
                self._means[when] = _Mean(*mean)


class _Mean:
    """A running mean, summed on the device of its values."""

    def __init__(self, total: float = 0.0, count: int = 0) -> None:
        self._initial, self._count = total, count
        self._sum: Tensor | None = None

    def add(self, value: Tensor) -> None:
        if self._sum is None:
            dtype = torch.float32 if value.device.type == "mps" else torch.float64
            self._sum = torch.tensor(self._initial, dtype=dtype, device=value.device)
        self._sum.add_(value)
        self._count += 1

    def take(self) -> dict[str, SupportsFloat]:
        if not self._count:
            return {}
        total, count = self.state()
        self._initial, self._sum, self._count = 0.0, None, 0
        return {LOSS: total / count}

    def state(self) -> tuple[float, int]:
        return self._initial if self._sum is None else float(self._sum), self._count


def batch_loss(trainer: Trainer, outputs: Any) -> Tensor | None:
    """The training loss of a batch, from the `outputs` of `on_train_batch_end`; None for a batch without a loss."""
    loss = outputs.get(LOSS) if isinstance(outputs, Mapping) else outputs
    # Lightning has divided it by the number of batches in an optimizer step.
    return loss.detach() * trainer.accumulate_grad_batches if isinstance(loss, Tensor) else None


def _is_scalar(value: object) -> bool:
    return value is not None and (not isinstance(value, Tensor) or value.numel() == 1)
