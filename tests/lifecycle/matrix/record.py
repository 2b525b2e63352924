"""What a run did: the values that each optimizer step used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from torch.optim import Optimizer

from tests.lifecycle.matrix.dimensions import REPLACED, within
from tests.lifecycle.matrix.task import Place, Used


class Steps:
    """The values that each real step of some optimizers used, recorded by its own hooks."""

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        self.used: list[list[Used]] = [[] for _ in optimizers]
        self._handles = []
        for optimizer, used in zip(optimizers, self.used, strict=True):
            self._follow(optimizer, used)

    def replace(self, optimizer: Optimizer) -> None:
        """Follow a replacement of the first optimizer."""
        self.detach()
        self._handles = []
        self._follow(optimizer, self.used[0])

    def _follow(self, optimizer: Optimizer, used: list[Used]) -> None:
        coming: list[Used] = []
        optimizer = within(optimizer)
        self._handles += [
            optimizer.register_step_pre_hook(lambda *_: coming.append(_hypers(optimizer))),
            optimizer.register_step_post_hook(lambda *_: used.append(coming.pop())),
        ]

    @property
    def counts(self) -> list[int]:
        return [len(used) for used in self.used]

    def detach(self) -> None:
        for handle in self._handles:
            handle.remove()


def _hypers(optimizer: Optimizer) -> Used:
    momenta = [group.get("momentum", group.get("betas", (0.0,))[0]) for group in optimizer.param_groups]
    return (*(float(group["lr"]) for group in optimizer.param_groups), *map(float, momenta))


@dataclass(frozen=True)
class Result:
    """What a run has done, including the runs it resumed from."""

    used: list[list[Used]]
    weights: list[list[float]]
    factors: dict[Place, int] = field(default_factory=dict)  # the accumulation at each batch
    lost: frozenset[Place] = frozenset()  # where a checkpoint had no optimizer states
    begun: list[int] = field(default_factory=list)  # steps before this run's own
    end: Callable[[Path], Path] | None = None  # saves a checkpoint

    def then(self, other: Result) -> Result:
        """Join the interrupted run and the resumed one."""
        used = [mine[:begun] + its for mine, its, begun in zip(self.used, other.used, other.begun, strict=True)]
        return Result(used, other.weights, {**self.factors, **other.factors}, self.lost | other.lost)


class Recorder(pl.Callback):
    """Follows a training; listed after the scheduler, to see the used values."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.factors: dict[Place, int] = {}
        self.place: Place = (0, 0)
        self.steps = Steps([])

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.steps = Steps(trainer.optimizers)
        self.begun = self.begun or [0] * len(trainer.optimizers)

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self.place = (trainer.current_epoch, trainer.fit_loop.epoch_loop.batch_idx)
        self.factors[self.place] = trainer.accumulate_grad_batches

    def state_dict(self) -> dict[str, Any]:
        counts = [begun + count for begun, count in zip(self.begun, self.steps.counts, strict=True)]
        return {"steps": counts, "place": list(self.place)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.begun = state_dict["steps"]


class Replaces(pl.Callback):
    """Replaces the param groups or the optimizer."""

    def __init__(self, what: str, recorder: Recorder) -> None:
        self._what, self._recorder = what, recorder

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if (trainer.current_epoch, batch_idx) not in REPLACED:
            return
        (old,) = trainer.optimizers
        if self._what == "groups":
            old.param_groups[:] = [{**group, "lr": 0.7} for group in old.param_groups]
        else:
            groups = [{name: value for name, value in group.items() if name != "lr"} for group in old.param_groups]
            new = type(old)(groups, **{name: old.defaults[name] for name in ("lr", "momentum")})
            trainer.strategy.optimizers = [new]
            self._recorder.steps.replace(new)
