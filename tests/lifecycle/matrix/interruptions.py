"""The ways in which a training is interrupted and resumed."""

from __future__ import annotations

import functools
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from lr_plugins.callbacks.last_checkpoint import LastCheckpoint
from tests.lifecycle.matrix.dimensions import AT_THE_END, EVERY_OTHER, WITHIN, Watch
from tests.lifecycle.matrix.record import Result
from tests.lifecycle.matrix.task import Breakdown, Place
from tests.lifecycle.matrix.training import Case


class At(pl.Callback):
    """Acts at the start of one batch."""

    def __init__(self, place: Place, act: Callable[[], None]) -> None:
        self._place, self._act = place, act

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if (trainer.current_epoch, batch_idx) == self._place:
            self._act()


class AfterBatch(pl.Callback):
    """Saves a checkpoint after all other callbacks have handled a batch."""

    def __init__(self, place: Place, path: Path) -> None:
        self._place, self._path = place, path

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if (trainer.current_epoch, batch_idx) == self._place:
            trainer.save_checkpoint(self._path)


def _break_down() -> None:
    raise Breakdown


def _sigterm() -> None:
    signal.raise_signal(signal.SIGTERM)


def within_epochs(case: Case, folder: Path) -> list[Path]:
    """The first, a middle and the last of the checkpoints within epochs."""
    places = {path: torch.load(path)["callbacks"]["Recorder"]["place"] for path in sorted(folder.glob("*.ckpt"))}
    inside = [path for path, place in places.items() if not case.setup.is_last(tuple(place))]
    return sorted({inside[0], inside[len(inside) // 2], inside[-1]})


def every_steps(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(folder, "{step:03d}", every_n_train_steps=4, save_top_k=-1)


def every_epochs(folder: Path, epochs: int, at_the_end: bool | None = None) -> ModelCheckpoint:
    """At the end of epochs, or after their validation; by default as ModelCheckpoint decides."""
    return ModelCheckpoint(
        folder, "{step:03d}", every_n_epochs=epochs, save_top_k=-1, save_on_train_epoch_end=at_the_end
    )


@functools.lru_cache(maxsize=1)
def _uninterrupted(case: Case, folder: Path) -> Result:
    """One run for all interruptions that only need its checkpoints."""
    after_validation = every_epochs(folder / "after", 2, at_the_end=False)
    savers = [every_steps(folder / "steps"), every_epochs(folder / "ends", 1, at_the_end=True), after_validation]
    return case.train(AfterBatch((1, case.setup.sizes[1] - 1), folder / "batch.ckpt"), *savers)


def _no_interruption(case: Case, folder: Path) -> Iterator[Result]:
    yield _uninterrupted(case, folder)


def _within_an_epoch(case: Case, folder: Path) -> Iterator[Result]:
    first = _uninterrupted(case, folder)
    for path in within_epochs(case, folder / "steps"):
        yield first.then(case.train(ckpt_path=path))


def _after_the_last_batch(case: Case, folder: Path) -> Iterator[Result]:
    yield _uninterrupted(case, folder).then(case.train(ckpt_path=folder / "batch.ckpt"))


def _at_the_end_of_an_epoch(case: Case, folder: Path) -> Iterator[Result]:
    first = _uninterrupted(case, folder)
    for path in sorted((folder / "ends").glob("*.ckpt"))[:4:2]:
        yield first.then(case.train(ckpt_path=path))


def _after_the_validation(case: Case, folder: Path) -> Iterator[Result]:
    path = min((folder / "after").glob("*.ckpt"))
    yield _uninterrupted(case, folder).then(case.train(ckpt_path=path))


def _after_validation_within(case: Case, folder: Path) -> Iterator[Result]:
    case = case.watched(WITHIN)
    first = case.train(every_epochs(folder / "within", 1))
    yield first
    for path in sorted((folder / "within").glob("*.ckpt"))[2:6:3]:
        yield first.then(case.train(ckpt_path=path))


def _every_other_validated(case: Case, folder: Path) -> Iterator[Result]:
    case = case.watched(EVERY_OTHER)
    first = case.train(every_epochs(folder / "other", 1, True))
    yield first
    for path in sorted((folder / "other").glob("*.ckpt"))[1:3]:
        yield first.then(case.train(ckpt_path=path))


def _trained_longer(case: Case, folder: Path) -> Iterator[Result]:
    first = case.train(epochs=2)
    assert first.end is not None
    yield first.then(case.train(ckpt_path=first.end(folder / "end.ckpt")))


def _last(case: Case, folder: Path) -> LastCheckpoint | None:
    return LastCheckpoint(folder, None, every_n_steps=4, min_seconds=0.0) if case.ours else None


def _until(
    case: Case, folder: Path, end: At, saver: ModelCheckpoint, ckpt_path: Path | None = None
) -> tuple[Result, Path]:
    """Train until the interruption; return the newest checkpoint: ours, or that of Lightning's `saver`."""
    result = case.train(end, *([] if case.ours else [saver]), last=_last(case, folder), ckpt_path=ckpt_path)
    return result, folder / "last.ckpt" if case.ours else max(folder.glob("*.ckpt"))


def _on_sigterm(case: Case, folder: Path) -> Iterator[Result]:
    for place in ((1, 3), (3, 1)):
        here = folder / f"signal {place}"
        first, path = _until(case, here, At(place, _sigterm), ModelCheckpoint(here, save_on_exception=True))
        yield first.then(case.train(ckpt_path=path, last=_last(case, here)))


@functools.lru_cache(maxsize=1)
def _broken_down(case: Case, folder: Path) -> tuple[Result, Path]:
    return _until(case, folder / "error", At((3, 5), _break_down), every_steps(folder / "error"))


def _on_an_error(case: Case, folder: Path, lose: bool = False) -> Iterator[Result]:
    first, path = _broken_down(case, folder)
    yield first.then(case.train(ckpt_path=path, last=_last(case, folder / f"error {lose}"), lose=lose))


def _on_two_errors(case: Case, folder: Path) -> Iterator[Result]:
    here = [folder / "first", folder / "second"]
    first, path = _until(case, here[0], At((1, 5), _break_down), every_steps(here[0]))
    second, path = _until(case, here[1], At((3, 5), _break_down), every_steps(here[1]), path)
    yield first.then(second).then(case.train(ckpt_path=path, last=_last(case, here[1])))


class Interruption(NamedTuple):
    """A way to interrupt and resume a case, and its validation runs."""

    results: Callable[[Case, Path], Iterator[Result]]
    watch: Watch = AT_THE_END


WITHIN_AN_EPOCH, LAST_BATCH = "within an epoch", "after an epoch's last batch"
VALIDATION_WITHIN = "after a validation run within an epoch"
INTERRUPTIONS = {
    "none": Interruption(_no_interruption),
    WITHIN_AN_EPOCH: Interruption(_within_an_epoch),
    LAST_BATCH: Interruption(_after_the_last_batch),
    VALIDATION_WITHIN: Interruption(_after_validation_within, WITHIN),
    "after an epoch's validation": Interruption(_after_the_validation),
    "at an epoch's end": Interruption(_at_the_end_of_an_epoch),
    "at an epoch's end, every other validated": Interruption(_every_other_validated, EVERY_OTHER),
    "after the last epoch, trained longer": Interruption(_trained_longer),
    "SIGTERM between two batches": Interruption(_on_sigterm),
    "an error": Interruption(_on_an_error),
    "two errors": Interruption(_on_two_errors),
    "an error, optimizers' state lost": Interruption(functools.partial(_on_an_error, lose=True)),
}
