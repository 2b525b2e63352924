"""The network and optimizer that a `build_fn` returns, checked and prepared for Lightning's Trainer."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lr_plugins.errors import InvalidArgumentError, described
from lr_plugins.training.classifier import Classifier
from lr_plugins.training.data import EVALUATION_BATCH, InMemoryData, Samples
from lr_plugins.training.losses import KerasCategoricalCrossentropy

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]

_NETWORK = "the network of build_fn"
RETURNS = "a function that returns (network, optimizer)"
_OPTIMIZER_HINT = "E.g. functools.partial(SGD, lr=0.1), or an optimizer of the network that build_fn returns beside it."


class BuiltModel:
    """A network, the function that builds its optimizer, and the Lightning package that trains it.

    Args:
        built: what `build_fn` returned.
        optimizer: the optimizer of the estimator, or None.

    Raises:
        InvalidArgumentError: `built` is not a network, or a network and an optimizer; or the optimizer is missing,
            given twice, or belongs to another network.
    """

    def __init__(self, built: object, optimizer: object) -> None:
        network, beside = built if isinstance(built, (tuple, list)) and len(built) == 2 else (built, None)
        if not isinstance(network, nn.Module):
            hint = "The network is a torch.nn.Module, or a LightningModule, which may be returned alone."
            raise InvalidArgumentError(
                "KerasClassifier.build_fn", described(f"one that returns {built!r}"), RETURNS, hint
            )
        if beside is not None and optimizer is not None:
            allowed = "left out where build_fn returns an optimizer"
            raise InvalidArgumentError("KerasClassifier.optimizer", optimizer, allowed)
        self.network = network
        self.lightning = _lightning_of(network)
        given = optimizer if beside is None else beside
        self.make_optimizer = None if given is None else _optimizer_maker(given, network)
        if given is None and self.lightning is None:
            returned = described("one that returns a network alone")
            raise InvalidArgumentError(
                "KerasClassifier.build_fn", returned, RETURNS, "Or give KerasClassifier(optimizer=...)."
            )

    def check_outputs(self, x: Tensor, classes: int) -> Tensor:
        """The outputs of the untrained network for a few samples.

        Raises:
            InvalidArgumentError: the network fails, or does not return a row of `classes` numbers per sample.
        """
        try:
            outputs = forward(self.network, x)
        except (RuntimeError, ValueError) as error:
            allowed = f"one that takes a float32 tensor of shape {tuple(x.shape)}"
            raise InvalidArgumentError(_NETWORK, described("an error"), allowed, f"Its error: {error}") from error
        if not isinstance(outputs, Tensor) or outputs.shape != (len(x), classes):
            shape = f"outputs of shape {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else repr(outputs)
            allowed = f"one with {classes} outputs, one per class"
            hint = "Two classes need two outputs with a softmax; a single sigmoid output is not supported."
            raise InvalidArgumentError(_NETWORK, described(shape), allowed, hint if classes == 2 else "")
        return outputs

    def module(self, loss: nn.Module | None, from_logits: bool) -> Any:
        """The LightningModule to train.

        Raises:
            InvalidArgumentError: a loss is given together with a LightningModule, which has its own.
        """
        if self.lightning is None:
            assert self.make_optimizer is not None
            default = KerasCategoricalCrossentropy(from_logits)
            return Classifier(self.network, default if loss is None else loss, self.make_optimizer)
        if loss is not None:
            allowed = "left out where build_fn returns a LightningModule, whose training_step has its own"
            raise InvalidArgumentError("KerasClassifier.loss", loss, allowed)
        if self.make_optimizer is not None:
            make, network = self.make_optimizer, self.network
            network.configure_optimizers = lambda: make(network.parameters())  # type: ignore[assignment]
        return self.network

    def trainer(self, epochs: int, callbacks: list[Any], options: dict[str, Any]) -> Any:
        """A Trainer that prints nothing and writes no files, unless `options` override that."""
        lightning = self.lightning or pl
        defaults = {
            "devices": 1,
            "logger": False,
            "enable_checkpointing": any(isinstance(one, lightning.callbacks.Checkpoint) for one in callbacks),
            "enable_model_summary": False,
            "enable_progress_bar": False,
            "num_sanity_val_steps": 0,
        }
        return lightning.Trainer(max_epochs=epochs, callbacks=callbacks, **{**defaults, **options})

    def data_module(self, *arguments: Any) -> SamplesGiven:
        """A data module for that Trainer; the arguments are those of `SamplesGiven`."""
        base = (self.lightning or pl).LightningDataModule
        kind = SamplesGiven if issubclass(SamplesGiven, base) else type("SamplesGiven", (SamplesGiven, base), {})
        data: SamplesGiven = kind(*arguments)
        return data

    def trained(self) -> nn.Module:
        """The network after training, without the attributes of the fit."""
        if self.lightning is not None:
            vars(self.network).pop("configure_optimizers", None)
            self.network.trainer = None  # type: ignore[assignment]
        return self.network.eval()


class SamplesGiven(InMemoryData):
    """A data module for samples in memory.

    Args:
        train: inputs and targets to train on.
        validation: inputs and targets to validate on, or None.
        batch_size: training samples per batch, >= 1.
        shuffle: whether to shuffle the training set every epoch.
        seed: seed of the shuffling, from 0 to 2**32 - 1.
    """

    def __init__(self, train: Samples, validation: Samples | None, batch_size: int, shuffle: bool, seed: int) -> None:
        super().__init__(batch_size, shuffle, seed)
        self._given = train, validation

    def _load(self) -> tuple[Samples, Samples | None]:
        return self._given

    def _field(self, argument: str) -> str:
        return f"KerasClassifier.{argument}"


def forward(network: nn.Module, x: Tensor) -> Any:
    """The outputs of a network on the CPU, computed in parts, in eval mode and without gradients."""
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    with _eval_mode(network), torch.no_grad():
        parts = [network(part.to(device)) for part in torch.split(x, EVALUATION_BATCH)]
    return torch.cat(parts).float().cpu() if all(isinstance(part, Tensor) for part in parts) else parts[0]


def are_probabilities(outputs: Tensor) -> bool:
    """Whether the numbers are >= 0 and each row sums to 1.

    Example:
        >>> are_probabilities(torch.tensor([[0.2, 0.8], [1.0, 0.0]])), are_probabilities(torch.tensor([[0.0, 0.0]]))
        (True, False)
    """
    return bool((outputs >= 0).all() and ((outputs.sum(dim=-1) - 1).abs() < 1e-4).all())


@contextmanager
def _eval_mode(network: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, training in modes.items():  # not network.train(): some modules may be frozen in eval mode
            module.training = training


def callback_types() -> tuple[type, ...]:
    """The base classes of callbacks in the imported Lightning packages."""
    return tuple(package.Callback for package in _packages())


def _packages() -> list[Any]:
    return [sys.modules[name] for name in ("pytorch_lightning", "lightning.pytorch") if name in sys.modules]


def _lightning_of(network: nn.Module) -> Any:
    """The Lightning package whose LightningModule the network is; None for a plain network."""
    return next((package for package in _packages() if isinstance(network, package.LightningModule)), None)


def _optimizer_maker(optimizer: Any, network: nn.Module) -> MakeOptimizer:
    if not isinstance(optimizer, Optimizer):
        if callable(optimizer):
            return optimizer  # type: ignore[no-any-return]
        allowed = "an optimizer of torch, or a function of the parameters that makes one"
        raise InvalidArgumentError("KerasClassifier.optimizer", optimizer, allowed, _OPTIMIZER_HINT)
    own = set(network.parameters())
    if not any(parameter in own for group in optimizer.param_groups for parameter in group["params"]):
        allowed = "one of the parameters of the network that build_fn returns"
        raise InvalidArgumentError("KerasClassifier.optimizer", optimizer, allowed, _OPTIMIZER_HINT)
    return lambda parameters: optimizer
