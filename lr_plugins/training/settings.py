"""`settings.json` beside the checkpoints: how a run was started, and how much of that a resumed run adopts.

The file may come from a stranger, with the checkpoint. Only overrides that set a value or choose an option of a group
are adopted, so it cannot reach Hydra's own options or decide where anything is written. See SECURITY.md.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import stat
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lr_plugins.errors import LearningRateError
from lr_plugins.tracking.secrets import MASK, masked

SETTINGS = "settings.json"
CHECKPOINTS = "checkpoints"
TREES = ("outputs", "multirun")  # where the runs of the current folder are
OF_A_START = ("ckpt_path", "new_run")  # given anew at each start
KEY = re.compile(r"(\+{0,2}|~)([\w./@:-]+)(?:=(.*))?", re.DOTALL)
_PLACES_OF_A_RUN = ("output_dir", "hydra.run.dir")
_LARGEST = 2**18  # bytes
_SHOWN, _LONGEST = 8, 120  # words in a warning, and characters of each
_OPTION = re.compile(r"[\w-]+(/[\w-]+)*")
_PLACE = re.compile("dir|path|root|folder|file|uri|url|location|weights|cache|module|target|plugin", re.IGNORECASE)
_LOOKS_LIKE_A_PLACE = re.compile(r"[/\\]|^~|^\.\.?$")


@dataclass(frozen=True)
class Settings:
    """What a `settings.json` has.

    Args:
        overrides: those on the command line that started the run.
        folder: the run's folder, relative to that of the checkpoints; None if unknown.
        is_there: whether there is a file at all. Default True.
    """

    overrides: tuple[str, ...] = ()
    folder: str | None = None
    is_there: bool = True


@dataclass
class Screened:
    """The overrides of a file, sorted.

    Args:
        taken: those that the resumed run adopts.
        refused: the others.
    """

    taken: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


def write_settings(folder: Path, overrides: Iterable[str], run_folder: str) -> None:
    """Record beside the checkpoints how the run was started, with passwords as `***`.

    Args:
        folder: that of the checkpoints.
        overrides: those on the command line.
        run_folder: Hydra's output folder.
    """
    kept = [masked_overrides(word) for word in overrides if key_of(word) not in (*OF_A_START, "hydra.run.dir")]
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"overrides": kept, "folder": os.path.relpath(run_folder, folder)}, indent=2)
    partly = folder / f"{SETTINGS}.part"
    partly.unlink(missing_ok=True)  # a link would be followed
    partly.write_text(text, encoding="utf-8")
    partly.replace(folder / SETTINGS)


def read_settings(folder: Path) -> Settings:
    """What `write_settings` has recorded.

    Args:
        folder: that of the checkpoints.

    Raises:
        LearningRateError: there is a file, and `write_settings` did not write it.
    """
    file = folder / SETTINGS
    try:
        about = file.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return Settings(is_there=False)
    except (OSError, ValueError) as error:
        raise _unusable(file, f"it cannot be read ({_short(error)})") from None
    if not stat.S_ISREG(about.st_mode):
        kind = "a folder" if stat.S_ISDIR(about.st_mode) else "a link" if stat.S_ISLNK(about.st_mode) else "not a file"
        raise _unusable(file, f"it is {kind}")
    if about.st_size > _LARGEST:
        raise _unusable(file, f"it has {about.st_size} bytes, and at most {_LARGEST} are allowed")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise _unusable(file, f"it cannot be read ({_short(error)})") from None
    except (ValueError, RecursionError) as error:
        raise _unusable(file, f"it is not JSON ({_short(error)})") from None
    if not isinstance(content, dict):
        raise _unusable(file, f"it is a JSON {type(content).__name__}, not an object")
    overrides, run_folder = content.get("overrides", []), content.get("folder")
    if not isinstance(overrides, list) or not all(isinstance(word, str) for word in overrides):
        raise _unusable(file, "its overrides are not a list of strings")
    if not (run_folder is None or isinstance(run_folder, str)):
        raise _unusable(file, "its folder is not a string")
    for text in (*overrides, run_folder or ""):
        if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
            raise _unusable(file, f"it has characters that no command line can have ({_shown(text)})")
    return Settings(tuple(overrides), run_folder)


def screened(words: Iterable[str], folder: Path) -> Screened:
    """Which overrides of a `settings.json` are adopted, and which are not.

    Never adopted are options of the command line (`--config-dir=...`), `hydra.` and `hydra/`, the place of the run
    (`output_dir`), interpolations (`${...}`), keywords of Hydra such as `_target_`, and passwords shown as `***`. Other
    paths, and functions by their names, are adopted only from the user's own runs (see `is_own`).

    Args:
        words: the overrides.
        folder: that of the checkpoints, with the file.

    Raises:
        LearningRateError: Hydra cannot read one of them.
    """
    words, result = list(words), Screened()
    own = bool(words) and is_own(folder)
    for word in words:
        (result.taken if _is_taken(word, own, folder) else result.refused).append(word)
    result.refused = [word for word in result.refused if not _is_implied(word, folder)]
    return result


def is_own(folder: Path) -> bool:
    """Whether the settings beside checkpoints are those of a run of the current user in the current folder.

    Args:
        folder: that of the checkpoints.
    """
    if not any(folder.resolve().is_relative_to(Path(tree).resolve()) for tree in TREES):
        return False
    user = os.geteuid() if hasattr(os, "geteuid") else None
    about = [path.stat() for path in (folder, folder / SETTINGS)]
    return all((user is None or entry.st_uid == user) and not entry.st_mode & stat.S_IWOTH for entry in about)


def run_folder(settings: Settings, folder: Path) -> Path | None:
    """The folder of the run that the checkpoints belong to; None if their place does not tell.

    The file is trusted only with a folder above the checkpoints, within the runs of the current folder.

    Args:
        settings: what is beside the checkpoints.
        folder: that of the checkpoints.
    """
    if not settings.is_there:
        return None
    parts = Path(settings.folder or "").parts
    if parts and set(parts) == {".."} and is_own(folder):
        run = folder.resolve().joinpath(*parts).resolve()
        if any(run != Path(tree).resolve() and run.is_relative_to(Path(tree).resolve()) for tree in TREES):
            return folder / settings.folder if settings.folder is not None else None
    return folder / ".." if folder.resolve().name == CHECKPOINTS else None


def report_refused(refused: Sequence[str], folder: Path) -> None:
    """Report on stderr which overrides were not adopted, and how to give them again.

    Args:
        refused: the overrides.
        folder: that of the checkpoints.
    """
    if not refused or any(os.environ.get(name, "0") != "0" for name in ("LOCAL_RANK", "SLURM_PROCID")):
        return
    shown = [_shown(word) for word in refused[:_SHOWN]]
    more = f" and {len(refused) - _SHOWN} more" if len(refused) > _SHOWN else ""
    ways = "repeat on the command line those that should apply"
    if any(_is_masked(word) for word in refused):
        ways += (
            f"; the password {MASK} was not stored: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
            "MLFLOW_TRACKING_URI"
        )
    print(f"Warning: {_shown(str(folder / SETTINGS))} also has {', '.join(shown)}{more}, which a resumed run does not "
          f"take from a file: {ways}.", file=sys.stderr, flush=True)  # fmt: skip


def masked_overrides(text: str) -> str:
    r"""Lines of overrides with their passwords masked, also where Hydra has put a backslash before each colon.

    Example:
        >>> print(masked_overrides(r"a.b=http\://me\:secret@host"))
        a.b=http://me:***@host
    """
    lines = masked(text).split("\n")
    for index, line in enumerate(lines):
        plain = re.sub(r"\\(.)", r"\1", line)
        if masked(plain) != plain:
            lines[index] = masked(plain)
    return "\n".join(lines)


def key_of(word: str) -> str:
    """The field or group of an override; empty where it has none."""
    match = KEY.fullmatch(word)
    return match[2] if match else ""


def quoted(value: str) -> str:
    """A value quoted for Hydra's grammar, whatever characters it has."""
    if re.fullmatch(r"[\w./:-]+", value):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


