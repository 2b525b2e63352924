"""What schedules observe: metrics that have been logged anew, the same numbers on all ranks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, SupportsFloat

import torch
from torch import Tensor

from lr_plugins._lightning.compat import Trainer
from lr_plugins.checkpoint_state import count, dict_of, list_of, real, record, row, text
from lr_plugins.schedules.observation import EPOCH, VALIDATION, Observation, steps_between

LOSS = "loss"
"""The name under which the mean training loss of some steps is observed."""


WAITING = record(
    {
        "waiting": dict_of(dict_of(real)),
        "means": dict_of(row(real, count)),
        "known": list_of(text),
    }
)
"""What `Observer.state` gives, to be checked in a checkpoint."""


def logged_since(metrics: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The metrics logged since `before`: Lightning keeps old ones for ever, but logs a new tensor each time.

    What it hands out may be another view of the same tensor at each time, so its memory is looked at; `before` still
    holds the old one, whose memory is therefore no other's.
    """
    return {name: value for name, value in metrics.items() if not _same(before.get(name), value)}


def _same(one: Tensor | None, other: Tensor) -> bool:
    return one is not None and (one is other or one.data_ptr() == other.data_ptr())


class Observer:
    """Gathers what has been logged since the last occasion of the same kind, for the schedules of one optimizer.

    Losses stay tensors, and are summed up on their device, until an occasion comes.

    Args:
        trainer: the Trainer of the run.
        watched: for each occasion, the names that schedules monitor then.
        measured: names of quantities that are measured for an occasion: what is logged of them is old by the next.
        step: steps that the optimizer has taken.
    """

    def __init__(
        self, trainer: Trainer, watched: Mapping[str, Iterable[str]], measured: Iterable[str] = (), step: int = 0
    ) -> None:
        self._trainer, self._measured = trainer, frozenset(measured)
        self._watched = {when: sorted(names) for when, names in watched.items()}
        # What is there before training begins is of another run, or of the checkpoint's.
        self._seen = {when: dict(trainer.callback_metrics) for when in watched}
        self.over: set[str] = set()  # what there has been: an epoch, a validation run
        self._pending: dict[str, dict[str, float]] = {}
        self.known: set[str] = set()
        every = {when: steps_between(when) for when in watched}
        self._reached = {when: step // steps for when, steps in every.items() if steps}
        self._means = {when: _Mean() for when, names in self._watched.items() if steps_between(when) and LOSS in names}

    def add_loss(self, outputs: Any) -> None:
        """Add the training loss of a batch to the means of the steps under way."""
        loss = batch_loss(self._trainer, outputs) if self._means else None
        if loss is not None:
            for mean in self._means.values():
                mean.add(loss)

    def add(self, when: str, metrics: Mapping[str, float]) -> None:
        """Add what Lightning has not logged, to be observed at the next occasion of a kind."""
        mine = {name: value for name, value in metrics.items() if name in self._watched[when]}
        self._pending[when] = {**self._pending.get(when, {}), **mine}

    def due(self, steps: int) -> list[str]:
        """The occasions that come now, after so many optimizer steps."""
        reached = {when: steps // (steps_between(when) or 1) for when in self._reached}
        due = [when for when, count in reached.items() if count > self._reached[when]]
        self._reached = reached
        return due

    def observation(self, when: str, measured: Mapping[str, SupportsFloat]) -> Observation:
        """What is there to be observed now, at an occasion; the next one of its kind gets what comes after.

        Args:
            when: the occasion.
            measured: what has been measured for it.
        """
        metrics: dict[str, Tensor] = dict(self._trainer.callback_metrics)
        news = {**self._pending.pop(when, {}), **self._logged(when, metrics)}
        news |= self._means[when].take() if when in self._means else {}
        news |= measured
        self._seen[when] = metrics
        self.known |= {*metrics, *news}
        if self._trainer.world_size > 1:
            news = self._reduced(news, self._watched[when])
        return Observation(when, news, known=frozenset(self.known), complete=self._complete)

    @property
    def _complete(self) -> bool:
        return EPOCH in self.over and (VALIDATION in self.over or not self._trainer.enable_validation)

    def _logged(self, when: str, metrics: Mapping[str, Tensor]) -> dict[str, SupportsFloat]:
        news = logged_since(metrics, self._seen[when])
        return {name: value for name, value in news.items() if name not in self._measured}

    def _reduced(self, news: Mapping[str, SupportsFloat], names: list[str]) -> dict[str, SupportsFloat]:
        """The means over those ranks that have a metric; all ranks have to call it, and get the same."""
        device = self._trainer.strategy.root_device
        dtype = torch.float32 if device.type == "mps" else torch.float64  # Apple's devices have no float64
        mine = [(float(news[name]), 1.0) if _scalar(news.get(name)) else (0.0, 0.0) for name in names]
        total = self._trainer.strategy.reduce(torch.tensor(mine, dtype=dtype, device=device), reduce_op="sum")
        assert isinstance(total, Tensor)
        # A metric of several numbers is none that can be reduced; the schedule says so.
        others = {name: value for name, value in news.items() if not _scalar(value)}
        sums = zip(names, total.reshape(-1, 2).tolist(), strict=True)
        return {**others, **{name: value / count for name, (value, count) in sums if count}}

    # --- the checkpoint ---------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Plain numbers: what is logged but not yet observed, and the sums under way; all ranks have to call it."""
        metrics = dict(self._trainer.callback_metrics)
        waiting, apart = {}, self._trainer.world_size > 1
        for when, names in self._watched.items():
            news = {**self._pending.get(when, {}), **self._logged(when, metrics)}
            news = self._reduced(news, names) if apart else news
            waiting[when] = {name: float(news[name]) for name in names if _scalar(news.get(name))}
        known = {name for names in self._watched.values() for name in names} & {*metrics, *self.known}
        means = {when: mean.state() for when, mean in self._means.items()}
        if apart:
            means = {when: (self._mean_of_ranks(total), count) for when, (total, count) in means.items()}
        return {
            "waiting": {when: found for when, found in waiting.items() if found},
            "means": {when: list(mean) for when, mean in means.items()},
            "known": sorted(known),
        }

    def _mean_of_ranks(self, value: float) -> float:
        return float(self._reduced({LOSS: value}, [LOSS])[LOSS])

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self._pending = {when: dict(found) for when, found in state["waiting"].items() if when in self._watched}
        self.known = set(state["known"])
        for when, mean in state["means"].items():
            if when in self._means:
                self._means[when] = _Mean(*mean)


class _Mean:
    """A mean that is summed up where the numbers are."""

    def __init__(self, total: float = 0.0, count: int = 0) -> None:
        self._begin, self._count = total, count
        self._sum: Tensor | None = None

    def add(self, value: Tensor) -> None:
        if self._sum is None:
            dtype = torch.float32 if value.device.type == "mps" else torch.float64
            self._sum = torch.tensor(self._begin, dtype=dtype, device=value.device)
        self._sum.add_(value)
        self._count += 1

    def take(self) -> dict[str, SupportsFloat]:
        if not self._count:
            return {}
        total, count = self.state()
        self._begin, self._sum, self._count = 0.0, None, 0
        return {LOSS: total / count}

    def state(self) -> tuple[float, int]:
        return self._begin if self._sum is None else float(self._sum), self._count


def batch_loss(trainer: Trainer, outputs: Any) -> Tensor | None:
    """The training loss of a batch, of what `on_train_batch_end` is given; None for a batch without one."""
    loss = outputs.get(LOSS) if isinstance(outputs, Mapping) else outputs
    # Lightning has divided it by the number of batches that make a step.
    return loss.detach() * trainer.accumulate_grad_batches if isinstance(loss, Tensor) else None


def _scalar(value: object) -> bool:
    return value is not None and (not isinstance(value, Tensor) or value.numel() == 1)
