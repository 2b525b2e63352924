"""Hydra's command line, with errors reported in a sentence instead of a traceback."""

from __future__ import annotations

import difflib
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from lr_plugins.errors import LearningRateError, shortened, shown
from lr_plugins.tracking.secrets import masked
from lr_plugins.training import sweep
from lr_plugins.training.credentials import hide
from lr_plugins.training.entry_point import install_extra
from lr_plugins.training.resume import continued

_EXTRAS = {"hydra/launcher/joblib": "train", "hydra/launcher/submitit": "slurm", "hydra/sweeper/optuna": "optuna"}
"""The plugins of Hydra that an extra brings."""

_LONGEST = 4000
"""Characters of a message; some of Hydra's list all options of a group."""


def readable_errors(main: Callable[[], Any], config_dir: str | Path, arguments: Sequence[str] | None = None) -> None:
    """Run a Hydra main; report a user's error in one message on stderr and exit with status 1.

    Other errors keep their traceback, and all of them do with HYDRA_FULL_ERROR=1. Ctrl-C exits with 130. What `main`
    returns reaches Hydra's sweepers.

    Args:
        main: the function that `hydra.main` made.
        config_dir: the folder of its configuration.
        arguments: the command line, without the program. Default: that of this process.
    """
    before, full = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    arguments = before[1:] if arguments is None else arguments
    if full == "1":  # as Hydra reads it
        sys.argv = [before[0], *continued(hide(arguments))]
        main()
        return
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing and exiting itself
    try:
        with explained(config_dir, "\nError"):
            sys.argv = [before[0], *continued(hide(arguments))]  # Hydra reads them there
            main()
    except KeyboardInterrupt as interruption:
        sweep.interrupted = True
        sys.last_value = interruption  # as Python sets it; exit handlers look there
        sys.exit(130)
    finally:
        sys.argv = before
        os.environ.pop("HYDRA_FULL_ERROR", None)
        if full is not None:
            os.environ["HYDRA_FULL_ERROR"] = full


@contextmanager
def explained(config_dir: str | Path, begin: str = "Error") -> Iterator[None]:
    """Report a user's error in one message on stderr, without a password in it, and exit with status 1.

    Args:
        config_dir: the folder of the configuration.
        begin: what stands before the message.
    """
    try:
        yield
    except BrokenPipeError:  # the reader of the output has gone: `python train.py | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        message = explanation(error, config_dir)
        if message is None:
            raise
        sys.exit(f"{begin}: {masked(message)}")


def explanation(error: BaseException, config_dir: str | Path) -> str | None:
    """The message for an error that the user's settings caused, or None for any other."""
    message = _message(error, config_dir)
    return None if message is None else shortened(message, _LONGEST)


def _message(error: BaseException, config_dir: str | Path) -> str | None:
    refused = _refused_override(error, Path(config_dir))
    if refused is not None:
        return refused
    for cause in _chain(error):
        if isinstance(cause, LearningRateError):
            return str(cause)
    if isinstance(error, InstantiationException):
        return _instantiation(error)
    if isinstance(error, OmegaConfBaseException):
        return _unreadable(error)
    if isinstance(error, HydraException):
        missing = next((extra for plugin, extra in _EXTRAS.items() if f"Could not find '{plugin}" in str(error)), None)
        return str(error) + (f"\nIt is part of an extra: {install_extra(missing)}" if missing is not None else "")
    if _is_from_hydra(error) or _is_from_launcher(error):
        return " ".join(str(error).split())
    if isinstance(error, OSError) and error.filename is not None:
        return _describe_file_error(error)
    # Lightning's own check of settings; a monitor that is not logged is a plain RuntimeError.
    is_misconfiguration = type(error).__name__ == "MisconfigurationException" or "conditioned on metric" in str(error)
    return str(error) if is_misconfiguration else None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _instantiation(error: InstantiationException) -> str:
    text = str(error)
    message = str(error.__cause__ or text)
    where = re.search(r"full_key: (\S+)", text)
    target = re.search(r"call to target '([^']+)'", text)
    if target and "unexpected keyword argument" in message:
        message = f"{message}. Its arguments are: {', '.join(_arguments(target[1]))}"
        if any(word.startswith("experiment=") for word in sys.argv):
            message += ". A recipe sets fields of its own groups: leave experiment= out to choose others"
    message = " ".join(message.removesuffix(where[0]).split() if where else message.split())
    return f"{where[1]}: {message}" if where else message


def _unreadable(error: OmegaConfBaseException) -> str:
    """A value that the configuration refers to and does not have: an interpolation, or `???`."""
    key = str(error.full_key or "")
    if isinstance(error, MissingMandatoryValue):
        given = [word.partition("=")[0].lstrip("+") for word in sys.argv[1:] if word.endswith("=???")]
        key = given[0] if len(given) == 1 else key  # the field that was set, not one that refers to it
        return f"{key} must be set: its value is ???. Give it one: {key}=VALUE."
    what = str(error).partition("\n")[0].rstrip(".")
    written = [word for word in sys.argv[1:] if "${" in word]
    where = f"{key}: " if key and key not in what else f"{written[0]}: " if len(written) == 1 and not key else ""
    return f"{where}{what}."


def _arguments(target: str) -> list[str]:
    return [name for name in inspect.signature(get_object(target)).parameters if name not in ("args", "kwargs")]


# --- overrides that Hydra cannot compose -----------------------------------------------------------------------

