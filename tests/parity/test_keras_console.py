"""The console text against Keras': Keras 3 itself, and the recorded rules and texts of Keras 2.2.4."""

from __future__ import annotations

import contextlib
import io
import os
import re
from types import SimpleNamespace
from unittest import mock

os.environ["KERAS_BACKEND"] = "torch"

import keras
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from keras.src.callbacks.progbar_logger import ProgbarLogger
from keras.src.utils import progbar
from torch.utils.data import DataLoader, TensorDataset

from lr_plugins import LearningRateScheduler, LossDriven
from lr_plugins.callbacks import KerasProgress
from lr_plugins.callbacks.keras_progress import progress as keras_progress
from lr_plugins.console.keras_text import format_header, keras2_line, keras3_line
from lr_plugins.keras import ReduceLROnPlateau
from lr_plugins.training.recipes import article_mnist

# --- lines, against the real Keras 3 ------------------------------------------------------------------------

values = st.one_of(
    st.floats(),  # nan, infinities, subnormals and huge values among them
    st.floats(-2e-3, 2e-3),
    st.floats(width=32),
    st.sampled_from([0.0, -0.0, 0.001, 0.0010000000474974513, -0.001, 1e10, 0.00005, 0.99995]),
)
names = st.text("abcdefgh_/ %{}é", min_size=1, max_size=8)
durations = st.one_of(
    st.just(0.0),
    st.floats(0, 5e-3),
    st.floats(0, 5),
    st.floats(0, 1e6),
    st.sampled_from([0.5, 1.5, 2.5, 0.9996e-3, 0.9995, 3700.0]),
)


def keras3_text(logs: dict[str, float], elapsed: float, steps: int, epoch: int, epochs: int) -> str:
    """What Keras' own logger prints about an epoch of that length."""
    clock = SimpleNamespace(time=lambda: 0.0)
    logger = ProgbarLogger()
    logger.set_params({"verbose": 2, "epochs": epochs, "steps": steps})
    with contextlib.redirect_stdout(io.StringIO()) as out, mock.patch.object(progbar, "time", clock):
        logger.on_train_begin()
        logger.on_epoch_begin(epoch)
        for batch in range(min(steps, 3)):
            logger.on_train_batch_end(batch, logs)
        clock.time = lambda: elapsed
        logger.on_epoch_end(epoch, logs)
    return out.getvalue()


@given(st.dictionaries(names, values, max_size=4), durations, st.integers(1, 20_000))
@settings(max_examples=400)
def test_keras3_lines_equal_keras(logs, elapsed, steps):
    ours = keras3_line(logs, elapsed, elapsed / steps, steps, steps)
    assert f"{format_header(1, 7)}\n{ours}\n" == keras3_text(logs, elapsed, steps, epoch=1, epochs=7)


@given(st.integers(1, 10_000), st.data())
@settings(max_examples=50)
def test_the_count_of_an_unfinished_epoch_is_aligned_as_in_keras(steps, data):
    step = data.draw(st.integers(1, steps))
    clock = SimpleNamespace(time=lambda: 0.0)
    with contextlib.redirect_stdout(io.StringIO()) as out, mock.patch.object(progbar, "time", clock):
        progbar.Progbar(steps, verbose=2).update(step, finalize=True)
    assert f"{keras3_line({}, 0.0, 0.0, step, steps)}\n" == out.getvalue()


# --- a whole fit, against the real Keras 3 ------------------------------------------------------------------

EPOCHS, BATCH = 3, 4
RANDOM = np.random.default_rng(0)
INPUTS = RANDOM.random((28, 3), dtype=np.float32)
TARGETS = (INPUTS.sum(axis=1, keepdims=True) > 1.5).astype(np.float32)
WEIGHTS = np.array([[0.5], [-0.25], [0.75]], dtype=np.float32)


def rate(epoch: int) -> float:
    return 0.5 * 0.002**epoch  # 0.5, 0.001 and one in exponent form


