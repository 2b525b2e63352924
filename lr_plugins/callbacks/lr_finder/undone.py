"""Train for a while, and have everything afterwards as if that had never been."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves

from lr_plugins._lightning import Callback, DummyLogger, LightningModule, Trainer, isolate_rng

Restore = Callable[[], Any]
_OF_TORCH = frozenset(vars(nn.Module()))  # the attributes in which torch keeps parameters, buffers, sub-modules, hooks
_FIXED = (type(None), bool, int, float, complex, str, bytes)
_TRAINERS = ("callbacks", "loggers", "limit_val_batches", "val_check_batch", "should_stop", "fit_loop")


@contextmanager
def undone(trainer: Trainer, pl_module: LightningModule, callback: Callback, epochs: int) -> Iterator[Any]:
    """Lend a Trainer that has begun to fit a loop of its own, to be run within, and undo all that comes of it.

    Put back are the model (parameters, which of them are frozen, buffers, modes, and plain values in the attributes of
    its modules), the optimizers, the random numbers, those of data loaders that have a generator, the gradient scaler,
    and all that the Trainer counts. There is no validation, no logger, and no callback but the one given.

    Args:
        trainer: the Trainer, at the begin of the fit.
        pl_module: its module.
        callback: the one callback.
        epochs: at most so many are trained.
    """
    data: list[Restore] = []
    with isolate_rng(), ExitStack() as ends:
        for restore in (*_model(pl_module), *_optimizers(trainer), _scaler(trainer), _of_trainer(trainer)):
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
    kept = {name: getattr(trainer, name) for name in _TRAINERS}
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


# --- the model and the optimizers -------------------------------------------------------------------------------


def _model(pl_module: nn.Module) -> Iterator[Restore]:
    for tensor in (*pl_module.parameters(), *pl_module.buffers()):
        yield _kept(tensor)
    for parameter in pl_module.parameters():
        yield _frozen(parameter)
    for module in pl_module.modules():
        yield _attributes(module)


def _frozen(parameter: nn.Parameter) -> Restore:
    wanted = parameter.requires_grad

    def restore() -> None:
        parameter.requires_grad_(wanted)
        parameter.grad = None  # Lightning begins each fit without gradients

    return restore


def _attributes(module: nn.Module) -> Restore:
    """The mode of a module, and what it keeps in attributes of its own: counters, sums, lists."""
    training = module.training
    kept = {name: _kept_if_plain(value) for name, value in vars(module).items() if name not in _OF_TORCH}

    def restore() -> None:
        module.training = training
        for name in vars(module).keys() - kept.keys() - _OF_TORCH:
            del vars(module)[name]
        for name, put_back in kept.items():
            if put_back is not None:
                vars(module)[name] = put_back()

    return restore


def _optimizers(trainer: Trainer) -> Iterator[Restore]:
    for optimizer in trainer.optimizers:
        yield _optimizer(optimizer)


def _optimizer(optimizer: Optimizer) -> Restore:
    groups = [(group, _group(group)) for group in optimizer.param_groups]
    state = {parameter: _kept(one) for parameter, one in optimizer.state.items()}

    def restore() -> None:
        optimizer.state.clear()
        optimizer.state.update({parameter: put_back() for parameter, put_back in state.items()})
        for group, kept in groups:
            group.clear()
            group.update({name: put_back() for name, put_back in kept.items()})

    return restore


def _group(group: dict[str, Any]) -> dict[str, Restore]:
    """What a param group has; its parameters are the model's."""
    return {name: partial(_same, value) if name == "params" else _kept(value) for name, value in group.items()}


# --- a value ----------------------------------------------------------------------------------------------------


def _kept(value: Any) -> Restore:
    """Puts back what a value was, in place where it can be, and returns it; what is not plain it only returns."""
    return _kept_if_plain(value) or partial(_same, value)


def _kept_if_plain(value: Any) -> Restore | None:
    if isinstance(value, Tensor):
        return _kept_tensor(value)
    if type(value) in _FIXED:
        return partial(_same, value)
    if type(value) not in (list, tuple, dict):
        return None
    inner = [_kept_if_plain(one) for one in (value.values() if isinstance(value, Mapping) else value)]
    if any(one is None for one in inner):
        return None
    names = list(value)

    def restore() -> Any:
        was = [put_back() for put_back in inner if put_back is not None]
        if type(value) is tuple:
            return value
        value.clear()
        value.update(zip(names, was, strict=True)) if type(value) is dict else value.extend(was)
        return value

    return restore


def _same(value: Any) -> Any:
    return value


def _kept_tensor(tensor: Tensor) -> Restore:
    if tensor.is_inference() or (tensor.layout == torch.strided and 0 in tensor.stride()):
        return partial(_same, tensor)  # torch lets nobody write to it
    was = tensor.detach().to("cpu", copy=True)  # memory of an accelerator may be short

    def restore() -> Tensor:
        with torch.no_grad():
            return tensor.copy_(was)

    return restore
