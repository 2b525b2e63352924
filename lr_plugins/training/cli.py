"""The command line: Hydra's, with errors told in a sentence instead of a traceback."""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException, HydraException, InstantiationException
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lr_plugins.errors import LearningRateError
from lr_plugins.tracking.secrets import masked
from lr_plugins.training import sweep
from lr_plugins.training.credentials import hide
from lr_plugins.training.resume import continued


def explained(main: Callable[[], Any], config_dir: str | Path) -> None:
    """Run a Hydra main; tell a user's error in one message on stderr and exit with status 1.

    Other errors keep their traceback, and all of them do with HYDRA_FULL_ERROR=1. Ctrl-C exits with 130.

    Args:
        main: the function that `hydra.main` made.
        config_dir: the folder of its configuration.
    """
    words = sys.argv
    if os.environ.get("HYDRA_FULL_ERROR"):
        sys.argv = [words[0], *continued(hide(words[1:]))]
        main()
        return
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands exceptions on instead of printing and exiting itself
    try:
        sys.argv = [words[0], *continued(hide(words[1:]))]  # Hydra reads them there
        main()
    except KeyboardInterrupt as interruption:
        sweep.interrupted = True
        sys.last_value = interruption  # as where it ends a program by itself: what ends at exit looks there
        sys.exit(130)
    except BrokenPipeError:
        end_unread()
    except Exception as error:
        message = explanation(error, config_dir)
        if message is None:
            raise
        sys.exit(f"\nError: {masked(message)}")
    finally:
        sys.argv = words
        del os.environ["HYDRA_FULL_ERROR"]


def end_unread() -> NoReturn:
    """End where whoever read our output has left: `python train.py | head`."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(141)


def explanation(error: BaseException, config_dir: str | Path) -> str | None:
    """The message for an error that the user's settings caused, or None for any other."""
    unknown = _unknown_field(error, Path(config_dir))
    if unknown is not None:
        return unknown
    for cause in _chain(error):
        if isinstance(cause, LearningRateError):
            return str(cause)
    if isinstance(error, InstantiationException):
        return _instantiation(error)
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        lacks_launcher = "Could not find 'hydra/launcher/" in str(error)
        return str(error) + ('\nIt is part of an extra: pip install -e ".[train,slurm]"' if lacks_launcher else "")
    # Lightning's own judgement of settings; of a monitor that is not logged it tells by a plain RuntimeError.
    lightnings = type(error).__name__ == "MisconfigurationException" or "conditioned on metric" in str(error)
    return str(error) if lightnings else None


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
        message = f"{message}. It takes: {', '.join(_arguments(target[1]))}"
        if any(word.startswith("experiment=") for word in sys.argv):
            message += ". A recipe sets fields of its own groups: leave experiment= out to choose others"
    return f"{where[1]}: {message}" if where else message


def _arguments(target: str) -> list[str]:
    return [name for name in inspect.signature(get_object(target)).parameters if name not in ("args", "kwargs")]


def _unknown_field(error: BaseException, config_dir: Path) -> str | None:
    """For a field that the configuration does not have: the fields it has in that place."""
    found = (
        re.match(r"Could not override '([^']+)'", str(error)) if isinstance(error, ConfigCompositionException) else None
    )
    if found is None:
        return None
    parent = found[1].rpartition(".")[0]
    choices = [word for word in sys.argv[1:] if re.fullmatch(r"[\w/]+=[\w/]+", word)]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_dir.resolve()), version_base="1.3"):
        groups = GlobalHydra.instance().config_loader().list_groups("")
        config = compose("train", [word for word in choices if word.split("=")[0] in groups])
    node = OmegaConf.select(config, parent) if parent else config
    if not isinstance(node, DictConfig):
        return f"{found[1]}: there is no {parent}. Fields are: {', '.join(map(str, config))}."
    names = ", ".join(str(name) for name in node if not str(name).startswith("_")) or "none"
    return f"{found[1]}: no such field. {parent or 'The configuration'} has: {names}."
