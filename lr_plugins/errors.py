"""The errors of this package: one clear message with the field, the value received and what is allowed."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

SET_LENGTH = (
    "set max_steps on the Trainer (without a Trainer: pass RunLength.of(steps=...), or "
    "RunLength.of(steps_per_epoch=..., epochs=...))"
)
"""What to do where the length of the run is needed and unknown, as a part of a sentence."""


_LONGEST = 1000  # characters of a value in a message


class LearningRateError(Exception):
    """Base of every error raised on purpose here, so that an application can show it without a traceback."""


class InvalidArgument(LearningRateError, ValueError):
    """A setting that cannot work.

    Args:
        field: the dotted name the user knows the setting by, e.g. `"StepDecay.drop"`.
        value: what was received.
        allowed: what is allowed, as the end of the sentence "<field> must be ...".
        hint: what to do about it, a sentence of its own.

    Example:
        >>> print(InvalidArgument("StepDecay.drop", -1, "a number > 0", "0.5 halves the learning rate."))
        StepDecay.drop must be a number > 0; got -1. 0.5 halves the learning rate.
    """

    def __init__(self, field: str, value: object, allowed: str, hint: str = "") -> None:
        self.field, self.value, self.allowed, self.hint = field, value, allowed, hint
        super().__init__(f"{field} must be {allowed}; got {_shown(value)}.{' ' if hint else ''}{hint}")

    def __reduce__(self) -> tuple[Any, ...]:
        """By its parts, for it may come from another process; of a value that cannot, what it looks like."""
        value = (
            self.value if isinstance(self.value, (str, int, float, bool, type(None))) else described(_shown(self.value))
        )
        return type(self), (self.field, value, self.allowed, self.hint)


def _shown(value: object) -> str:
    try:
        shown = repr(value)
    except RecursionError:
        return f"a {type(value).__name__} that is nested too deeply"
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}..."


class _Looks(str):
    """What a value looks like, in its place."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def described(words: str) -> str:
    """Words that stand in a message for a value that cannot be shown.

    Example:
        >>> print(InvalidArgument("settings.json", described("a folder"), "a file"))
        settings.json must be a file; got a folder.
    """
    return _Looks(words)


class MissingExtra(LearningRateError, ImportError):
    """A package is not installed that only some features need; the message names the extra that brings it."""


def require(module: str, extra: str, needed_by: str) -> None:
    """Stop where a package is not installed, before its import would.

    Args:
        module: the package's name in `import`.
        extra: the extra of lr-plugins that brings it (`pyproject.toml`).
        needed_by: what cannot be done without it, the begin of a sentence.

    Raises:
        MissingExtra: it is not installed.

    Example:
        >>> require("json", "plot", "The picture")
        >>> require("no_such_package", "plot", "The picture")
        Traceback (most recent call last):
        ...
        lr_plugins.errors.MissingExtra: The picture needs no_such_package: pip install "lr-plugins[plot]"
    """
    if find_spec(module) is None:
        raise MissingExtra(f"{needed_by} needs {module}: {install(extra)}", name=module)


def install(extra: str) -> str:
    """The command that brings an extra."""
    return f'pip install "lr-plugins[{extra}]"'


class TrainingError(LearningRateError, RuntimeError):
    """Something met during training that makes the next learning rate unknowable, e.g. a loss that is NaN."""


class TrackingError(LearningRateError, RuntimeError):
    """MLflow cannot be used as it was asked to be, e.g. a database that is none."""