class SameNet(pl.LightningModule):
    """The network, loss and metrics of `keras_console` in torch."""

    def __init__(self, lr: float = 9.0) -> None:
        super().__init__()
        self.lr = lr
        self.layer = torch.nn.Linear(3, 1)
        self.layer.load_state_dict({"weight": torch.tensor(WEIGHTS.T), "bias": torch.zeros(1)})

    def both(self, batch: list[torch.Tensor], prefix: str) -> torch.Tensor:
        inputs, targets = batch
        predictions = torch.sigmoid(self.layer(inputs))
        loss = torch.nn.functional.binary_cross_entropy(predictions, targets)
        accuracy = ((predictions > 0.5).float() == targets).float().mean()
        logs = {f"{prefix}loss": loss, f"{prefix}accuracy": accuracy}
        self.log_dict(logs, on_step=not prefix, on_epoch=True)
        return loss

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        return self.both(batch, "")

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        self.both(batch, "val_")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


def theirs() -> keras.callbacks.LearningRateScheduler:
    return keras.callbacks.LearningRateScheduler(rate, verbose=1)


def scheduler() -> LearningRateScheduler:
    return LearningRateScheduler(rate, verbose=1, style="keras3")


def keras_console(*callbacks: object, **extra: object) -> str:
    model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(1, activation="sigmoid")])
    model.layers[-1].set_weights([WEIGHTS, np.zeros(1, np.float32)])
    model.compile(keras.optimizers.SGD(0.5), "binary_crossentropy", metrics=["accuracy"])
    with contextlib.redirect_stdout(io.StringIO()) as out:
        model.fit(
            INPUTS[:20],
            TARGETS[:20],
            batch_size=BATCH,
            shuffle=False,
            verbose=2,
            callbacks=list(callbacks),
            validation_data=(INPUTS[20:], TARGETS[20:]),
            **extra,
        )
    return out.getvalue()


def lightning_console(module: pl.LightningModule, *callbacks: pl.Callback, **extra: object) -> str:
    data = [torch.tensor(INPUTS), torch.tensor(TARGETS)]
    quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = pl.Trainer(callbacks=list(callbacks), enable_progress_bar=False, **quiet, **extra)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        trainer.fit(
            module,
            DataLoader(TensorDataset(*(part[:20] for part in data)), batch_size=BATCH),
            DataLoader(TensorDataset(*(part[20:] for part in data)), batch_size=BATCH),
        )
    return out.getvalue()


def without_times(text: str) -> str:
    return re.sub(r"\d+s - \d+(s|ms|us)/step", "TIME", text)


@pytest.mark.parametrize("epochs", [1, EPOCHS])
def test_a_whole_fit_prints_what_keras_prints(epochs):
    keras_text = without_times(keras_console(theirs(), epochs=epochs))
    text = lightning_console(SameNet(), KerasProgress("keras3"), scheduler(), max_epochs=epochs)
    assert without_times(text) == keras_text
    assert keras_text.count("5/5 - TIME - accuracy: ") == epochs


def test_without_a_scheduler_no_learning_rate_is_printed():
    keras_text = without_times(keras_console(epochs=EPOCHS))
    text = lightning_console(SameNet(0.5), KerasProgress("keras3"), max_epochs=EPOCHS)
    assert without_times(text) == keras_text
    assert "learning_rate" not in text


def test_a_plateau_prints_what_keras_prints():
    arguments = {"monitor": "val_loss", "factor": 0.1, "patience": 1, "min_delta": 10.0, "verbose": 1}
    keras_text = without_times(keras_console(keras.callbacks.ReduceLROnPlateau(**arguments), epochs=EPOCHS))
    plateau = LearningRateScheduler(ReduceLROnPlateau(**arguments), style="keras3")
    text = lightning_console(SameNet(0.5), KerasProgress("keras3"), plateau, max_epochs=EPOCHS)
    assert without_times(text) == keras_text
    assert keras_text.count("ReduceLROnPlateau reducing learning rate to 0.0") == 2


def test_epochs_without_validation_print_what_keras_prints():
    keras_text = without_times(keras_console(theirs(), epochs=EPOCHS, validation_freq=2))
    extra = {"max_epochs": EPOCHS, "check_val_every_n_epoch": 2}
    text = lightning_console(SameNet(), KerasProgress("keras3"), scheduler(), **extra)
    assert without_times(text) == keras_text
    assert keras_text.count("val_loss") == 1


