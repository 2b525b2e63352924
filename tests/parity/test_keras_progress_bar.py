"""The progress bar against Keras': Keras 3 itself under the same clock, and recordings of Keras 2.2.4."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import pty
import re
import struct
import sys
import termios
from pathlib import Path
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
from keras.src.utils import io_utils, progbar
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lr_plugins import KerasProgress, LearningRateScheduler, ReduceLROnPlateau
from lr_plugins.callbacks.keras_progress import progress as keras_progress
from lr_plugins.console.keras_text import EpochProgress, draw
from lr_plugins.console.line import ConsoleLine
from tests.toys import QUIET

ANSI = re.compile("\x1b\\[\\d+m")


class Terminal(io.StringIO):
    """Standard output that claims to be a terminal of unknown width."""

    def isatty(self) -> bool:
        return True


class File(io.StringIO):
    """Standard output that goes to a file."""


class Clock:
    """Gives Keras and us the same time."""

    now = 1000.0  # at 0, Keras would think that it has just refreshed its bar

    def __call__(self) -> float:
        return self.now

    @contextlib.contextmanager
    def drives_both(self, out: io.StringIO):
        # Keras writes control characters if the module `posix` exists; otherwise it checks the stream, as we do.
        system = SimpleNamespace(stdout=out, modules={})
        with (
            mock.patch.object(progbar, "time", SimpleNamespace(time=self)),
            mock.patch.object(progbar, "sys", system),
            mock.patch.object(io_utils, "sys", SimpleNamespace(stdout=out)),
            mock.patch.object(keras_progress, "perf_counter", self),
            contextlib.redirect_stdout(out),
        ):
            yield


def as_we_write(text: str, stream: type[io.StringIO]) -> str:
    """Keras styles its bar in files, too, where we write no control characters."""
    return text if stream is Terminal else ANSI.sub("", text)


# --- one bar, against the real Keras 3 ------------------------------------------------------------------------

values = st.one_of(st.floats(), st.floats(-2e-3, 2e-3), st.sampled_from([0.0, 0.001, -0.001, 0.99995, 1e10]))
names = st.text("abcdefgh_/ %{}é", min_size=1, max_size=8)
pauses = st.one_of(st.just(0.0), st.floats(0, 0.2), st.floats(0, 1e-3), st.floats(0, 1e5))


@pytest.mark.parametrize("stream", [Terminal, File])
@given(st.data())
@settings(max_examples=150)
def test_a_keras3_bar_is_that_of_keras(stream, data):
    target = data.draw(st.one_of(st.none(), st.integers(1, 12), st.integers(1, 100_000)))
    updates = data.draw(st.lists(st.tuples(pauses, st.dictionaries(names, values, max_size=3)), min_size=1, max_size=8))
    updates = updates[: target or None]
    clock, theirs, ours = Clock(), stream(), stream()
    with clock.drives_both(theirs):
        # Keras' own logger gives it means that are there already.
        bar = progbar.Progbar(target, stateless_metrics=set())
        progress = keras_progress.Progress(keras_progress.Units(1, target), "keras3")
        order = {}
        for step, (pause, logs) in enumerate(updates, 1):
            clock.now += pause
            final = step == len(updates) and (step > 1 or target == 1) and target is not None
            done = target if final else step
            bar.update(done, list(logs.items()), finalize=final)
            order |= logs  # Keras keeps what it has shown once
            progress.batches = done - 1  # the last update jumps to the end
            is_due = progress.count(done)
            with contextlib.redirect_stdout(ours):
                if final:
                    progress.finish(progress.elapsed, dict(order))
                elif is_due:
                    progress.refresh(dict(order))
    assert ours.getvalue() == as_we_write(theirs.getvalue(), stream)


# --- a whole fit, against the real Keras 3 --------------------------------------------------------------------

EPOCHS, BATCH, STEP, VALIDATION_STEP = 3, 4, 0.03, 0.25
RANDOM = np.random.default_rng(0)
INPUTS = RANDOM.random((30, 3), dtype=np.float32)
TARGETS = (INPUTS.sum(axis=1, keepdims=True) > 1.5).astype(np.float32)
WEIGHTS = np.array([[0.5], [-0.25], [0.75]], dtype=np.float32)


def rate(epoch: int) -> float:
    return 0.5 * 0.002**epoch


class SameNet(pl.LightningModule):
    """The network, loss and metrics of `keras_console` in torch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 1)
        self.layer.load_state_dict({"weight": torch.tensor(WEIGHTS.T), "bias": torch.zeros(1)})

    def both(self, batch: list[torch.Tensor], prefix: str) -> torch.Tensor:
        inputs, targets = batch
        predictions = torch.sigmoid(self.layer(inputs))
        loss = torch.nn.functional.binary_cross_entropy(predictions, targets)
        accuracy = ((predictions > 0.5).float() == targets).float().mean()
        self.log_dict({f"{prefix}loss": loss, f"{prefix}accuracy": accuracy}, on_step=not prefix, on_epoch=True)
        return loss

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        return self.both(batch, "")

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        self.both(batch, "val_")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=9.0)


