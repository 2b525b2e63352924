"""The main job with everything it records, beside what Lightning and Keras take for less.

All train the Iris recipe (a net of 4-6-3, batch size 5, 200 epochs, 6,000 optimizer steps), each in a fresh process
whose standard output is a pipe, in turn: torch, Lightning, ..., torch, Lightning, ...

* torch: a plain loop over the batches.
* Lightning: a Trainer with the same net, loss, optimizer and LightningDataModule, which logs nothing, saves nothing
  and shows nothing.
* Lightning with its own: the loss of every epoch, a scheduler per step, LearningRateMonitor, CSVLogger, and best and
  last checkpoints of ModelCheckpoint.
* empty callback: bare Lightning with a callback that has no hook of its own.
* scheduler: bare Lightning with LearningRateScheduler, which drives the inverse-time decay and records it.
* ours: `python train.py experiment=iris_inverse_time`, unchanged: Keras' lines and messages on the console, the
  learning rate of all 6,000 steps and the metrics of every epoch in MLflow (an SQLite file in a temporary folder), the
  table and the picture of the learning rate, `best.ckpt` and `last.ckpt`. The time of fit is that of `Trainer.fit`,
  until all of this is written. The folder has a database without runs: the first run in a folder waits about a second
  more, in which MLflow creates its tables (`--new-database` includes that).
* Keras: `Sequential`, `SGD(InverseTimeDecay(...))`, `fit(..., verbose=2)` on the torch backend, without callbacks.

Then the job of the quick start, `python train.py schedule=step_decay` (ten epochs of a CNN on digits), beside a program
that imports torch and Lightning and fits the same net on the same data, without a logger, checkpoints or output.

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
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
EPOCHS, BATCH, SEED = 200, 5, 1
STEPS = EPOCHS * 30
SILENT: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
"""Arguments of a Trainer that records nothing."""

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


class BeforeImport(MetaPathFinder):
    """Calls a function when a module is about to be imported: what it imports is not imported earlier than usual."""

    def __init__(self, module: str, act: Callable[[], None]) -> None:
        self._module, self._act = module, act
        sys.meta_path.insert(0, self)

    def find_spec(self, name: str, path: Any, target: Any = None) -> None:
        if name == self._module:
            sys.meta_path.remove(self)
            self._act()


def ours() -> Timing:
    """The main job in this process, as a user starts it."""
    return train_py("experiment=iris_inverse_time", f"seed={SEED}")


def train_py(*words: str) -> Timing:
    """`python train.py WORDS` in this process."""
    watch = Stopwatch()
    BeforeImport("lr_plugins.training.run", lambda: watch_parts(watch))
    sys.argv = ["train.py", *words]
    runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
    return {"fit": sum(watch.seconds.values()), "processor": watch.processor, "parts": dict(watch.seconds)}


def watch_parts(watch: Stopwatch) -> None:
    """Count the time of our fit by kinds of recording."""
    import pytorch_lightning as pl

    from lr_plugins import KerasProgress, LearningRateTrace, MLflowLogger

    watch.watch(pl.Trainer, "fit", "training itself")
    watch.watch(pl.Trainer, "save_checkpoint", "checkpoints")
    watch.watch(LearningRateTrace, "save", "table and picture of the learning rate")
    for hook in (name for name in vars(KerasProgress) if name.startswith("on_")):
        watch.watch(KerasProgress, hook, "console")
    watch.watch(sys.stdout, "write", "console")  # the messages of the other callbacks
    for method in ("log_metrics", "log_hyperparams", "log_text", "log_artifact", "flush", "finalize"):
        watch.watch(MLflowLogger, method, "MLflow")


def iris() -> Any:
    """The data of the recipe, a LightningDataModule."""
    from lr_plugins.training.data import Iris

    return Iris(batch_size=BATCH, validation_fraction=0.0, standardize=False, shuffle=True, seed=SEED)


def parts() -> tuple[Any, Any, Any]:
    """The net, the loss and the optimizer of the recipe."""
    import torch

    from lr_plugins import KerasSGD
    from lr_plugins.training.losses import KerasCategoricalCrossentropy
    from lr_plugins.training.models import MLP

    torch.manual_seed(SEED)
    net = MLP((4,), 3, (4, 6), "keras")
    return net, KerasCategoricalCrossentropy(), KerasSGD(net.parameters(), lr=0.1, momentum=0.9)


def timed(fit: Callable[[], object]) -> Timing:
    """The seconds of a fit."""
    start, processor = time.perf_counter(), time.process_time()
    fit()
    return {"fit": time.perf_counter() - start, "processor": time.process_time() - processor, "parts": {}}


def torch_loop() -> Timing:
    """A plain loop."""
    data, (net, loss, optimizer) = iris(), parts()
    data.setup()
    batches = data.train_dataloader()

    def fit() -> None:
        for _ in range(EPOCHS):
            for x, y in batches:
                optimizer.zero_grad()
                loss(net(x), y).backward()
                optimizer.step()

    return timed(fit)


def lightning(records: bool = False, *callbacks: Any) -> Timing:
    """A Trainer with the same net, loss, optimizer and LightningDataModule."""
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
        log_every_n_steps=1,
        callbacks=[*own, *callbacks],
        **SILENT | ({"logger": CSVLogger("."), "enable_checkpointing": True} if records else {}),
    )
    return timed(lambda: trainer.fit(Module(), datamodule=iris()))


def empty_callback() -> Timing:
    """Bare Lightning with a callback that does nothing."""
    import pytorch_lightning as pl

    return lightning(False, pl.Callback())


def scheduler() -> Timing:
    """Bare Lightning with LearningRateScheduler."""
    from lr_plugins import InverseTimeDecay, LearningRateScheduler

    decay = InverseTimeDecay(0.1, decay_steps=1, decay_rate=0.005)
    return lightning(False, LearningRateScheduler(decay, advice=False))


def digits() -> Timing:
    """The net and the data of the quick start, with Lightning alone."""
    import pytorch_lightning as pl
    import torch

    from lr_plugins.training.data import Digits
    from lr_plugins.training.models import CNN

    torch.manual_seed(SEED)
    data, loss = Digits(seed=SEED), torch.nn.CrossEntropyLoss()
    data.setup()
    net = CNN(data.input_shape, data.num_classes)

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def training_step(self, batch: Any, index: int) -> Any:
            return loss(self.net(batch[0]), batch[1])

        def validation_step(self, batch: Any, index: int) -> Any:
            return loss(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=0.002)

    trainer = pl.Trainer(max_epochs=10, accelerator="cpu", num_sanity_val_steps=0, **SILENT)
    return timed(lambda: trainer.fit(Module(), datamodule=data))


def quick_start() -> Timing:
    """The quick start in this process, as a user starts it."""
    return train_py("schedule=step_decay")


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
    "empty callback": empty_callback,
    "scheduler": scheduler,
    "ours": ours,
    "Keras": keras_fit,
    "Lightning on digits": digits,
    "quick start": quick_start,
}

JOBS = {
    "ours": ("torch", "Lightning", "Lightning with its own", "empty callback", "scheduler", "Keras"),
    "quick start": ("Lightning on digits",),
}
"""Ours -> the others that it is compared with."""

LIMITS = {
    ("Lightning", "fit"): 1.25,
    ("Keras", "fit"): 0.4,
    ("Keras", "process"): 0.6,
    ("Lightning on digits", "process"): 1.3,
}
"""(the other, seconds of what) -> the largest ratio of ours to it."""


# --- the parent ---------------------------------------------------------------------------------------------


def create_database(folder: Path) -> Path:
    """MLflow's database without runs."""
    code = "import mlflow; mlflow.MlflowClient('sqlite:///mlflow.db').search_experiments()"
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, capture_output=True)
    return folder / "mlflow.db"


