"""Resuming an interrupted run: from which checkpoint, and with which settings. Without torch, to answer at once."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from lr_plugins.checkpoint_names import LAST, PREVIOUS
from lr_plugins.errors import LearningRateError
from lr_plugins.training.settings import (
    KEY,
    key_of,
    quoted,
    read_settings,
    report_refused,
    run_folder,
    screened,
)

OUTPUTS = "outputs"
_OF_ENVIRONMENT = re.compile(r"\$\{oc\.env:([^,{}]+)(?:,([^{}]*))?\}")
_OF_A_FIELD = re.compile(r"\$\{(?:hydra:runtime\.choices\.)?([\w./]+)\}")
_OF_START = re.compile(r"\$\{hydra[:.]runtime\.cwd\}")
_INTERPOLATION = re.compile(r"\$\{(?:[^{}]|\{[^{}]*\})*\}")
_ANSWERS_ONLY = ("--help", "-h", "--hydra-help", "--cfg", "-c", "--info", "-i", "--version")


def continued(arguments: Sequence[str]) -> list[str]:
    """A command line that resumes a run: with the checkpoint's file, the run's folder and its settings.

    Without `ckpt_path`, or with `new_run=true`, the settings stay as they are; `ckpt_path=last` always becomes a file.
    Not everything in the settings file is adopted (`settings.screened`); the rest is reported.

    Args:
        arguments: the command line, without the program.

    Raises:
        LearningRateError: there is no checkpoint to resume from, or the settings beside it cannot be used.
    """
    given = _values(arguments)
    checkpoint = _unquoted(given.get("ckpt_path", ""))
    if checkpoint in ("", "null") or any(word.split("=")[0] in _ANSWERS_ONLY for word in arguments):
        return list(arguments)
    sweep = any(word in ("-m", "--multirun") for word in arguments)
    is_last = checkpoint == "last"
    if is_last:
        if sweep:
            raise LearningRateError("ckpt_path=last is ambiguous in a sweep: give the path of a checkpoint.")
        checkpoint = str(newest_checkpoint(given))
    rest = [word for word in arguments if key_of(word) != "ckpt_path"]
    resumed = f"ckpt_path={quoted(checkpoint)}"
    if sweep or _unquoted(given.get("new_run", "false")).lower() in ("true", "yes", "on", "1"):
        return [*rest, resumed]
    folder = Path(checkpoint).parent
    settings = read_settings(folder)
    before = screened(not_replaced(settings.overrides, rest), folder)
    report_refused(before.refused, folder)
    place = run_folder(settings, folder)
    if is_last and "${" in given.get("hydra.run.dir", ""):  # a template, not the folder of this run
        del given["hydra.run.dir"]
        rest = [word for word in rest if key_of(word) != "hydra.run.dir"]
    if "hydra.run.dir" not in given and place is not None:
        rest.append(f"hydra.run.dir={quoted(os.path.relpath(place))}")
    return [*before.taken, *rest, resumed]


def newest_checkpoint(given: dict[str, str], start: Path = Path()) -> Path:
    """The `last.ckpt` that was written last: below `output_dir` or `hydra.run.dir` if given, or else `outputs`.

    An interpolation in the path is replaced by the field's value on the command line; otherwise it matches anything.

    Args:
        given: the overrides of the command line, by field.
        start: the folder that the place is relative to. Default: the current one.

    Raises:
        LearningRateError: there is none.
    """
    place = next((given[name] for name in ("output_dir", "hydra.run.dir") if name in given), OUTPUTS)
    paths: list[Path] = []
    for folder in _folders(start, _unquoted(place), given):
        paths += [path for name in (LAST, PREVIOUS) for path in folder.glob(f"**/checkpoints/{name}")]
    if not paths:
        where = start.absolute() / _unquoted(place)
        raise LearningRateError(
            f"ckpt_path=last: there is no checkpoints/{LAST} below {where}. Leave ckpt_path out to start a new run."
        )
    newest = max(paths, key=lambda path: path.stat().st_mtime_ns)
    return newest.with_name(LAST)  # if only the previous one is left, it is found beside this name


def _folders(start: Path, place: str, given: dict[str, str]) -> list[Path]:
    """The folders that match a path, whose unknown interpolations match anything."""
    known = _OF_ENVIRONMENT.sub(lambda match: os.environ.get(match[1], match[2] or ""), place)
    known = _OF_A_FIELD.sub(lambda match: _unquoted(given.get(match[1], match[0])), known)
    pattern, end = "", 0
    for match in _INTERPOLATION.finditer(_OF_START.sub(str(start.absolute()), known)):
        pattern, end = f"{pattern}{glob.escape(match.string[end : match.start()])}*", match.end()
        if "/" in match[0]:  # several levels: match everything below
            break
    else:
        if not pattern:
            return [start / known]
        pattern += glob.escape(match.string[end:])
    return [Path(folder) for folder in glob.glob(str(start / pattern))]


def merged(before: Iterable[str], now: Sequence[str]) -> list[str]:
    """The overrides of a run combined with new ones, which take precedence.

    Example:
        >>> merged(["schedule=cosine", "schedule.power=2", "seed=3"], ["schedule=tanh"])
        ['seed=3', 'schedule=tanh']
    """
    return [*not_replaced(before, now), *now]


def not_replaced(before: Iterable[str], now: Sequence[str]) -> list[str]:
    """The overrides of a run that new ones do not replace."""
    fields = set(_values(now))

    def replaced(word: str) -> bool:
        key = key_of(word)
        # A newly chosen group has other fields.
        return key in fields or any(key.startswith(f"{field}.") for field in fields)

    return [word for word in before if not replaced(word)]


def _values(words: Iterable[str]) -> dict[str, str]:
    """The values of overrides, by field."""
    matches = (KEY.fullmatch(word) for word in words if not word.startswith("-"))
    return {match[2]: match[3] or "" for match in matches if match}


def _unquoted(value: str) -> str:
    value = value.strip()
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        return value[1:-1].replace(f"\\{value[0]}", value[0]).replace("\\\\", "\\")
    return value