class Stream(IterableDataset):
    """The training samples, in an unknown number."""

    def __iter__(self):
        return zip(torch.tensor(INPUTS[:22]), torch.tensor(TARGETS[:22]), strict=True)


def loaders(of_unknown_length: bool = False) -> tuple[DataLoader, DataLoader]:
    data = [torch.tensor(INPUTS), torch.tensor(TARGETS)]
    train = Stream() if of_unknown_length else TensorDataset(*(part[:22] for part in data))
    validation = TensorDataset(*(part[22:] for part in data))
    return DataLoader(train, batch_size=BATCH), DataLoader(validation, batch_size=BATCH)


def keras_console(out: io.StringIO, train: DataLoader, validation: DataLoader, callbacks=(), **extra: object) -> str:
    clock = Clock()

    class Time(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            clock.now += STEP

        def on_test_batch_end(self, batch, logs=None):
            clock.now += VALIDATION_STEP

    model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(1, activation="sigmoid")])
    model.layers[-1].set_weights([WEIGHTS, np.zeros(1, np.float32)])
    model.compile(keras.optimizers.SGD(0.5), "binary_crossentropy", metrics=["accuracy"])
    callbacks = [Time(), *(callbacks or [keras.callbacks.LearningRateScheduler(rate, verbose=1)])]
    with clock.drives_both(out):
        model.fit(train, shuffle=False, verbose=1, callbacks=callbacks, validation_data=validation, **extra)
    return out.getvalue()


