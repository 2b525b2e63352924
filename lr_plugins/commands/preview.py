"""See a learning rate before training: `lr-plugins preview schedule=warmup_cosine trainer.max_epochs=20`.

The overrides and the configuration are those of `lr-plugins train` and `python train.py`. Only the configuration is
read: no data and no model, and torch is not imported.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lr_plugins.errors import InvalidArgumentError, LearningRateError
from lr_plugins.simulation.preview import Preview, plot_all
from lr_plugins.training.entry_point import conf_folder, install_extra


def main(arguments: Sequence[str]) -> None:
    """Run the command.

    Args:
        arguments: the words after `lr-plugins preview`.
    """
    options = _parser().parse_intermixed_args(list(arguments))
    if options.steps_per_epoch is not None and options.steps_per_epoch < 1:
        sys.exit(f"Error: --steps-per-epoch must be an integer >= 1; got {options.steps_per_epoch}.")
    try:
        from lr_plugins.training.cli import explained
    except ModuleNotFoundError as error:
        sys.exit(f"lr-plugins preview needs {error.name}, which is not installed: {install_extra('train')}")
    folder = Path(options.conf) if options.conf else _conf()
    with explained(folder):
        print(_answer(options, folder), flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lr-plugins preview", description=__doc__)
    add = parser.add_argument
    add("overrides", nargs="*", metavar="GROUP=OPTION, FIELD=VALUE", help="as for lr-plugins train")
    add(
        "-m",
        "--multirun",
        action="store_true",
        help="compare several values of a field in one chart: schedule=cosine,linear",
    )
    metric = (
        "the assumed course of a metric that a schedule monitors, in straight lines from value to value: loss=2.3:0.1"
    )
    add("--metric", action="append", default=[], metavar="NAME=COURSE", help=metric)
    steps = "optimizer steps of an epoch, for data of unknown size"
    add("--steps-per-epoch", type=int, metavar="N", help=steps)
    add("--png", metavar="FILE", help="also draw a picture")
    add("--log", action="store_true", help="a logarithmic axis")
    add("--width", type=int, metavar="N", help="characters of a line, >= 40; default: the terminal's, or 80")
    add("--ascii", action="store_true", default=None, help="no characters beyond ASCII")
    conf = "the folder with train.yaml; default: conf in this folder, or else that of lr-plugins train"
    add("--conf", metavar="FOLDER", help=conf)
    return parser


def _conf() -> Path:
    """The folder `conf` where the command is run, or else that of `lr-plugins train`."""
    here = Path("conf")
    return here if (here / "train.yaml").is_file() else conf_folder()


def _answer(options: argparse.Namespace, folder: Path) -> str:
    from lr_plugins.simulation.page import side_by_side

    if not (folder / "train.yaml").is_file():
        hint = "Without --conf, it is that of lr-plugins train. In Python, lr_plugins.preview(schedule) needs none."
        raise InvalidArgumentError("--conf", str(folder), "a folder with train.yaml in it", hint)
    if options.width is not None and options.width < 40:
        raise InvalidArgumentError("--width", options.width, "an integer >= 40")
    previews = _previews(options, folder)
    (first, *others), how = previews.values(), (options.width, options.log, options.ascii)
    text = side_by_side(previews, *how) if others else first.page(*how)
    return text + (f"\n\npicture  {_drawn(options.png, previews)}" if options.png else "")


def _drawn(path: str, previews: Mapping[str, Preview]) -> Path:
    (first, *others) = previews.values()
    path = path if Path(path).suffix else f"{path}.png"
    try:
        return plot_all(previews, path) if others else first.plot(path)
    except (OSError, ValueError) as error:  # a missing folder, or an unknown format
        raise InvalidArgumentError("--png", path, f"a file to write a picture to ({error})") from error
    except ModuleNotFoundError as error:
        raise LearningRateError(
            f"--png needs {error.name}, which is not installed: {install_extra('train')}"
        ) from error


def _previews(options: argparse.Namespace, folder: Path) -> dict[str, Preview]:
    """The preview of each configuration that is asked for, by the overrides that distinguish it."""
    from hydra import compose, initialize_config_dir

    from lr_plugins.simulation.metric_courses import read_course
    from lr_plugins.training.planned import preview_of_config

    metrics = dict(map(read_course, options.metric))
    previews: dict[tuple[str, ...], Preview] = {}
    with initialize_config_dir(str(folder.resolve()), version_base="1.3"):
        for overrides, swept in _runs(options.overrides) if options.multirun else [(options.overrides, ())]:
            preview = preview_of_config(compose("train", overrides), metrics, options.steps_per_epoch)
            if not any(_same(preview, other) for other in previews.values()):  # another seed changes nothing
                previews[swept] = preview
    differs = [len(set(column)) > 1 for column in zip(*previews, strict=True)]
    return {", ".join(itertools.compress(swept, differs)): preview for swept, preview in previews.items()}


def _runs(overrides: Sequence[str]) -> list[tuple[list[str], tuple[str, ...]]]:
    """The overrides of each run of a sweep, and those of them that the sweep varies."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_overrides(list(overrides))
    choices = [
        [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
        if override.is_sweep_override()
        else [text]
        for text, override in zip(overrides, parsed, strict=True)
    ]
    swept = [override.is_sweep_override() for override in parsed]
    return [(list(run), tuple(itertools.compress(run, swept))) for run in itertools.product(*choices)]


def _same(preview: Preview, other: Preview) -> bool:
    """Whether two previews show the same; lengths in samples show in the values."""
    runs = [each.run._replace(batch_size=None) for each in (preview, other)]
    if runs[0] != runs[1] or len(preview.lines) != len(other.lines):
        return False
    pairs = zip(preview.lines, other.lines, strict=True)
    return all(np.array_equal(line.values, counterpart.values) for line, counterpart in pairs)
