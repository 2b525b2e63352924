"""The main job with everything it records, beside what Lightning and Keras take for less.

All train the Iris recipe (a net of 4-6-3, batch size 5, 200 epochs, 6,000 optimizer steps), each in a fresh process
whose standard output is a pipe, in turn: torch, Lightning, ..., torch, Lightning, ...

* torch: a plain loop over the batches.
* Lightning: a Trainer with the same net and batches that logs nothing, saves nothing and shows nothing.
* Lightning with its own: the loss of every epoch, a scheduler per step, LearningRateMonitor, CSVLogger, and best and
  last checkpoints of ModelCheckpoint.
* scheduler: bare Lightning with LearningRateScheduler, which drives the inverse-time decay and records it.
* ours: `python train.py experiment=iris_inverse_time`, unchanged: Keras' lines and messages on the console, the
  learning rate of all 6,000 steps and the metrics of every epoch in MLflow (an SQLite file in a temporary folder), the
  table and the picture of the learning rate, `best.ckpt` and `last.ckpt`. The time of fit is that of `Trainer.fit`,
  until all of this is written.
* Keras: `Sequential`, `SGD(InverseTimeDecay(...))`, `fit(..., verbose=2)` on the torch backend, without callbacks.

All get one thread (`--threads`). With two, Keras' fit took up to seven times as long whenever other work kept a core
busy, because its threads wait for each other. Such a ratio would flatter us.

The tables: seconds of fit, its processor seconds, which other work on the machine disturbs less, and of the whole
process; the ratios of ours to each of the others, within each turn, with the limits; and the parts of our fit, seconds
spent in each kind of recording without the nested ones.

    python benchmarks/main_job.py --repeats 3

Exit status: 0, or 1 if a median ratio is above its limit.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
EPOCHS, BATCH, SEED = 200, 5, 1
STEPS = EPOCHS * 30

Timing = dict[str, Any]


# --- the children: each leaves its times in a file ----------------------------------------------------------


class Stopwatch:
    """Seconds by name, without those of nested names; and the processor seconds of all."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.processor = 0.0
        self._inner = [0.0]  # per open call: seconds of the calls inside it

    def watch(self, owner: Any, method: str, name: str) -> None:
        """Count the time of a method under a name from now on."""
        original: Callable[..., Any] = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            self._inner.append(0.0)
            start, processor = time.perf_counter(), time.process_time()
            try:
                return original(*args, **kwargs)
            finally:
                taken = time.perf_counter() - start
                self.seconds[name] += taken - self._inner.pop()
                self._inner[-1] += taken
                if len(self._inner) == 1:
                    self.processor += time.process_time() - processor

        setattr(owner, method, timed)


def ours() -> Timing:
    """The main job in this process, as a user starts it."""
    import pytorch_lightning as pl

    from lr_plugins import KerasProgress, LearningRateTrace, MLflowLogger

    watch = Stopwatch()
    watch.watch(pl.Trainer, "fit", "training itself")
    watch.watch(pl.Trainer, "save_checkpoint", "checkpoints")
    watch.watch(LearningRateTrace, "save", "table and picture of the learning rate")
    for hook in (name for name in vars(KerasProgress) if name.startswith("on_")):
        watch.watch(KerasProgress, hook, "console")
    watch.watch(sys.stdout, "write", "console")  # the messages of the other callbacks
    for method in ("log_metrics", "log_hyperparams", "log_text", "log_artifact", "flush", "finalize"):
        watch.watch(MLflowLogger, method, "MLflow, its import included")

    sys.argv = ["train.py", "experiment=iris_inverse_time", f"seed={SEED}"]
    runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
    return {"fit": sum(watch.seconds.values()), "processor": watch.processor, "parts": dict(watch.seconds)}


def batches() -> Any:
    """The batches of the recipe."""
    from lr_plugins.training.data import Iris

    data = Iris(batch_size=BATCH, validation_fraction=0.0, standardize=False, shuffle=True, seed=SEED)
    data.setup()
    return data.train_dataloader()


def parts() -> tuple[Any, Any, Any]:
    """The net, the loss and the optimizer of the recipe."""
    import torch

    from lr_plugins import KerasSGD
    from lr_plugins.training.models import MLP

    torch.manual_seed(SEED)
    net = MLP((4,), 3, [4, 6], "keras")
    return net, torch.nn.CrossEntropyLoss(), KerasSGD(net.parameters(), lr=0.1, momentum=0.9)


def timed(fit: Callable[[], object]) -> Timing:
    """The seconds of a fit."""
    start, processor = time.perf_counter(), time.process_time()
    fit()
    return {"fit": time.perf_counter() - start, "processor": time.process_time() - processor, "parts": {}}


def torch_loop() -> Timing:
    """A plain loop."""
    data, (net, loss, optimizer) = batches(), parts()

    def fit() -> None:
        for _ in range(EPOCHS):
            for x, y in data:
                optimizer.zero_grad()
                loss(net(x), y).backward()
                optimizer.step()

    return timed(fit)


def lightning(records: bool = False, *callbacks: Any) -> Timing:
    """A Trainer with the same net and batches."""
    import pytorch_lightning as pl
    import torch
    from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint
    from pytorch_lightning.loggers import CSVLogger

    net, loss, optimizer = parts()

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def training_step(self, batch: Any, index: int) -> Any:
            x, y = batch
            value = loss(self.net(x), y)
            if records:
                self.log("loss", value, on_step=False, on_epoch=True)
            return value

        def configure_optimizers(self) -> Any:
            if not records:
                return optimizer
            scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 / (1.0 + 0.005 * step))
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    own = [LearningRateMonitor("step"), ModelCheckpoint(monitor="loss", save_last=True)] if records else []
    trainer = pl.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        logger=CSVLogger(".") if records else False,
        log_every_n_steps=1,
        callbacks=[*own, *callbacks],
        enable_checkpointing=records,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    return timed(lambda: trainer.fit(Module(), batches()))