def our_console(out: io.StringIO, train: DataLoader, validation: DataLoader, schedule=rate, **extra: object) -> str:
    clock = Clock()

    class Time(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            clock.now += STEP

        def on_validation_batch_end(self, trainer, *args):
            clock.now += VALIDATION_STEP * (not trainer.sanity_checking)

    scheduler = LearningRateScheduler(schedule, verbose=1, style="keras3")
    callbacks = [Time(), KerasProgress("keras3", verbose=1), scheduler]
    with clock.drives_both(out):
        pl.Trainer(callbacks=callbacks, **QUIET, **extra).fit(SameNet(), train, validation)
    return out.getvalue()


@pytest.mark.parametrize("stream", [Terminal, File])
@pytest.mark.parametrize("epochs", [1, EPOCHS])
def test_a_whole_fit_shows_what_keras_shows(epochs, stream):
    expected = keras_console(stream(), *loaders(), epochs=epochs)
    assert our_console(stream(), *loaders(), max_epochs=epochs) == as_we_write(expected, stream)
    # Batches are 0.03 s apart: after the first, every second one is too early for another refresh.
    assert re.findall(r"\d(?=/6)", expected) == ["1", "3", "5", "6"] * epochs
    assert expected.count("learning_rate: ") == epochs


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_a_stream_of_unknown_length_shows_what_keras_shows():
    expected = keras_console(Terminal(), *loaders(of_unknown_length=True), epochs=EPOCHS)
    assert our_console(Terminal(), *loaders(of_unknown_length=True), max_epochs=EPOCHS) == expected
    assert expected.count("      1/Unknown") == 1
    assert expected.count("1/6") == 2  # known from the second epoch on


def test_epochs_without_validation_show_what_keras_shows():
    expected = keras_console(Terminal(), *loaders(), epochs=EPOCHS, validation_freq=2)
    assert our_console(Terminal(), *loaders(), max_epochs=EPOCHS, check_val_every_n_epoch=2) == expected
    assert expected.count("val_loss") == 1


def test_plateau_message_is_printed_where_keras_prints_it():
    plateau = keras.callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=1, min_delta=10.0, verbose=1)
    expected = keras_console(Terminal(), *loaders(), callbacks=[plateau], epochs=2)
    rule = ReduceLROnPlateau(0.5, monitor="loss", factor=0.5, patience=1, min_delta=10.0)
    assert our_console(Terminal(), *loaders(), schedule=rule, max_epochs=2) == expected
    assert "\nEpoch 2: ReduceLROnPlateau reducing learning rate to 0.25.\n\b" in expected


# --- Keras 2.2.4, from recordings -----------------------------------------------------------------------------

# Progbar of Keras 2.2.4 (Python 3.6, TensorFlow 1.13.1) under a fake clock, standard output a pipe: for each call the
# time, `current`, `values`, and what it wrote.
RECORDED = json.loads((Path(__file__).parent / "recordings" / "progbar_keras_2_2_4.json").read_text())


@pytest.mark.parametrize("name", RECORDED)
def test_a_keras2_bar_is_the_recorded_one(name):
    target, stateful, calls = (RECORDED[name][what] for what in ("target", "stateful", "calls"))
    sums, seen, line = {}, 0, ConsoleLine()
    for time, current, logged, expected in calls:
        for key, value in logged:  # Progbar's own means, which Lightning's take the place of
            before, weight = sums.get(key, (0.0, 0)) if key not in stateful else (0.0, 0)
            count = current - seen if key not in stateful else 1
            sums[key] = before + value * count, weight + count
        seen = current
        means = {key: total / weight for key, (total, weight) in sums.items()}
        final = current == target
        moment = EpochProgress(current, target, time, time / current if current else 0.0, means, final)
        with contextlib.redirect_stdout(File()) as out:
            line.show(lambda columns, moment=moment: draw("keras2", moment, columns), final)
        if target is None:
            expected = expected.rstrip("\n")
        assert out.getvalue() == expected


class Replay(pl.LightningModule):
    """Logs such values that the first batch and the epoch have the means of a recorded Keras run."""

    FIRST = ((0.9984, 67 / 128), (0.9954, 68 / 128), (0.9905, 68 / 128))
    WHOLE = ((0.9974, 0.4900), (0.9934, 0.4950), (0.9887, 298 / 600))
    VALIDATION = ((0.9777, 0.5300), (0.9735, 0.5300), (0.9697, 0.5300))

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        first, whole = self.FIRST[self.current_epoch], self.WHOLE[self.current_epoch]
        rest = [(600 * mean - 128 * begin) / 472 for begin, mean in zip(first, whole, strict=True)]
        loss, accuracy = first if batch_idx == 0 else rest
        self.log_dict({"loss": loss, "acc": accuracy}, on_step=False, on_epoch=True)
        return self.layer(batch[0]).mean()

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        loss, accuracy = self.VALIDATION[self.current_epoch]
        self.log_dict({"val_loss": loss, "val_acc": accuracy})

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


