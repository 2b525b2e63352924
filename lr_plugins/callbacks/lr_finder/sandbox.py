"""Train for a while, and have everything afterwards as if that had never been."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves

from lr_plugins._lightning.compat import Callback, DummyLogger, LightningModule, Trainer, isolate_rng
from lr_plugins.callbacks.lr_finder.snapshot import Restore, Snapshot

_TRAINERS = ("callbacks", "loggers", "limit_val_batches", "val_check_batch", "should_stop", "fit_loop")


@contextmanager
def sandboxed_fit(trainer: Trainer, pl_module: LightningModule, callback: Callback, epochs: int) -> Iterator[Any]:
    """Lend a Trainer that has begun to fit a loop of its own, to be run within, and undo all that comes of it.

    Put back are the model (parameters, which of them are frozen, buffers, modes, sub-modules, hooks, and what else its
    modules have in attributes, as far as a `Snapshot` knows its kind), the optimizers, the random numbers, those of
    data loaders that have a generator, the gradient scaler, and all that the Trainer counts. There is no validation, no
    logger, and no callback but the one given.

    Args:
        trainer: the Trainer, at the begin of the fit.
        pl_module: its module.
        callback: the one callback.
        epochs: at most so many are trained.
    """
    data: list[Restore] = []
    with isolate_rng(), ExitStack() as ends:
        for restore in (*_model(pl_module, trainer.optimizers), _scaler(trainer), _of_trainer(trainer)):
            ends.callback(restore)
        ends.callback(lambda: [restore() for restore in reversed(data)])
        loop = _own_loop(trainer, epochs, data)
        trainer.callbacks = [callback]  # type: ignore[attr-defined]
        trainer.loggers = [DummyLogger()] if trainer.loggers else []
        trainer.limit_val_batches = 0
        trainer.strategy.lr_scheduler_configs = []
        ends.callback(loop.teardown)  # ends the workers of data loaders
        yield loop


# --- the Trainer ----------------------------------------------------------------------------------------------


def _of_trainer(trainer: Trainer) -> Restore:
    kept = {name: getattr(trainer, name) for name in _TRAINERS if hasattr(trainer, name)}
    connector, schedulers = trainer._logger_connector, trainer.strategy.lr_scheduler_configs

    def restore() -> None:
        for name, value in kept.items():
            setattr(trainer, name, value)
        trainer._logger_connector, trainer.strategy.lr_scheduler_configs = connector, schedulers

    return restore


def _own_loop(trainer: Trainer, epochs: int, data: list[Restore]) -> Any:
    """A loop that has counted nothing, in the place of the run's; and what is logged in it goes elsewhere, too."""
    mine: Any = trainer.fit_loop
    loop = type(mine)(trainer, min_epochs=0, max_epochs=max(trainer.max_epochs or 0, epochs))
    loop._data_source = copy.copy(mine._data_source)

    def dataloader() -> Any:
        """The run's data, noted as they are."""
        loaders = mine._data_source.dataloader()
        data.extend(_loaders(loaders))
        return loaders

    loop._data_source.dataloader = dataloader
    trainer.fit_loop = loop
    trainer._logger_connector = type(trainer._logger_connector)(trainer)
    return loop


def _scaler(trainer: Trainer) -> Restore:
    precision = trainer.precision_plugin
    state = copy.deepcopy(precision.state_dict())
    return lambda: precision.load_state_dict(state) if state else None


# --- the data ---------------------------------------------------------------------------------------------------


def _loaders(loaders: Any) -> Iterator[Restore]:
    """Those of data loaders whose order or place is their own: from a generator, or kept in a state."""
    for loader in getattr(loaders, "flattened", None) or tree_leaves(loaders):
        batches = getattr(loader, "batch_sampler", None)
        places = (loader, getattr(loader, "sampler", None), batches, getattr(batches, "sampler", None))
        for generator in {id(one): one for one in map(_generator, places) if one is not None}.values():
            yield partial(generator.set_state, generator.get_state())
        if hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict"):
            yield partial(loader.load_state_dict, loader.state_dict())


def _generator(place: Any) -> torch.Generator | None:
    found = getattr(place, "generator", None)
    return found if isinstance(found, torch.Generator) else None


# --- the model --------------------------------------------------------------------------------------------------


def _model(pl_module: nn.Module, optimizers: Sequence[Optimizer]) -> Iterator[Restore]:
    """All of the model and the optimizers; what torch keeps out of a module's attributes (TorchScript) is named."""
    yield Snapshot(pl_module, *optimizers, *pl_module.parameters(), *pl_module.buffers()).restore
    for parameter in pl_module.parameters():
        yield _frozen(parameter)
    for module in pl_module.modules():
        yield partial(setattr, module, "training", module.training)


def _frozen(parameter: nn.Parameter) -> Restore:
    wanted = parameter.requires_grad

    def restore() -> None:
        parameter.requires_grad_(wanted)
        parameter.grad = None  # Lightning begins each fit without gradients

    return restore