# --- one word -------------------------------------------------------------------------------------------------


def _is_taken(word: str, own: bool, folder: Path) -> bool:
    if word.startswith("-"):
        return False
    override = _parsed(word, folder)
    name = override.key_or_group + (f"@{override.package}" if override.package is not None else "")
    parts = re.split(r"[./@:]", name)
    if not all(parts) or "hydra" in parts or name in (*OF_A_START, *_PLACES_OF_A_RUN):
        return False
    if override.is_sweep_override() or "${" in word or _is_masked(word):
        return False
    keys, texts = set(parts), list[str]()
    try:
        _collect(override.value(), keys, texts)
    except (TypeError, RecursionError):  # of a kind that only Hydra knows
        return False
    if any(key.startswith("_") for key in keys - {"_global_"}):
        return False
    if "." not in override.key_or_group and not all(_OPTION.fullmatch(text) for text in texts):
        return False  # it may be a group, whose option Hydra looks for as a file
    places = any(map(_PLACE.search, keys)) or any(map(_LOOKS_LIKE_A_PLACE.search, texts))
    return own or not (places or override.package is not None)


def _parsed(word: str, folder: Path) -> Any:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_override(word)
    except (HydraException, RecursionError, ValueError):
        raise _unusable(folder / SETTINGS, f"Hydra cannot read the override {_shown(word)}") from None


def _collect(value: Any, keys: set[str], texts: list[str]) -> None:
    """Add the keys and the texts in a value."""
    if isinstance(value, dict):
        keys.update(map(str, value))
        for item in value.values():
            _collect(item, keys, texts)
    elif isinstance(value, list):
        for item in value:
            _collect(item, keys, texts)
    elif isinstance(value, str):
        texts.append(value)
    elif not (value is None or isinstance(value, (bool, int, float))):
        raise TypeError(type(value).__name__)


def _is_masked(word: str) -> bool:
    return f":{MASK}@" in word


def _is_implied(word: str, folder: Path) -> bool:
    """Whether it is the run's folder, which is known without it."""
    match = KEY.fullmatch(word)
    if match is None or match[2] != "output_dir" or folder.resolve().name != CHECKPOINTS:
        return False
    return Path((match[3] or "").strip("'\"")).resolve() == folder.resolve().parent


def _shown(text: str) -> str:
    """A text for the console: without control characters and passwords, shortened, and quoted for a shell."""
    plain = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in masked(text))
    return shlex.quote(plain if len(plain) <= _LONGEST else f"{plain[:_LONGEST]}...")


def _short(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__)[:_LONGEST]


def _unusable(file: Path, what: str) -> LearningRateError:
    place = _shown(str(file)).strip("'")
    return LearningRateError(f"{place} cannot be used: {what}. Delete it, and give the settings on the command line.")
