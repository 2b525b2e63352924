"""Keras' scikit-learn wrapper for a classifier, trained by Lightning's Trainer.

It is built on scikit-learn's base classes alone: skorch has a training loop of its own and SciKeras uses Keras', and
neither calls the Lightning hooks that the callbacks of this package need.
"""

from __future__ import annotations

import copy
import difflib
import inspect
import random
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from lr_plugins import validation
from lr_plugins._lightning.compat import Callback
from lr_plugins.callbacks import History, KerasProgress
from lr_plugins.callbacks.random_states import RandomStates
from lr_plugins.console.keras_styles import Style
from lr_plugins.errors import InvalidArgumentError, described, require, shown
from lr_plugins.keras.built_model import RETURNS, BuiltModel, MakeOptimizer, are_probabilities, callback_types, forward
from lr_plugins.training.console import quietly
from lr_plugins.training.data import Samples

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.preprocessing import LabelEncoder
    from sklearn.utils import check_random_state
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ModuleNotFoundError:
    require("sklearn", "train", "KerasClassifier")
    raise

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

_CHECKED_SAMPLES = 32  # that the untrained network is tested with


class KerasClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A network as a classifier of scikit-learn: `keras.wrappers.scikit_learn.KerasClassifier`, trained by Lightning.

    `fit(X, y)` calls `build_fn` for a new network and trains it on float32 inputs, in batches that are shuffled every
    epoch. The console shows Keras' lines, with `loss` and `acc`; no files are written. It works in `cross_val_score`,
    `GridSearchCV` and `Pipeline`.

    `build_fn` returns `(network, optimizer)`. The network is a torch.nn.Module with one output per class, with or
    without a final `nn.Softmax`. The optimizer is one of the network's parameters, or a function that builds it from
    them. If `optimizer` is given here, `build_fn` returns the network alone. A LightningModule uses its own loss and
    metrics, and its own optimizer unless one is given; `forward` returns its outputs.

    `build_fn` is called with the keyword arguments that it accepts: `**arguments`, and those below whose name it has as
    a parameter; an `optimizer`, e.g., is then left to `build_fn`. A parameter `meta` gets a dict with `n_features_in_`,
    `X_shape_`, `classes_` and `n_classes_` of the data, as in SciKeras.

    `fit` sets `history_` (a `History`), `model_` (the trained network), `classes_`, `n_features_in_`, `from_logits_`
    and `callbacks_`. Each fit trains with copies of `callbacks`, so that the next one starts afresh.

    Most attributes are arguments, which scikit-learn requires to be kept unchanged under their names.

    Args:
        build_fn: builds the network and its optimizer, see above.
        epochs: epochs to train, >= 1. Default 1.
        batch_size: samples per update, >= 1; the last batch of an epoch may be smaller. Default 32.
        verbose: 1 (default) a progress bar, 2 one line per epoch, 0 nothing.
        callbacks: callbacks of this package and of `pytorch_lightning`. A `History` or `KerasProgress` among them
            replaces the default one. Default None: no others.
        validation_split: share of the samples to validate on, >= 0 and < 1: the last ones, before any shuffling.
            Default 0.
        shuffle: whether to shuffle the samples every epoch. Default True.
        optimizer: a function of the parameters, e.g. `functools.partial(SGD, lr=0.1)`, if `build_fn` does not return an
            optimizer. Default None.
        loss: maps (outputs, int64 targets) to the mean loss of a batch. Default None: Keras' categorical cross-entropy.
        from_logits: whether the network has no final softmax. Default None: decided by its first outputs, which are
            probabilities if they are >= 0 and the rows sum to 1.
        style: `"keras2"` (default) or `"keras3"`, for the console lines and the name of the learning rate in
            `history_`.
        random_state: an int from 0 to `2**32 - 1` seeds the initial weights, shuffling and dropout of every fit; a
            `numpy.random.RandomState` or None (default: NumPy's global one, which `np.random.seed` and
            `pl.seed_everything` seed and `torch.manual_seed` does not) gives each fit a new seed. The global random
            states of Python, NumPy and torch are restored after the fit.
        trainer: further arguments of the Trainer, e.g. `{"accelerator": "cpu", "logger": logger}`. Default None.
        **arguments: keyword arguments of `build_fn`.

    Raises:
        InvalidArgumentError: an argument that `build_fn` does not take. In `fit`: an argument outside its range,
            labels of a single class, or a `build_fn` whose network does not fit the data.
        MissingExtraError: scikit-learn is not installed.

    Source: keras.wrappers.scikit_learn.KerasClassifier of Keras 2, which Keras 3 does not have.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> from sklearn.model_selection import GridSearchCV
        >>> from lr_plugins import LearningRateScheduler
        >>> from lr_plugins.keras import SGD
        >>> def create_model(units=16):
        ...     network = nn.Sequential(nn.Linear(4, units), nn.ReLU(), nn.Linear(units, 3), nn.Softmax(dim=-1))
        ...     return network, SGD(network.parameters(), lr=0.01, momentum=0.9)
        >>> scheduler = LearningRateScheduler(lambda epoch: 0.01 * 0.9**epoch)
        >>> classifier = KerasClassifier(create_model, epochs=20, verbose=0, callbacks=[scheduler], random_state=0)
        >>> x, y = load_iris(return_X_y=True)
        >>> classifier.fit(x, y).score(x, y) > 0.9
        True
        >>> len(classifier.history_["loss"]), round(classifier.history_["lr"][1], 4)
        (20, 0.009)
        >>> search = GridSearchCV(classifier, {"units": [8, 16], "batch_size": [32]}, cv=3)
        >>> sorted(search.fit(x, y).best_params_)
        ['batch_size', 'units']
    """

    def __init__(
        self,
        build_fn: Callable[..., Any],
        *,
        epochs: int = 1,
        batch_size: int = 32,
        verbose: int = 1,
        callbacks: Sequence[Callback] | None = None,
        validation_split: float = 0.0,
        shuffle: bool = True,
        optimizer: MakeOptimizer | None = None,
        loss: nn.Module | None = None,
        from_logits: bool | None = None,
        style: Style = "keras2",
        random_state: int | np.random.RandomState | None = None,
        trainer: Mapping[str, Any] | None = None,
        **arguments: Any,
    ) -> None:
        # scikit-learn requires that the arguments are stored unchanged; `fit` checks them.
        self.build_fn = build_fn
        self.epochs = epochs
        self.batch_size = batch_size
        self.verbose = verbose
        self.callbacks = callbacks
        self.validation_split = validation_split
        self.shuffle = shuffle
        self.optimizer = optimizer
        self.loss = loss
        self.from_logits = from_logits
        self.style = style
        self.random_state = random_state
        self.trainer = trainer
        self._arguments: dict[str, Any] = {}
        self.set_params(**arguments)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The arguments by name, including those of `build_fn`.

        Args:
            deep: whether to include the arguments of nested estimators. Default True.
        """
        return {**super().get_params(deep), **self._arguments}

    def set_params(self, **params: Any) -> KerasClassifier:
        """Change arguments, including those of `build_fn` that were not given before.

        Raises:
            InvalidArgumentError: neither this class nor `build_fn` has an argument of that name. Nothing is changed
                then.
        """
        own = {name: value for name, value in params.items() if name in self._get_param_names()}
        others = {name: value for name, value in params.items() if name not in own}
        build_fn = own.get("build_fn", self.build_fn)
        if others and callable(build_fn):
            _check_names(build_fn, others)
        super().set_params(**own)
        self._arguments.update(others)
        return self

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        *,
        epochs: int | None = None,
        batch_size: int | None = None,
        verbose: int | None = None,
        callbacks: Sequence[Callback] | None = None,
        validation_data: tuple[ArrayLike, ArrayLike] | None = None,
        validation_split: float | None = None,
        shuffle: bool | None = None,
    ) -> KerasClassifier:
        """Build a new network and train it. The arguments override those of the constructor.

        Args:
            X: inputs (samples, ...), cast to float32.
            y: labels (samples,) of any kind, or one-hot rows (samples, classes) of the classes 0, 1, ...
            epochs: as in the constructor.
            batch_size: as in the constructor.
            verbose: as in the constructor.
            callbacks: as in the constructor.
            validation_data: inputs and labels to validate on after each epoch; `validation_split` is then ignored.
            validation_split: as in the constructor.
            shuffle: as in the constructor.

        Returns:
            This object. Keras' wrapper returns the history, which is `history_` here.

        Raises:
            InvalidArgumentError: see the class.
            ValueError: scikit-learn rejects the inputs or labels.
        """
        given = {
            "epochs": epochs,
            "batch_size": batch_size,
            "verbose": verbose,
            "callbacks": callbacks,
            "validation_split": validation_split,
            "shuffle": shuffle,
        }
        settings = self.get_params(deep=False) | {name: value for name, value in given.items() if value is not None}
        takes = _check_names(self.build_fn, self._arguments)
        train, held_out, meta = self._samples(X, y, validation_data, settings["validation_split"])
        epochs = validation.integer("KerasClassifier.epochs", settings["epochs"], 1)
        history, callbacks = self._with_console(_checked_callbacks(settings["callbacks"]), settings["verbose"])
        seed = _seed(self.random_state)
        with quietly(), _seeded(seed):
            shared = {name: value for name, value in settings.items() if name in takes and value is not None}
            about_data = {"meta": meta} if "meta" in takes else {}
            built = self.build_fn(**{**about_data, **shared, **self._arguments})
            model = BuiltModel(built, None if "optimizer" in takes else self.optimizer)
            outputs = model.check_outputs(train[0][:_CHECKED_SAMPLES], len(self.classes_))
            from_logits = self._ends_before_softmax(outputs)
            module = model.module(None if "loss" in takes else self.loss, from_logits)
            data = model.data_module(train, held_out, settings["batch_size"], settings["shuffle"], seed)
            _train(model.trainer(epochs, callbacks, _trainer_options(self.trainer)), module, data)
        self.model_, self.from_logits_ = model.trained(), from_logits
        self.history_, self.callbacks_ = history, callbacks
        return self

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float32]:
        """The probabilities of the classes (samples, classes), in the order of `classes_`.

        Args:
            X: inputs (samples, ...), of the shape that the network was trained on.
        """
        check_is_fitted(self, "model_")
        x = torch.tensor(validate_data(self, X, reset=False, dtype=np.float32, allow_nd=True))
        outputs = forward(self.model_, x)
        probabilities: NDArray[np.float32] = (outputs.softmax(dim=-1) if self.from_logits_ else outputs).numpy()
        return probabilities

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The most probable class of each sample, one of `classes_`.

        Args:
            X: inputs (samples, ...), of the shape that the network was trained on.
        """
        probabilities = self.predict_proba(X)
        classes: NDArray[Any] = self.classes_[probabilities.argmax(axis=1)]
        return classes

    def score(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """The accuracy of the predicted classes.

        Args:
            X: inputs (samples, ...), of the shape that the network was trained on.
            y: their labels, or one-hot rows with a column for each of `classes_`.
            sample_weight: the weight of each sample (samples,). Default None: equal weights.
        """
        check_is_fitted(self, "model_")
        return float(super().score(X, _labels(y, self.classes_)[0], sample_weight))

    def _samples(
        self, X: ArrayLike, y: ArrayLike, validation_data: Any, validation_split: Any
    ) -> tuple[Samples, Samples | None, dict[str, Any]]:
        """The training and validation samples, and the `meta` of a `build_fn`."""
        labels, columns = _labels(y)
        inputs, labels = validate_data(self, X, labels, dtype=np.float32, allow_nd=True)
        check_classification_targets(labels)
        encoder = LabelEncoder().fit(labels if columns is None else columns)
        self.classes_ = encoder.classes_
        if len(self.classes_) < 2:
            received = described(f"one class, {shown(self.classes_.tolist()[0])}")
            raise InvalidArgumentError("KerasClassifier: y", received, "labels of two classes or more")
        x, targets = torch.tensor(inputs), torch.from_numpy(encoder.transform(labels)).long()
        meta = {"n_features_in_": self.n_features_in_, "X_shape_": inputs.shape}
        meta |= {"classes_": self.classes_, "n_classes_": len(self.classes_)}
        if validation_data is not None:
            if not isinstance(validation_data, (tuple, list)) or len(validation_data) != 2:
                raise InvalidArgumentError(
                    "KerasClassifier: validation_data", validation_data, "None or a tuple (X, y)"
                )
            X, labels = validation_data[0], _labels(validation_data[1], self.classes_)[0]
            inputs, labels = validate_data(self, X, labels, reset=False, dtype=np.float32, allow_nd=True)
            return (x, targets), (torch.tensor(inputs), torch.from_numpy(encoder.transform(labels)).long()), meta
        share = validation.fraction("KerasClassifier.validation_split", validation_split)
        if share == 0:
            return (x, targets), None, meta
        split = int(len(x) * (1 - share))  # Keras' own rounding
        if not 0 < split < len(x):
            allowed = f"a share that divides {len(x)} samples into some to train on and some to validate on"
            raise InvalidArgumentError("KerasClassifier.validation_split", share, allowed)
        return (x[:split], targets[:split]), (x[split:], targets[split:]), meta

    def _ends_before_softmax(self, outputs: torch.Tensor) -> bool:
        if self.from_logits is None:
            return not are_probabilities(outputs)
        return validation.flag("KerasClassifier.from_logits", self.from_logits)

    def _with_console(self, callbacks: list[Any], verbose: int) -> tuple[History, list[Any]]:
        """The history, and all callbacks: those given, after a History and a KerasProgress unless given."""
        history = next((one for one in callbacks if type(one) is History), None)
        own: list[Any] = []
        if history is None:
            own.append(history := History(self.style))
        if not any(isinstance(one, KerasProgress) for one in callbacks):
            own.append(KerasProgress(self.style, verbose=verbose))
        return history, own + callbacks


def _check_names(build_fn: Any, names: Iterable[str]) -> Mapping[str, inspect.Parameter]:
    """The parameters of `build_fn`, after checking that it accepts arguments of these names."""
    try:
        parameters = inspect.signature(build_fn).parameters
    except (TypeError, ValueError):
        parameters = None
    if parameters is None or isinstance(build_fn, nn.Module):
        raise InvalidArgumentError("KerasClassifier.build_fn", build_fn, RETURNS)
    if any(one.kind == one.VAR_KEYWORD for one in parameters.values()):
        return parameters
    own = KerasClassifier._get_param_names()
    for name in names:
        if name not in parameters:
            allowed = f"one of {', '.join(own)}, or an argument of build_fn ({', '.join(parameters) or 'it has none'})"
            near = difflib.get_close_matches(name, [*own, *parameters], n=1)
            raise InvalidArgumentError(
                "a parameter of KerasClassifier", name, allowed, f"Did you mean {near[0]}?" if near else ""
            )
    return parameters


def _labels(y: Any, classes: NDArray[Any] | None = None) -> tuple[Any, NDArray[Any] | None]:
    """The labels, and for one-hot rows the labels of their columns: `classes`, or 0, 1, ..."""
    rows = np.asarray(y)
    if rows.ndim != 2 or rows.shape[1] < 2:
        return y, None
    columns = np.arange(rows.shape[1]) if classes is None else classes
    if not (rows.shape[1] == len(columns) and np.isin(rows, (0, 1)).all() and (rows.sum(axis=1) == 1).all()):
        allowed = "one label per sample, or one-hot rows with a column per class"
        raise InvalidArgumentError("KerasClassifier: y", described(f"an array of shape {rows.shape}"), allowed)
    return columns[rows.argmax(axis=1)], columns


def _checked_callbacks(callbacks: Any) -> list[Any]:
    """Copies of the callbacks."""
    if callbacks is None:
        return []
    if not isinstance(callbacks, (list, tuple)) or not all(isinstance(one, callback_types()) for one in callbacks):
        raise InvalidArgumentError("KerasClassifier.callbacks", callbacks, "None or a list of Lightning callbacks")
    return copy.deepcopy(list(callbacks))


def _trainer_options(trainer: Any) -> dict[str, Any]:
    options = {} if trainer is None else trainer
    if not isinstance(options, Mapping):
        raise InvalidArgumentError("KerasClassifier.trainer", trainer, "None or a dict of arguments of the Trainer")
    for name, own in (("max_epochs", "epochs"), ("callbacks", "callbacks")):
        if name in options:
            raise InvalidArgumentError(
                f"KerasClassifier.trainer: {name}", options[name], f"given as KerasClassifier({own}=...)"
            )
    return dict(options)


def _seed(random_state: Any) -> int:
    if isinstance(random_state, Integral):
        return validation.seed("KerasClassifier.random_state", random_state)
    return int(check_random_state(random_state).randint(2**31 - 1))


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed all random number generators as `pl.seed_everything` does, and restore their states afterwards."""
    before = RandomStates()
    before.load_state_dict(before.state_dict())
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)
    try:
        yield
    finally:
        before.on_train_start(None, None)  # type: ignore[arg-type]


def _train(trainer: Any, module: Any, data: Any) -> None:
    on_ctrl_c = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(module, datamodule=data)
    except SystemExit as end:  # Lightning exits so after Ctrl-C, which it ignores from then on
        if not isinstance(end.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, on_ctrl_c)
        raise KeyboardInterrupt from None
