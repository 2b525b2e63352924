"""Going on with an interrupted run: which checkpoint, and with which settings; without torch, to answer at once."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lr_plugins.errors import InvalidArgument

LAST = "last.ckpt"
PREVIOUS = "previous.ckpt"
SETTINGS = "settings.json"  # beside the checkpoints: the overrides and the folder that the run was started with
OUTPUTS = "outputs"
_KEY = re.compile(r"(\+{0,2}|~)([\w./@-]+)(?:=(.*))?", re.DOTALL)
OF_A_START = ("ckpt_path", "new_run")  # said anew each time
_ANSWERS_ONLY = ("--help", "-h", "--hydra-help", "--cfg", "-c", "--info", "-i", "--version")


def continued(arguments: Sequence[str]) -> list[str]:
    """A command line that goes on with a run: with the checkpoint's file, the run's folder and its settings.

    Without `ckpt_path`, or with `new_run=true`, the settings stay as they are; `ckpt_path=last` becomes a file always.

    Args:
        arguments: the words after `train.py`.

    Raises:
        InvalidArgument: there is no checkpoint to go on from.
    """
    given = _values(arguments)
    checkpoint = _unquoted(given.get("ckpt_path", ""))
    if checkpoint in ("", "null") or any(word.split("=")[0] in _ANSWERS_ONLY for word in arguments):
        return list(arguments)
    sweep = any(word in ("-m", "--multirun") for word in arguments)
    if checkpoint == "last":
        if sweep:
            raise InvalidArgument(
                "ckpt_path", "last", "the path of a checkpoint in a sweep", "Several runs go on there."
            )
        checkpoint = str(newest_checkpoint(given))
    rest = [word for word in arguments if _key(word) != "ckpt_path"]
    found = f"ckpt_path={_quoted(checkpoint)}"
    if sweep or _unquoted(given.get("new_run", "false")).lower() in ("true", "yes", "on", "1"):
        return [*rest, found]
    settings = read_settings(Path(checkpoint).parent)
    if "hydra.run.dir" not in given and "folder" in settings:
        # Relative to the checkpoints: the folder of a run may have been moved.
        folder = os.path.relpath(Path(checkpoint).parent / settings["folder"])
        rest.append(f"hydra.run.dir={_quoted(folder)}")
    return [*merged(settings.get("overrides", ()), rest), found]


def newest_checkpoint(given: dict[str, str]) -> Path:
    """The `last.ckpt` that was written last: below `output_dir` or `hydra.run.dir` if given, or else `outputs`.

    Args:
        given: the overrides of the command line, by field.

    Raises:
        InvalidArgument: there is none.
    """
    place = next((given[name] for name in ("output_dir", "hydra.run.dir") if name in given), OUTPUTS)
    folder = Path(_unquoted(place))
    found = [path for name in (LAST, PREVIOUS) for path in folder.glob(f"**/checkpoints/{name}")]
    if not found:
        allowed = f"the path of a checkpoint where there is no checkpoints/{LAST} below {folder.absolute()}"
        raise InvalidArgument("ckpt_path", "last", allowed, "Leave ckpt_path out to begin a run.")
    newest = max(found, key=lambda path: path.stat().st_mtime_ns)
    return newest.with_name(LAST)  # where only the one before is left, that is found beside it


def merged(before: Iterable[str], now: Sequence[str]) -> list[str]:
    """The overrides of a run with those of now, which count where both set a field.

    Example:
        >>> merged(["schedule=cosine", "schedule.power=2", "seed=3"], ["schedule=tanh"])
        ['seed=3', 'schedule=tanh']
    """
    fields = set(_values(now))

    def replaced(word: str) -> bool:
        key = _key(word)
        # A group that is chosen anew has other fields.
        return key in fields or any(key.startswith(f"{field}.") for field in fields)

    return [*(word for word in before if not replaced(word)), *now]


def write_settings(folder: Path, overrides: Iterable[str], run_folder: str) -> None:
    """Note beside the checkpoints how the run was started.

    Args:
        folder: that of the checkpoints.
        overrides: the words of the command line.
        run_folder: Hydra's output folder.
    """
    kept = [word for word in overrides if _key(word) not in (*OF_A_START, "hydra.run.dir")]
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"overrides": kept, "folder": os.path.relpath(run_folder, folder)}, indent=2)
    partly = folder / f"{SETTINGS}.part"
    partly.write_text(text, encoding="utf-8")
    partly.replace(folder / SETTINGS)


def read_settings(folder: Path) -> dict[str, Any]:
    """What `write_settings` noted; empty where there is nothing."""
    try:
        found = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _values(words: Iterable[str]) -> dict[str, str]:
    """The values of overrides, by field."""
    matches = (_KEY.fullmatch(word) for word in words if not word.startswith("-"))
    return {match[2]: match[3] or "" for match in matches if match}


def _key(word: str) -> str:
    match = _KEY.fullmatch(word)
    return match[2] if match else ""


def _unquoted(value: str) -> str:
    value = value.strip()
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        return value[1:-1].replace(f"\\{value[0]}", value[0]).replace("\\\\", "\\")
    return value


def _quoted(value: str) -> str:
    """A value that Hydra's grammar takes as it is, whatever characters it has."""
    if re.fullmatch(r"[\w./:-]+", value):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