# --- evaluate and predict -----------------------------------------------------------------------------------


def plain(text: str) -> list[str]:
    """The lines, without colours, times, and the refreshes of a bar that were written over."""
    text = re.sub(r"\x1b\[\d*m", "", text).replace("\b", "")
    text = re.sub(r"\d+s \d+(s|ms|us)/step", "TIME", without_times(text))
    return [line.split("\r")[-1].rstrip() for line in text.split("\n") if line.strip()]


def keras_net() -> keras.Model:
    model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(1, activation="sigmoid")])
    model.layers[-1].set_weights([WEIGHTS, np.zeros(1, np.float32)])
    model.compile("sgd", "binary_crossentropy", metrics=["accuracy"])
    return model


def evaluated(stage: str, style: str, verbose: int) -> str:
    class Net(SameNet):
        def test_step(self, batch, batch_idx):
            self.both(batch, "test_")

        def predict_step(self, batch, batch_idx):
            return self.layer(batch[0])

    quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = pl.Trainer(callbacks=[KerasProgress(style, verbose=verbose)], enable_progress_bar=False, **quiet)
    data = DataLoader(TensorDataset(torch.tensor(INPUTS), torch.tensor(TARGETS)), batch_size=BATCH)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        getattr(trainer, stage)(Net(), data, **({} if stage == "predict" else {"verbose": False}))
    return out.getvalue()


@pytest.mark.parametrize("verbose", [1, 2])
@pytest.mark.parametrize("stage", ["validate", "test"])
def test_validate_and_test_print_what_evaluate_prints(stage, verbose):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        keras_net().evaluate(INPUTS, TARGETS, batch_size=BATCH, verbose=verbose)
    line = plain(evaluated(stage, "keras3", verbose))[-1]
    assert line == plain(out.getvalue())[-1]
    assert re.search(r" - accuracy: 0\.\d{4} - loss: \d\.\d{4}$", line)


def test_a_metric_of_steps_and_epochs_is_shown_once(capsys):
    class Net(SameNet):
        def validation_step(self, batch, batch_idx):
            self.log("val_loss", batch[0].sum(), on_step=True, on_epoch=True)
            self.log("loss", 1.0)

    quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = pl.Trainer(callbacks=[KerasProgress("keras3")], enable_progress_bar=False, **quiet)
    trainer.validate(Net(), DataLoader(TensorDataset(torch.ones(4, 1)), batch_size=4), verbose=False)
    assert capsys.readouterr().out.endswith(" - loss: 1.0000 - val_loss: 4.0000\n")  # apart, where both are there


def test_predict_prints_its_bar():
    with contextlib.redirect_stdout(io.StringIO()) as out:
        keras_net().predict(INPUTS, batch_size=BATCH, verbose=1)
    assert plain(evaluated("predict", "keras3", 1))[-1] == plain(out.getvalue())[-1] == f"7/7 {'━' * 20} TIME"


def test_keras2_shows_only_the_time_of_an_evaluation(monkeypatch):
    monkeypatch.setattr(keras_progress, "perf_counter", lambda: 0.0)
    for stage in ("validate", "test", "predict"):
        assert evaluated(stage, "keras2", 1).splitlines()[-1] == f"28/28 [{'=' * 30}] - 0s 0us/step"
        assert evaluated(stage, "keras2", 2) == ""


# --- Keras 2.2.4, from recordings ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.4354, "0.4354"),
        (0.0010001, "0.0010"),
        (0.001, "1.0000e-03"),
        (0.0005, "5.0000e-04"),
        (0.0, "0.0000e+00"),
        (-0.5, "-5.0000e-01"),
        (-123.456, "-1.2346e+02"),
        (1e10, "10000000000.0000"),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
        (float("-inf"), "-inf"),
    ],
)
def test_keras2_numbers(value, text):
    assert keras2_line({"loss": value}, 0.0) == f" - 0s - loss: {text}"