# model.fit(x, y, batch_size=128, epochs=3, verbose=1, validation_data=..., callbacks=[LearningRateScheduler(...,
# verbose=1)]) of Keras 2.2.4, standard output a pipe.
KERAS_2_2_4_PIPE = """\
Train on 600 samples, validate on 100 samples
Epoch 1/3

Epoch 00001: LearningRateScheduler setting learning rate to 0.002.

128/600 [=====>........................] - ETA: 0s - loss: 0.9984 - acc: 0.5234
600/600 [==============================] - 0s 141us/step - loss: 0.9974 - acc: 0.4900 - val_loss: 0.9777 - val_acc: 0.5300
Epoch 2/3

Epoch 00002: LearningRateScheduler setting learning rate to 0.001.

128/600 [=====>........................] - ETA: 0s - loss: 0.9954 - acc: 0.5312
600/600 [==============================] - 0s 5us/step - loss: 0.9934 - acc: 0.4950 - val_loss: 0.9735 - val_acc: 0.5300
Epoch 3/3

Epoch 00003: LearningRateScheduler setting learning rate to 0.0005.

128/600 [=====>........................] - ETA: 0s - loss: 0.9905 - acc: 0.5312
600/600 [==============================] - 0s 4us/step - loss: 0.9887 - acc: 0.4967 - val_loss: 0.9697 - val_acc: 0.5300
"""  # noqa: E501
# The same on a terminal, which makes CR LF of LF: instead of the line feed before each state of the bar there are so
# many backspaces as the last one had characters (here 79), and a carriage return.
KERAS_2_2_4_PTY = (
    KERAS_2_2_4_PIPE.replace("\n128/600", "\r128/600")
    .replace("\n600/600", "\b" * 79 + "\r600/600")
    .replace("\n", "\r\n")
)


def replay() -> None:
    """The recorded run, with its times."""
    clock = Clock()

    class Time(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            clock.now += 600 * (141e-6, 5e-6, 4e-6)[trainer.current_epoch]

    scheduler = LearningRateScheduler(lambda epoch: (0.002, 0.001, 0.0005)[epoch], verbose=1)
    trainer = pl.Trainer(max_epochs=3, callbacks=[Time(), KerasProgress(verbose=1), scheduler], **QUIET)
    data = DataLoader(TensorDataset(torch.zeros(600, 1)), batch_size=128)
    with mock.patch.object(keras_progress, "perf_counter", clock):
        trainer.fit(Replay(), data, DataLoader(TensorDataset(torch.zeros(100, 1)), batch_size=128))


def test_a_whole_run_into_a_file_shows_what_keras_2_showed(capsys):
    replay()
    assert capsys.readouterr().out == KERAS_2_2_4_PIPE


def on_a_terminal(columns: int) -> str:
    """What the recorded run writes to a real terminal of that width."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    found = bytearray()

    class Read(io.TextIOWrapper):
        def flush(self) -> None:  # a terminal's buffer is small
            super().flush()
            os.set_blocking(ours, False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    found.extend(os.read(ours, 4096))

    with Read(os.fdopen(theirs, "wb"), encoding="utf-8", newline="") as out, contextlib.redirect_stdout(out):
        assert sys.stdout.isatty()
        replay()
        out.flush()
    os.close(ours)
    return found.decode()


def test_a_whole_run_on_a_terminal_shows_what_keras_2_showed():
    assert on_a_terminal(100) == KERAS_2_2_4_PTY


def test_narrow_terminal_shortens_the_bar_but_not_the_epoch():
    screen = on_a_terminal(44)
    assert screen.count("\r128/600 [>.......] - ETA: 0s - loss: 0.99") == 3
    lasting = [line for line in KERAS_2_2_4_PIPE.splitlines() if line.startswith("600/600")]
    assert re.findall("600/600[^\r]*", screen) == lasting
    assert screen.count("\b" * 43 + "\r600/600") == 3
    assert "\b" * 44 not in screen
