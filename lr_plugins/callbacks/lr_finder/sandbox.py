"""Train for some steps, and restore everything afterwards."""

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

_TRAINER_ATTRIBUTES = ("callbacks", "loggers", "limit_val_batches", "val_check_batch", "should_stop", "fit_loop")


@contextmanager
def sandboxed_fit(trainer: Trainer, pl_module: LightningModule, callback: Callback, epochs: int) -> Iterator[Any]:
    """Give a Trainer a separate fit loop within the context, and restore everything at its end.

    It restores the model (parameters and whether they are frozen, buffers, modes, sub-modules, hooks, and other
    attributes of its modules whose type a `Snapshot` supports), the optimizers, the random number generators (including
    those of data loaders), the gradient scaler, and the Trainer's counters. The sandbox has no validation, no logger,
    and no callback except the given one.

    Args:
        trainer: the Trainer, at the start of the fit.
        pl_module: its module.
        callback: the only callback.
        epochs: the maximum number of epochs to train.

    Yields:
        The fit loop, to run within the context.
    """
    restore_data: list[Restore] = []
    with isolate_rng(), ExitStack() as stack:
        for restore in (*_model(pl_module, trainer.optimizers), _scaler(trainer), _trainer(trainer)):
            stack.callback(restore)
        stack.callback(lambda: [restore() for restore in reversed(restore_data)])
        loop = _sandbox_loop(trainer, epochs, restore_data)
        trainer.callbacks = [callback]  # type: ignore[attr-defined]
        trainer.loggers = [DummyLogger()] if trainer.loggers else []
        trainer.limit_val_batches = 0
        trainer.strategy.lr_scheduler_configs = []
        stack.callback(loop.teardown)  # shuts down the workers of data loaders
        yield loop


# --- the Trainer ----------------------------------------------------------------------------------------------


def _trainer(trainer: Trainer) -> Restore:
    kept = {name: getattr(trainer, name) for name in _TRAINER_ATTRIBUTES if hasattr(trainer, name)}
    connector, schedulers = trainer._logger_connector, trainer.strategy.lr_scheduler_configs

    def restore() -> None:
        for name, value in kept.items():
            setattr(trainer, name, value)
        trainer._logger_connector, trainer.strategy.lr_scheduler_configs = connector, schedulers

    return restore


def _sandbox_loop(trainer: Trainer, epochs: int, restore_data: list[Restore]) -> Any:
    """Replace the fit loop by one that starts from 0, with its own logger connector."""
    fit_loop: Any = trainer.fit_loop
    loop = type(fit_loop)(trainer, min_epochs=0, max_epochs=max(trainer.max_epochs or 0, epochs))
    loop._data_source = copy.copy(fit_loop._data_source)

    def dataloader() -> Any:
        """The run's data loaders, after noting their state."""
        loaders = fit_loop._data_source.dataloader()
        restore_data.extend(_loaders(loaders))
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
    """Restores data loaders whose order or position comes from a generator or is kept in a state."""
    for loader in getattr(loaders, "flattened", None) or tree_leaves(loaders):
        batches = getattr(loader, "batch_sampler", None)
        owners = (loader, getattr(loader, "sampler", None), batches, getattr(batches, "sampler", None))
        generators = [generator for generator in map(_generator, owners) if generator is not None]
        for generator in {id(generator): generator for generator in generators}.values():
            yield partial(generator.set_state, generator.get_state())
        if hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict"):
            yield partial(loader.load_state_dict, loader.state_dict())


def _generator(owner: Any) -> torch.Generator | None:
    generator = getattr(owner, "generator", None)
    return generator if isinstance(generator, torch.Generator) else None


# --- the model --------------------------------------------------------------------------------------------------


def _model(pl_module: nn.Module, optimizers: Sequence[Optimizer]) -> Iterator[Restore]:
    """Restores the model and the optimizers, including what TorchScript modules do not keep as attributes."""
    yield Snapshot(pl_module, *optimizers, *pl_module.parameters(), *pl_module.buffers()).restore
    for parameter in pl_module.parameters():
        yield _frozen(parameter)
    for module in pl_module.modules():
        yield partial(setattr, module, "training", module.training)


def _frozen(parameter: nn.Parameter) -> Restore:
    requires_grad = parameter.requires_grad

    def restore() -> None:
        parameter.requires_grad_(requires_grad)
        parameter.grad = None  # Lightning starts each fit without gradients

    return restore