def scheduler() -> Timing:
    """Bare Lightning with LearningRateScheduler."""
    from lr_plugins import InverseTimeDecay, LearningRateScheduler

    decay = InverseTimeDecay(0.1, decay_steps=1, decay_rate=0.005)
    return lightning(False, LearningRateScheduler(decay, advice=False))


def keras_fit() -> Timing:
    """The same recipe in Keras."""
    import keras
    from sklearn.datasets import load_iris

    x, y = load_iris(return_X_y=True)
    keras.utils.set_random_seed(SEED)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(4, activation="relu"),
            keras.layers.Dense(6, activation="relu"),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )
    schedule = keras.optimizers.schedules.InverseTimeDecay(0.1, decay_steps=1, decay_rate=0.005)
    optimizer = keras.optimizers.SGD(schedule, momentum=0.9)
    model.compile(loss="categorical_crossentropy", optimizer=optimizer, metrics=["accuracy"])
    targets = keras.utils.to_categorical(y, 3)
    return timed(lambda: model.fit(x.astype("float32"), targets, epochs=EPOCHS, batch_size=BATCH, verbose=2))


CHILDREN = {
    "torch": torch_loop,
    "Lightning": lightning,
    "Lightning with its own": partial(lightning, True),
    "scheduler": scheduler,
    "ours": ours,
    "Keras": keras_fit,
}

LIMITS = {("Lightning", "fit"): 1.25, ("Keras", "fit"): 0.4, ("Keras", "process"): 0.6}
"""(the other, seconds of what) -> the largest ratio of ours to it."""


# --- the parent ---------------------------------------------------------------------------------------------


def run_child(name: str, threads: int) -> Timing:
    """One fresh process in a folder of its own."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "KERAS_BACKEND": "torch", "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    environment |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    environment.pop("MLFLOW_TRACKING_URI", None)  # a local file, whatever the user logs to
    with tempfile.TemporaryDirectory() as folder:
        times = Path(folder) / "times.json"
        command = [sys.executable, str(Path(__file__).resolve()), "--child", name, "--times", str(times)]
        start = time.perf_counter()
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        whole = time.perf_counter() - start
        if done.returncode != 0:
            sys.exit(f"{name} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
        if name == "ours":
            check_record(Path(folder))
        timing: Timing = json.loads(times.read_text())
        return {**timing, "process": whole}


def check_record(folder: Path) -> None:
    """Nothing was left out to be fast: every step and epoch is in MLflow, the files are there."""
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(folder / "mlflow.db")) as database:
        points = dict(database.execute("select key, count(*) from metrics group by key").fetchall())
    assert (points["lr"], points["loss"], points["acc"]) == (STEPS, EPOCHS, EPOCHS), points
    written = {path.name for path in folder.rglob("*") if path.is_file()}
    assert {"lr_trace.csv", "lr_trace.png", "config.yaml", "best.ckpt", "last.ckpt"} <= written, written


def report(timings: dict[str, list[Timing]]) -> bool:
    """Print the tables; returns whether all ratios are within their limits."""
    print(f"\n| {STEPS:,} steps | fit, s (each) | fit, median s | fit, processor s | whole process, median s |")
    print("|---|---|---|---|---|")
    for name, runs in timings.items():
        each = ", ".join(f"{run['fit']:.2f}" for run in runs)
        medians = [statistics.median(run[what] for run in runs) for what in ("fit", "processor", "process")]
        print(f"| {name} | {each} | {' | '.join(f'{value:.2f}' for value in medians)} |")
    within = True
    print("\n| ours / | fit: median (lowest to highest) | fit, processor | whole process | limits |")
    print("|---|---|---|---|---|")
    for name, runs in timings.items():
        if name == "ours":
            continue
        cells, limits = [], []
        for what in ("fit", "processor", "process"):
            ratios = [mine[what] / other[what] for mine, other in zip(timings["ours"], runs, strict=True)]
            median = statistics.median(ratios)
            cells.append(f"{median:.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
            if (name, what) in LIMITS:
                limits.append(f"{what} {LIMITS[name, what]:g}")
                within = within and median <= LIMITS[name, what]
        print(f"| {name} | {' | '.join(cells)} | {', '.join(limits)} |")
    print("\n| inside our fit | median s |\n|---|---|")
    parts = {
        name: statistics.median(run["parts"][name] for run in timings["ours"]) for name in timings["ours"][0]["parts"]
    }
    for name, seconds in sorted(parts.items(), key=lambda item: -item[1]):
        print(f"| {name} | {seconds:.2f} |")
    return within


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of torch, in each process (default 1)")
    parser.add_argument("--child", choices=list(CHILDREN), help=argparse.SUPPRESS)
    parser.add_argument("--times", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        options.times.write_text(json.dumps(CHILDREN[options.child]()))
        return 0
    timings: dict[str, list[Timing]] = {name: [] for name in CHILDREN}
    for turn in range(options.repeats):
        for name, runs in timings.items():
            runs.append(run_child(name, options.threads))
            print(f"{turn + 1}/{options.repeats} {name}: fit {runs[-1]['fit']:.2f} s", flush=True)
    return 0 if report(timings) else 1


if __name__ == "__main__":
    sys.exit(main())
