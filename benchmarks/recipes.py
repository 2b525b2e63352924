"""Do the Iris recipes end as the same experiments end in Keras? Shares of their outcomes over many seeds.

One run proves nothing here: the same recipe trains a net, merges two classes or kills every hidden unit, depending on
the initial weights and the batch order. So each recipe runs with N seeds, and the shares of its outcomes are compared
with those of 1000 seeds in real Keras 3.15 (torch backend). A band holds the shares that 99 of 100 correct
implementations would show with N seeds.

Two engines do the same arithmetic with the same configuration, data, model, loss, optimizer and schedule:
`lightning` is the main job itself (`lr_plugins.training.run.train`), `loop` a plain torch loop, which takes about half
the time. Before the loop is used, both run a few seeds, and their weights must agree bit for bit.

    python benchmarks/recipes.py
    python benchmarks/recipes.py --seeds 10 --experiment iris_exponential constant_0.1 --engine lightning

`--epochs` shortens the runs, to check in a minute that every recipe runs and that the engines agree. The shares of
shorter runs have no bands.

Exit status: 0, or 1 when a share lies outside its band or the engines disagree.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import io
import json
import math
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"
sys.path.insert(0, str(ROOT))  # like train.py, this runs from a checkout without installing it; in the workers, too
SOURCE = "1000 seeds in real Keras 3.15 (torch backend)"
SOURCE_SEEDS = 1000
CONFIDENCE = 0.99
LIGHTNING_UP_TO = 10  # seeds for which `--engine auto` takes the main job itself

INVERSE_FROM_001 = ["experiment=iris_inverse_time", "schedule.initial_learning_rate=0.01", "optimizer.lr=0.01"]
RECIPES: dict[str, list[str]] = {
    "iris_inverse_time": ["experiment=iris_inverse_time"],
    "iris_exponential": ["experiment=iris_exponential"],
    "iris_step": ["experiment=iris_step"],
    "iris_loss_driven": ["experiment=iris_loss_driven"],
    "constant": ["experiment=iris"],
    "inverse_time_from_0.01": INVERSE_FROM_001,
    # Beside the articles' own: what their conclusions depend on.
    "constant_0.1": ["experiment=iris", "optimizer.lr=0.1"],
    "exponential_drop_0.5": ["experiment=iris_exponential", "schedule.function.drop=0.5"],
    "inverse_time_standardized": ["experiment=iris_inverse_time", "data.standardize=true"],
    "exponential_standardized": ["experiment=iris_exponential", "data.standardize=true"],
    "inverse_time_from_0.01_torch_momentum": [*INVERSE_FROM_001, "optimizer=sgd"],
    "inverse_time_from_0.01_torch_initializer": [*INVERSE_FROM_001, "model.initializer=torch"],
    "inverse_time_from_0.01_unshuffled": [*INVERSE_FROM_001, "data.shuffle=false"],
}

ENDINGS = ("below 0.7", "half", "dead", "trained")  # "below 0.7": accuracy; the others in the words of `ending`
# Bands for 100 seeds, and how many of the 1000 seeds ended so. The second column is what the bands for another number
# of seeds are made of; where only a band is known ("below 0.7"), it is the count whose band for 100 seeds is that one.
EXPECTED: dict[str, dict[str, tuple[tuple[int, int], int]]] = {
    "iris_inverse_time": {
        "below 0.7": ((98, 100), 998), "half": ((4, 20), 109), "dead": ((79, 96), 886), "trained": ((0, 2), 1),
    },
    "iris_exponential": {
        "below 0.7": ((25, 51), 377), "half": ((0, 4), 6), "dead": ((11, 33), 210), "trained": ((18, 42), 296),
    },
    "iris_step": {
        "below 0.7": ((99, 100), 1000), "half": ((2, 17), 83), "dead": ((82, 98), 910), "trained": ((0, 1), 0),
    },
    "constant": {
        "below 0.7": ((30, 57), 434), "half": ((9, 30), 187), "dead": ((13, 36), 242), "trained": ((32, 59), 456),
    },
    "iris_loss_driven": {
        "below 0.7": ((76, 95), 864), "half": ((9, 30), 191), "dead": ((48, 74), 613), "trained": ((4, 20), 109),
    },
    "inverse_time_from_0.01": {
        "below 0.7": ((15, 38), 259), "half": ((0, 8), 24), "dead": ((13, 35), 233), "trained": ((61, 85), 734),
    },
}  # fmt: skip


# --- one run ------------------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """How one run ended: mean loss and accuracy over its last epoch, as the console's last line shows them."""

    recipe: str
    seed: int
    loss: float
    accuracy: float
    weights: str  # digest of all weights
    first_weights: str
    first_order: str
    spread: float  # largest difference between the net's outputs for two samples

    @property
    def ending(self) -> str:
        return ending(self.loss, self.accuracy)