_COMPOSING = ("config_loader_impl.py", "defaults_list.py", "overrides_parser.py", "overrides_visitor.py")
"""The files of Hydra that read the command line and compose the configuration; no code of ours runs in them."""

_KNOWN = re.compile(r"Could not override '([^'@]+)'|Error merging override [+~]*([^=\s@]+)")


def _refused_override(error: BaseException, config_dir: Path) -> str | None:
    """The message for an override of a field that does not exist: the fields that do."""
    frames = list(_frames(error))
    if isinstance(error, OverrideParseException):
        hint = "Write FIELD=VALUE; quote a value with special characters."
        return f"{error.override}: Hydra cannot read this override. {hint}"
    if not any(Path(frame.f_code.co_filename).name in _COMPOSING for frame in frames):
        return None
    known = _KNOWN.match(str(error)) if isinstance(error, ConfigCompositionException) else None
    if known is None and isinstance(error, HydraException) and not isinstance(error, MissingConfigException):
        return None  # it has a message of its own
    words = (getattr(frame.f_locals.get("override"), "input_line", None) for frame in reversed(frames))
    word = next(filter(None, words), None)
    with _loader(config_dir) as loader:
        message = None if known is not None else _no_option(loader, sys.argv[1:])
        if message is None and isinstance(error, MissingConfigException):
            return None  # a plugin of Hydra that is not installed
        key = next(filter(None, known.groups())) if known else (word or "").lstrip("+~").partition("=")[0]
        if message is None and key:
            message = _no_place(_composed(loader), key)
    if message is None:
        message = f"{word or ' '.join(sys.argv[1:])}: {' '.join(str(error).split())}"
    return message


def _is_from_hydra(error: BaseException) -> bool:
    """Whether Hydra or OmegaConf raised the error, which then is about the configuration."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    home = str(frames[-1].f_globals.get("__name__", "")) if frames else ""
    return home.partition(".")[0] in ("hydra", "omegaconf")


def _is_from_launcher(error: BaseException) -> bool:
    """Whether the error is that a job could not be submitted to the cluster."""
    homes = [str(frame.f_globals.get("__name__", "")).partition(".")[0] for frame in _frames(error)]
    return "submitit" in homes or type(error).__module__.partition(".")[0] == "submitit"


def _describe_file_error(error: OSError) -> str:
    """The file that cannot be used, and the setting that names it."""
    place = os.fspath(error.filename)
    place = place.decode(errors="replace") if isinstance(place, bytes) else str(place)
    words = (word.partition("=") for word in sys.argv[1:])
    setting = next((key for key, _, value in words if value and os.path.abspath(place).startswith(value)), None)
    if setting is None and any(frame.f_code.co_name == "run_job" for frame in _frames(error)):
        setting = "hydra.run.dir"
    prefix = f"{setting.lstrip('+~')}: " if setting else ""
    return f"{prefix}{place}: {error.strerror}. HYDRA_FULL_ERROR=1 shows what needs it."


def _frames(error: BaseException) -> Iterator[FrameType]:
    for cause in _chain(error):
        for frame, _ in traceback.walk_tb(cause.__traceback__):
            yield frame


@contextmanager
def _loader(config_dir: Path) -> Iterator[Any]:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_dir.resolve()), version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


def _composed(loader: Any) -> DictConfig | None:
    """The configuration with only the chosen options; None if that cannot be composed."""
    groups = loader.list_groups("")
    choices = [word for word in sys.argv[1:] if re.fullmatch(r"[\w/]+=[\w/]+", word) and word.split("=")[0] in groups]
    try:
        config: DictConfig = compose("train", choices)
    except Exception:  # the choices are wrong, too
        return None
    return config


def _no_option(loader: Any, words: Sequence[str]) -> str | None:
    """The message for a group whose choice is not one of its options; None if there is no such choice."""
    groups = loader.list_groups("")
    for word in words:
        group, _, option = word.lstrip("+").partition("=")
        group = group.partition("@")[0]
        if group in groups and option not in (options := loader.get_group_options(group)):
            close = difflib.get_close_matches(option, options, 1, cutoff=0.7)
            hint = f" Did you mean {close[0]}?" if close else ""
            return f"{word}: {group} is chosen by the name of an option: {', '.join(options)}.{hint}"
    return None


def _no_place(config: DictConfig | None, key: str) -> str | None:
    """The fields there are in place of one that does not exist; None if the configuration has it."""
    if config is None:
        return None
    node: Any = config
    place, names = "", key.split(".")
    for at, name in enumerate(names):
        if isinstance(node, ListConfig):
            if not re.fullmatch(r"-?\d+", name) or not -len(node) <= int(name) < len(node):
                elements = f"elements 0 to {len(node) - 1}" if len(node) else "no elements"
                return f"{key}: {place} is a list and has {elements}, no {name}. Set the whole list: {place}=[...]."
            node = OmegaConf.select(config, f"{place}.{name}")
        elif isinstance(node, DictConfig):
            if name not in node:
                has = ", ".join(str(field) for field in node if not place or not str(field).startswith("_")) or "none"
                if at < len(names) - 1:
                    missing = f"{place}.{name}" if place else name
                    return f"{key}: there is no {missing}. {f'{place} has' if place else 'Fields are'}: {has}."
                return f"{key}: no such field. {place or 'The configuration'} has: {has}."
            node = OmegaConf.select(config, f"{place}.{name}" if place else name)
        else:
            return f"{key}: {place} is {shown(node)} and has no fields. Set the value itself: {place}=VALUE."
        place = f"{place}.{name}" if place else name
    return None