@pytest.mark.parametrize(
    ("elapsed", "text"),
    [(0.0, "0s"), (0.5, "0s"), (1.5, "2s"), (2.5, "2s"), (12.7, "13s"), (61.0, "61s"), (3700.0, "3700s")],
)
def test_keras2_times(elapsed, text):
    assert keras2_line({}, elapsed) == f" - {text}"


def test_the_line_of_the_article():
    logs = {"loss": 0.43541, "acc": 0.86249, "val_loss": 0.07068, "val_acc": 0.97621}
    assert keras2_line(logs, 13.2) == " - 13s - loss: 0.4354 - acc: 0.8625 - val_loss: 0.0707 - val_acc: 0.9762"


class Replay(pl.LightningModule):
    """Logs, epoch by epoch, the values of a recorded Keras run."""

    TRAIN = ((0.9974, 0.4900), (0.9934, 0.4950), (0.9887, 0.4967))
    VALIDATION = ((0.9777, 0.5300), (0.9735, 0.5300), (0.9697, 0.5300))

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def replay(self, record: tuple[tuple[float, float], ...], prefix: str) -> None:
        loss, accuracy = record[self.current_epoch]
        logs = {f"{prefix}loss": loss, f"{prefix}acc": accuracy}
        self.log_dict(logs, on_step=False, on_epoch=True, batch_size=1)

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        self.replay(self.TRAIN, "")
        return self.layer(batch[0]).mean()

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        self.replay(self.VALIDATION, "val_")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(module: pl.LightningModule, callbacks: list[pl.Callback]) -> None:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = pl.Trainer(callbacks=callbacks, max_epochs=3, enable_progress_bar=False, **quiet)
    data = DataLoader(TensorDataset(torch.zeros(600, 1)), batch_size=120)
    trainer.fit(module, data, DataLoader(TensorDataset(torch.zeros(100, 1)), batch_size=100))


# fit(x, y, epochs=3, verbose=2, validation_data=..., callbacks=[LearningRateScheduler(..., verbose=1)])
KERAS_2_2_4 = """\
Train on 600 samples, validate on 100 samples
Epoch 1/3

Epoch 00001: LearningRateScheduler setting learning rate to 0.002.
 - 0s - loss: 0.9974 - acc: 0.4900 - val_loss: 0.9777 - val_acc: 0.5300
Epoch 2/3

Epoch 00002: LearningRateScheduler setting learning rate to 0.001.
 - 0s - loss: 0.9934 - acc: 0.4950 - val_loss: 0.9735 - val_acc: 0.5300
Epoch 3/3

Epoch 00003: LearningRateScheduler setting learning rate to 0.0005.
 - 0s - loss: 0.9887 - acc: 0.4967 - val_loss: 0.9697 - val_acc: 0.5300
"""


def test_a_whole_run_prints_what_keras_2_printed(capsys, monkeypatch):
    monkeypatch.setattr(keras_progress, "perf_counter", lambda: 0.0)
    fit(Replay(), [KerasProgress(), LearningRateScheduler([0.002, 0.001, 0.0005].__getitem__, verbose=1)])
    assert capsys.readouterr().out == KERAS_2_2_4


# fit(x, y, epochs=3, verbose=2, validation_data=..., callbacks=[ReduceLROnPlateau(..., verbose=1)])
PLATEAU_KERAS_2_2_4 = """\
Train on 600 samples, validate on 100 samples
Epoch 1/3
 - 0s - loss: 0.9974 - acc: 0.4900 - val_loss: 0.9777 - val_acc: 0.5300
Epoch 2/3
 - 0s - loss: 0.9930 - acc: 0.4967 - val_loss: 0.9722 - val_acc: 0.5300

Epoch 00002: ReduceLROnPlateau reducing learning rate to 0.00020000000949949026.
Epoch 3/3
 - 0s - loss: 0.9867 - acc: 0.4983 - val_loss: 0.9675 - val_acc: 0.5300

Epoch 00003: ReduceLROnPlateau reducing learning rate to 2.0000000949949027e-05.
"""


class PlateauReplay(Replay):
    TRAIN = ((0.9974, 0.4900), (0.9930, 0.4967), (0.9867, 0.4983))
    VALIDATION = ((0.9777, 0.5300), (0.9722, 0.5300), (0.9675, 0.5300))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.002)