def ending(loss: float, accuracy: float) -> str:
    """How a run ended, by its last epoch's mean loss and accuracy.

    `trained`; `half`: two classes merged, loss 2/3 ln 2; `dead`: constant output, loss ln 3; `frozen`: one class for
    certain, where the clipped loss (2/3 of 16.118) has no gradient, or no number at all; `other`: anything between.
    """
    if accuracy >= 0.95:
        return "trained"
    # The net moves within the epoch, so its mean accuracy is below the 2/3 that it has when it stands still.
    if abs(loss - math.log(2) * 2 / 3) < 0.02 and abs(accuracy - 2 / 3) < 0.1:
        return "half"
    # At a constant 0.1 the biases of a dead net go on moving, and its loss stays above ln 3.
    if abs(loss - math.log(3)) < 0.05:
        return "dead"
    return "other" if loss < 5 else "frozen"


def configuration(recipe: str, seed: int, epochs: int | None, folder: str) -> Any:
    """The recipe's Hydra configuration, with nothing that prints, logs or writes files."""
    from hydra import compose, initialize_config_dir

    quiet = [
        "logger=none",
        "callbacks.progress=null",
        "callbacks.trace=null",
        "callbacks.checkpoint=null",
        "callbacks.last_checkpoint=null",
        "callbacks.scheduler.advice=false",
    ]
    own = [f"seed={seed}", "verbose=0", f"output_dir={folder}", "+trainer.enable_checkpointing=false"]
    own += [] if epochs is None else [f"trainer.max_epochs={epochs}"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", overrides=[*RECIPES[recipe], *quiet, *own])


def through_lightning(config: Any) -> tuple[Any, float, float]:
    """The main job itself: its module, and loss and accuracy of the last epoch."""
    from lr_plugins.training.run import train

    with contextlib.redirect_stdout(io.StringIO()):
        run = train(config)
    return run.module, run.history["loss"][-1], run.history["acc"][-1]


def through_loop(config: Any) -> tuple[Any, float, float]:
    """The same pieces in a plain loop: its module, and loss and accuracy of the last epoch."""
    from hydra.utils import instantiate

    from lr_plugins import RunLength
    from lr_plugins.schedules.observation import BEGIN, EPOCH, Observation
    from lr_plugins.training.classifier import EpochMean

    data, module = assemble(config)
    optimizer = module.configure_optimizers()
    schedule, mean = instantiate(config.schedule), EpochMean()
    state, measures = schedule.start(), instantiate(config.callbacks.scheduler.measure)
    batches, epochs = data.train_dataloader(), config.trainer.max_epochs
    run = RunLength.of(len(batches), epochs)
    trainer = instantiate(config.trainer, logger=False)  # trains nothing: it is what a measure is called with
    trainer.datamodule = data
    step = 0
    for epoch in range(epochs):
        measured = {name: measure(trainer, module) for name, measure in measures.items()}
        if state is not None:
            start = run.position(step, optimizer.defaults["lr"])
            for observation in (Observation(EPOCH, measured), Observation(BEGIN)):
                state = schedule.observe(state, start, observation)
        mean.reset()
        for x, y in batches:
            learning_rate = schedule(run.position(step, optimizer.defaults["lr"]), state)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
            optimizer.zero_grad()
            logits = module(x)
            loss = module.loss(logits, y)
            loss.backward()
            optimizer.step()
            step += 1
            if epoch == epochs - 1:
                mean.add(loss, logits, y)
    sums = mean.state_dict()
    return module, sums["sums"][0] / sums["samples"], sums["sums"][1] / sums["samples"]


ENGINES: dict[str, Callable[[Any], tuple[Any, float, float]]] = {
    "lightning": through_lightning,
    "loop": through_loop,
}


def assemble(config: Any) -> tuple[Any, Any]:
    """Data and module, with the random numbers drawn in the order of the main job."""
    import pytorch_lightning as pl
    from hydra.utils import instantiate

    from lr_plugins.training.classifier import Classifier

    pl.seed_everything(config.seed, workers=True, verbose=False)
    data = instantiate(config.data)
    data.setup("fit")
    net = instantiate(config.model, input_shape=data.input_shape, num_classes=data.num_classes)
    return data, Classifier(net, loss=instantiate(config.loss), optimizer=instantiate(config.optimizer))


def digest(tensors: Sequence[Any]) -> str:
    """A short text that differs where one bit differs."""
    return hashlib.sha256(b"".join(tensor.detach().numpy().tobytes() for tensor in tensors)).hexdigest()[:16]


def run_one(engine: str, recipe: str, epochs: int | None, seed: int) -> Outcome:
    """Run a recipe with one seed."""
    from lr_plugins.errors import TrainingError

    with tempfile.TemporaryDirectory() as folder:
        config = configuration(recipe, seed, epochs, folder)
        data, start = assemble(config)
        first = digest(list(start.parameters())), digest([x for x, _ in data.train_dataloader()])
        try:
            module, loss, accuracy = ENGINES[engine](config)
        except TrainingError:
            # The loss is no number, so no learning rate follows from it. Such weights always give the first class.
            return Outcome(recipe, seed, math.inf, 1 / 3, "not a number", *first, math.nan)
        loss = loss if math.isfinite(loss) else math.inf
    return Outcome(recipe, seed, loss, accuracy, digest(list(module.parameters())), *first, output_spread(module, data))


def output_spread(module: Any, data: Any) -> float:
    """0 for a net whose hidden units are all dead: it says the same of every sample."""
    import torch

    with torch.no_grad():
        probabilities = torch.cat([module(x) for x, _ in data.evaluation_dataloader()]).softmax(-1)
    return float((probabilities.amax(0) - probabilities.amin(0)).max())


# --- many runs ----------------------------------------------------------------------------------------------


def start_worker() -> None:
    """One thread each: the nets are far too small to share."""
    import torch

    from lr_plugins.training.console import quiet

    quiet()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")


def run_all(
    pool: ProcessPoolExecutor, engine: str, recipe: str, epochs: int | None, seeds: Sequence[int]
) -> list[Outcome]:
    """Run a recipe with every seed, and make sure that no two runs start alike."""
    outcomes = list(pool.map(functools.partial(run_one, engine, recipe, epochs), seeds))
    shuffled = "unshuffled" not in recipe
    for what in ("first_weights", "first_order") if shuffled else ("first_weights",):
        if len({getattr(outcome, what) for outcome in outcomes}) < len(seeds):
            sys.exit(f"{recipe}: two seeds have the same {what.replace('_', ' ')}")
    return outcomes


def engines_agree(pool: ProcessPoolExecutor, recipes: Sequence[str], epochs: int | None, seeds: Sequence[int]) -> bool:
    """Whether both engines end with the same bits; prints a line per recipe."""
    agree = True
    for recipe in recipes:
        one, other = (run_all(pool, engine, recipe, epochs, seeds) for engine in ENGINES)
        same = [a.weights == b.weights for a, b in zip(one, other, strict=True)]
        metrics = all(
            math.isclose(a.loss, b.loss, rel_tol=1e-6) and math.isclose(a.accuracy, b.accuracy, rel_tol=1e-6)
            for a, b in zip(one, other, strict=True)
        )
        print(
            f"loop = lightning? {recipe}: weights after the run equal bit for bit in {sum(same)} of {len(seeds)} seeds,"
            f" loss and accuracy of the last epoch {'equal' if metrics else 'DIFFERENT'}",
            flush=True,
        )
        agree = agree and all(same) and metrics
    return agree


def count(outcomes: Sequence[Outcome], kind: str) -> int:
    """How many runs ended so."""
    if kind == "below 0.7":
        return sum(outcome.accuracy < 0.7 for outcome in outcomes)
    return sum(outcome.ending == kind for outcome in outcomes)


def band(recipe: str, kind: str, seeds: int) -> tuple[int, int]:
    """Counts among `seeds` seeds that 99 of 100 correct implementations stay within.

    The count of N seeds is binomial, with a probability that is itself only known from 1000 seeds: together a
    beta-binomial distribution (Jeffreys' prior), which has an exact interval. For 100 seeds it gives the bands of the
    table.
    """
    from scipy.stats import betabinom

    of_source = EXPECTED[recipe][kind][1]
    distribution = betabinom(seeds, of_source + 0.5, SOURCE_SEEDS - of_source + 0.5)
    tail = (1 - CONFIDENCE) / 2
    return int(distribution.ppf(tail)), int(distribution.ppf(1 - tail))


# --- report -------------------------------------------------------------------------------------------------


def percentile(values: Sequence[float], share: float) -> float:
    """The value with a `share` of the others below it; infinite ones count as the largest."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
    return low if low == high else low + (high - low) * (place - math.floor(place))


def row(recipe: str, outcomes: Sequence[Outcome], has_bands: bool) -> tuple[str, bool]:
    """A line of the table, and whether all shares lie in their bands."""
    losses = " / ".join(f"{percentile([o.loss for o in outcomes], share):.3f}" for share in (0.1, 0.5, 0.9))
    cells, fits = [], True
    for kind in ENDINGS:
        found = count(outcomes, kind)
        if not has_bands:
            cells.append(f"{found}")
            continue
        low, high = band(recipe, kind, len(outcomes))
        inside = low <= found <= high
        fits = fits and inside
        cells.append(f"{found} ({low}-{high})" + ("" if inside else " **outside**"))
    accuracy = statistics.fmean(outcome.accuracy for outcome in outcomes)
    verdict = "no bands" if not has_bands else "yes" if fits else "NO"
    others = " / ".join(str(count(outcomes, kind)) for kind in ("frozen", "other"))
    return f"| {recipe} | {losses} | {accuracy:.3f} | {' | '.join(cells)} | {others} | {verdict} |", fits


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=100, help="how many, from --first-seed on (default 100)")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument(
        "--experiment", nargs="+", choices=list(RECIPES), default=list(EXPECTED), metavar="RECIPE",
        help=f"default: those with bands. All: {', '.join(RECIPES)}",
    )  # fmt: skip
    parser.add_argument("--engine", choices=["auto", *ENGINES], default="auto")
    parser.add_argument("--epochs", type=int, help="of each run, without bands (default: those of the recipe)")
    parser.add_argument("--check-seeds", type=int, default=2, help="seeds on which the engines are compared")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=Path, help="write every run's outcome to this file")
    return parser.parse_args()


@contextlib.contextmanager
def workers(processes: int) -> Iterator[ProcessPoolExecutor]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=start_worker) as pool:
        yield pool


def main() -> int:
    options = arguments()
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    engine = options.engine
    if engine == "auto":
        engine = "lightning" if options.seeds <= LIGHTNING_UP_TO else "loop"
    outcomes: list[Outcome] = []
    start = time.perf_counter()
    with workers(options.processes) as pool:
        checked = seeds[: options.check_seeds]
        if engine == "loop" and not engines_agree(pool, options.experiment, options.epochs, checked):
            return 1
        bands = f"In brackets: 99 % bands of the counts, from {SOURCE}."
        short = f"Runs of {options.epochs} epochs, whose shares have no bands."
        print(f"\n{len(seeds)} seeds, engine {engine}. {bands if options.epochs is None else short}\n")
        print(f"| recipe | loss p10 / p50 / p90 | acc mean | {' | '.join(ENDINGS)} | frozen / other | in the bands |")
        print("|---|---|---|" + "---|" * (len(ENDINGS) + 2), flush=True)
        all_fit = True
        for recipe in options.experiment:
            ended = run_all(pool, engine, recipe, options.epochs, seeds)
            line, fits = row(recipe, ended, has_bands=recipe in EXPECTED and options.epochs is None)
            print(line, flush=True)
            outcomes, all_fit = outcomes + ended, all_fit and fits
    print(f"\n{time.perf_counter() - start:.0f} s; no two seeds of a recipe had the same first weights or batch order.")
    if options.json:
        options.json.write_text(json.dumps([{**asdict(o), "ending": o.ending} for o in outcomes], indent=1))
    return 0 if all_fit else 1


if __name__ == "__main__":
    sys.exit(main())
