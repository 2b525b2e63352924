"""See a learning rate before training: `lr-plugins preview schedule=warmup_cosine trainer.max_epochs=20`.

The words are those of `train.py`, and so is the configuration: nothing but that is read, no data, no model, no torch.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lr_plugins.errors import InvalidArgument
from lr_plugins.simulation.preview import Preview as Preview
from lr_plugins.simulation.preview import plot_all
from lr_plugins.simulation.preview import preview as preview


def main(arguments: Sequence[str]) -> None:
    """The command.

    Args:
        arguments: the words after `lr-plugins preview`.
    """
    options = _parser().parse_intermixed_args(list(arguments))
    if options.steps_per_epoch is not None and options.steps_per_epoch < 1:
        sys.exit(f"Error: --steps-per-epoch must be an integer >= 1; got {options.steps_per_epoch}.")
    try:
        from lr_plugins.training.cli import end_unread, explanation
    except ModuleNotFoundError as error:
        sys.exit(f'{error}. The configuration needs more than the library alone: pip install -e ".[train]"')
    folder = Path(options.conf) if options.conf else _conf()
    try:
        print(_answer(options, folder), flush=True)
    except BrokenPipeError:
        end_unread()
    except Exception as error:
        message = explanation(error, folder)
        if message is None:
            raise
        sys.exit(f"Error: {message}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lr-plugins preview", description=__doc__)
    add = parser.add_argument
    add("overrides", nargs="*", metavar="GROUP=OPTION, FIELD=VALUE", help="as for train.py")
    add("-m", "--multirun", action="store_true", help="several values of a field, schedule=cosine,linear: in one chart")
    metric = "assume that a metric which a schedule follows goes in straight lines from value to value: loss=2.3:0.1"
    add("--metric", action="append", default=[], metavar="NAME=COURSE", help=metric)
    steps = "optimizer steps of an epoch, for data of unknown size"
    add("--steps-per-epoch", type=int, metavar="N", help=steps)
    add("--png", metavar="FILE", help="draw it as a picture, too")
    add("--log", action="store_true", help="a logarithmic axis")
    add("--width", type=int, metavar="N", help="characters of a line, >= 40; default: the terminal's, or 80")
    add("--ascii", action="store_true", default=None, help="no characters beyond ASCII")
    conf = "the folder with train.yaml; default: conf in this folder, or else that of the package's own clone"
    add("--conf", metavar="FOLDER", help=conf)
    return parser


def _conf() -> Path:
    own = Path(__file__).resolve().parents[2] / "conf"
    return next((one for one in (Path("conf"), own) if (one / "train.yaml").is_file()), own)


def _answer(options: argparse.Namespace, folder: Path) -> str:
    from lr_plugins.simulation.page import side_by_side

    if not (folder / "train.yaml").is_file():
        hint = "It is part of a clone. In Python, lr_plugins.preview(schedule, steps_per_epoch=...) shows the same without one."
        raise InvalidArgument("--conf", str(folder), "a folder with train.yaml in it", hint)
    if options.width is not None and options.width < 40:
        raise InvalidArgument("--width", options.width, "an integer >= 40")
    previews = _previews(options, folder)
    (first, *others), how = previews.values(), (options.width, options.log, options.ascii)
    text = side_by_side(previews, *how) if others else first.page(*how)
    return text + (f"\n\npicture  {_drawn(options.png, previews)}" if options.png else "")


def _drawn(path: str, previews: Mapping[str, Preview]) -> Path:
    (first, *others) = previews.values()
    path = path if Path(path).suffix else f"{path}.png"
    try:
        return plot_all(previews, path) if others else first.plot(path)
    except (OSError, ValueError) as error:  # no such folder; an ending that is no kind of picture
        raise InvalidArgument("--png", path, f"a file to write a picture to ({error})") from error
    except ModuleNotFoundError as error:
        raise InvalidArgument("--png", path, "left out where matplotlib is not installed") from error


def _previews(options: argparse.Namespace, folder: Path) -> dict[str, Preview]:
    """The preview of each configuration that is asked for, by what tells it from the others."""
    from hydra import compose, initialize_config_dir

    from lr_plugins.simulation.metric_courses import read_course
    from lr_plugins.training.planned import preview_of_config

    metrics = dict(map(read_course, options.metric))
    found: dict[tuple[str, ...], Preview] = {}
    with initialize_config_dir(str(folder.resolve()), version_base="1.3"):
        for words, varied in _runs(options.overrides) if options.multirun else [(options.overrides, ())]:
            one = preview_of_config(compose("train", words), metrics, options.steps_per_epoch)
            if not any(_same(one, other) for other in found.values()):  # another seed changes nothing
                found[varied] = one
    tells = [len(set(column)) > 1 for column in zip(*found, strict=True)]
    return {", ".join(itertools.compress(varied, tells)): one for varied, one in found.items()}


def _runs(words: Sequence[str]) -> list[tuple[list[str], tuple[str, ...]]]:
    """For each run of a sweep its words, and those of them that the sweep varies."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_overrides(list(words))
    choices = [
        [f"{one.get_key_element()}={value}" for value in one.sweep_string_iterator()]
        if one.is_sweep_override()
        else [word]
        for word, one in zip(words, parsed, strict=True)
    ]
    swept = [one.is_sweep_override() for one in parsed]
    return [(list(run), tuple(itertools.compress(run, swept))) for run in itertools.product(*choices)]


def _same(one: Preview, other: Preview) -> bool:
    pairs = zip(one.lines, other.lines, strict=False)
    # Lengths in samples show in the values.
    runs = [each.run._replace(batch_size=None) for each in (one, other)]
    alike = len(one.lines) == len(other.lines) and runs[0] == runs[1]
    return alike and all(np.array_equal(mine.values, theirs.values) for mine, theirs in pairs)
