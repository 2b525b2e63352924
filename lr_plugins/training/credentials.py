"""Passwords on the command line and in the configuration: used, but never written to a file.

Hydra writes the command line and the configuration to files before the job starts. So passwords are removed from the
command line before Hydra sees it, and passed on in the environment, which the processes of launchers inherit.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lr_plugins.errors import InvalidArgumentError
from lr_plugins.tracking.secrets import MASK, PASSWORD, USERNAME, connectable, masked
from lr_plugins.training.settings import key_of, masked_overrides, quoted

HIDDEN = "LR_PLUGINS_HIDDEN"  # JSON: texts with passwords, by their masked form
_TRACKING_URI = "logger.tracking_uri"


def hide(words: Sequence[str]) -> list[str]:
    """A command line without its passwords, which go into the environment.

    User name and password of a server in `logger.tracking_uri` become `MLFLOW_TRACKING_USERNAME` and
    `MLFLOW_TRACKING_PASSWORD`, unless the environment has them already; any other
    `scheme://user:password@host` keeps the user's name, and `revealed` restores the password.

    Args:
        words: the command line, without the program.

    Raises:
        InvalidArgumentError: the same address is given with two passwords.
    """
    return [word if word.startswith("-") or masked_overrides(word) == word else _hidden(word) for word in words]


def revealed(config: DictConfig) -> DictConfig:
    """The configuration with the passwords that `hide` removed, for building objects; never to be written."""
    hidden = _read_hidden()
    if not hidden:
        return config
    plain = _each_text(OmegaConf.to_container(config, resolve=False), lambda text: hidden.get(text, text))
    full: DictConfig = OmegaConf.create(plain)
    OmegaConf.set_struct(full, True)
    return full


def revealed_text(text: str | None) -> str | None:
    """The same for a single string, e.g. an address."""
    return text if text is None else _read_hidden().get(text, text)


def without_passwords(value: Any) -> Any:
    """Plain values with `***` in place of passwords."""
    return _each_text(value, masked)


def check_tracking_uri(uri: object) -> None:
    """Reject an address that was copied with its password masked.

    Raises:
        InvalidArgumentError: the address has a masked password.
    """
    if isinstance(uri, str) and f":{MASK}@" in uri:
        hint = f"Or leave it out, and set {USERNAME} and {PASSWORD}, or MLFLOW_TRACKING_URI, in the environment."
        raise InvalidArgumentError(_TRACKING_URI, uri, f"an address with its password in place of {MASK}", hint)


def mask_files(files: Iterable[Path]) -> None:
    """Mask the passwords in files that Hydra has written, e.g. those of a configuration file.

    Args:
        files: the files; missing ones are skipped.
    """
    for file in files:
        if file.is_symlink() or not file.is_file():
            continue
        text = file.read_text(encoding="utf-8")
        if masked_overrides(text) != text:
            part = file.with_name(f"{file.name}.{os.getpid()}.part")  # the jobs of a sweep share one
            part.write_text(masked_overrides(text), encoding="utf-8")
            part.replace(file)


def _hidden(word: str) -> str:
    values = list(_texts(word))
    if key_of(word) == _TRACKING_URI and len(values) == 1:
        plain = connectable(values[0])
        if plain != values[0]:
            print(
                f"The password in {_TRACKING_URI} is not written to any file: it is passed on as {PASSWORD}.",
                flush=True,
            )
            return f"{word.partition('=')[0]}={quoted(plain)}"
    hidden = _read_hidden()
    for text in values:
        if hidden.setdefault(masked(text), text) != text:
            raise InvalidArgumentError(key_of(word), masked(text), "an address that is used with one password only")
    if hidden:
        os.environ[HIDDEN] = json.dumps(hidden)
    return masked_overrides(word)


def _texts(word: str) -> Iterator[str]:
    """The strings with a password in the value of an override."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import ChoiceSweep
    from hydra.errors import HydraException

    try:
        override = OverridesParser.create().parse_override(word)
        value = override.value()
    except (HydraException, RecursionError, ValueError):  # Hydra reports it, with the password masked
        return
    choices = list(override.sweep_iterator()) if isinstance(value, ChoiceSweep) else [value]
    texts: list[str] = []

    def collect(text: str) -> str:
        texts.append(text)
        return text

    _each_text(choices, collect)
    yield from (text for text in texts if masked(text) != text)


def _each_text(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, dict):
        return {key: _each_text(item, change) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_each_text(item, change) for item in value]
    return change(value) if isinstance(value, str) else value


def _read_hidden() -> dict[str, str]:
    try:
        hidden = json.loads(os.environ.get(HIDDEN, "{}"))
    except ValueError:
        return {}
    return hidden if isinstance(hidden, dict) else {}