@pytest.mark.parametrize("progress_first", [True, False])
def test_a_run_with_a_plateau_prints_what_keras_2_printed(capsys, monkeypatch, progress_first):
    monkeypatch.setattr(keras_progress, "perf_counter", lambda: 0.0)
    plateau = LearningRateScheduler(ReduceLROnPlateau(patience=1, min_delta=1.0, verbose=1))
    callbacks = [KerasProgress(), plateau] if progress_first else [plateau, KerasProgress()]
    fit(PlateauReplay(), callbacks)
    assert capsys.readouterr().out == PLATEAU_KERAS_2_2_4


def test_measured_quantity_is_printed_below_the_title(capsys, monkeypatch):
    """As a callback's message in Keras 2, which comes after `Epoch 1/3`."""
    monkeypatch.setattr(keras_progress, "perf_counter", lambda: 0.0)
    losses = iter([1.0, 0.5, 0.25, 0.125])
    schedule = LossDriven(0.01, monitor="full_loss", max_learning_rate=None)
    scheduler = LearningRateScheduler(schedule, verbose=1, measure={"full_loss": lambda *_: next(losses)})
    fit(Replay(), [KerasProgress(metrics=[]), scheduler])
    out = capsys.readouterr().out
    assert re.findall(r"^Epoch (\S+)", out, re.MULTILINE) == ["1/3", "00001:", "2/3", "00002:", "3/3", "00003:"]


# --- the output that the MNIST article shows ------------------------------------------------------------------

ARTICLE = [  # seconds, loss, acc, val_loss, val_acc
    (13, 0.4354, 0.8625, 0.0707, 0.9762),
    (12, 0.1748, 0.9476, 0.0534, 0.9823),
    (12, 0.1376, 0.9590, 0.0387, 0.9872),
    (14, 0.1105, 0.9675, 0.0332, 0.9882),
    (15, 0.1041, 0.9694, 0.0311, 0.9902),
    (15, 0.0960, 0.9725, 0.0293, 0.9899),
    (14, 0.0889, 0.9735, 0.0275, 0.9899),
    (18, 0.0880, 0.9747, 0.0273, 0.9899),
    (14, 0.0856, 0.9746, 0.0274, 0.9905),
    (13, 0.0811, 0.9764, 0.0264, 0.9906),
]


class ArticleReplay(Replay):
    """Logs the article's metrics, and takes as long as it took."""

    TRAIN = tuple((loss, acc) for _, loss, acc, _, _ in ARTICLE)
    VALIDATION = tuple((loss, acc) for _, _, _, loss, acc in ARTICLE)

    def __init__(self, clock: SimpleNamespace) -> None:
        super().__init__()
        self.clock = clock

    def on_train_batch_end(self, *_: object) -> None:
        self.clock.now += ARTICLE[self.current_epoch][0]


def test_the_output_of_the_article_byte_for_byte(capsys, monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(keras_progress, "perf_counter", lambda: clock.now)
    train, test = (DataLoader(TensorDataset(torch.zeros(count, 1)), batch_size=count) for count in (60_000, 10_000))
    quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False, "accelerator": "cpu"}
    callbacks = [LearningRateScheduler(article_mnist, verbose=1), KerasProgress()]
    pl.Trainer(max_epochs=10, callbacks=callbacks, enable_progress_bar=False, **quiet).fit(
        ArticleReplay(clock), train, test
    )
    lines = ["Train on 60000 samples, validate on 10000 samples"]
    for epoch, (seconds, loss, acc, val_loss, val_acc) in enumerate(ARTICLE, start=1):
        rate = "0.002" if epoch < 4 else "0.001" if epoch < 6 else "0.0005"
        lines += [
            f"Epoch {epoch}/10",
            "",
            f"Epoch {epoch:05d}: LearningRateScheduler setting learning rate to {rate}.",
            f" - {seconds}s - loss: {loss:.4f} - acc: {acc:.4f} - val_loss: {val_loss:.4f} - val_acc: {val_acc:.4f}",
        ]
    out = capsys.readouterr().out
    assert out.splitlines() == lines
    assert len(out.encode()) == 1576