def run_child(name: str, threads: int, database: Path | None) -> Timing:
    """One fresh process in a folder of its own, with a copy of the database."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "KERAS_BACKEND": "torch", "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    environment |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    environment.pop("MLFLOW_TRACKING_URI", None)  # a local file, whatever the user logs to
    with tempfile.TemporaryDirectory() as folder:
        if database is not None:
            shutil.copy(database, folder)
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
    print("\n| | fit, s (each) | fit, median s | fit, processor s | whole process, median s |")
    print("|---|---|---|---|---|")
    for name, runs in timings.items():
        each = ", ".join(f"{run['fit']:.2f}" for run in runs)
        medians = [statistics.median(run[what] for run in runs) for what in ("fit", "processor", "process")]
        print(f"| {name} | {each} | {' | '.join(f'{value:.2f}' for value in medians)} |")
    within = True
    for job, others in JOBS.items():
        print(f"\n| {job} / | fit: median (lowest to highest) | fit, processor | whole process | limits |")
        print("|---|---|---|---|---|")
        for name in others:
            cells, limits = [], []
            for what in ("fit", "processor", "process"):
                pairs = zip(timings[job], timings[name], strict=True)
                ratios = [mine[what] / other[what] for mine, other in pairs]
                median = statistics.median(ratios)
                cells.append(f"{median:.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
                if (name, what) in LIMITS:
                    limits.append(f"{what} {LIMITS[name, what]:g}")
                    within = within and median <= LIMITS[name, what]
            print(f"| {name} | {' | '.join(cells)} | {', '.join(limits)} |")
    pairs = zip(timings["scheduler"], timings["empty callback"], strict=True)
    more = [(one["processor"] - other["processor"]) / STEPS * 1e6 for one, other in pairs]
    each = ", ".join(f"{microseconds:.0f}" for microseconds in more)
    print(f"\nLearningRateScheduler over an empty callback, us a step: {statistics.median(more):.0f} ({each})")
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
    parser.add_argument("--new-database", action="store_true", help="have MLflow create its database within our fit")
    parser.add_argument("--child", choices=list(CHILDREN), help=argparse.SUPPRESS)
    parser.add_argument("--times", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        options.times.write_text(json.dumps(CHILDREN[options.child]()))
        return 0
    timings: dict[str, list[Timing]] = {name: [] for name in CHILDREN}
    with tempfile.TemporaryDirectory() as folder:
        database = None if options.new_database else create_database(Path(folder))
        for turn in range(options.repeats):
            for name, runs in timings.items():
                runs.append(run_child(name, options.threads, database))
                print(f"{turn + 1}/{options.repeats} {name}: fit {runs[-1]['fit']:.2f} s", flush=True)
    return 0 if report(timings) else 1


if __name__ == "__main__":
    sys.exit(main())
