"""The errors of this package: one clear message with the field, the value received and what is allowed."""

from __future__ import annotations

import reprlib
from importlib.util import find_spec
from typing import Any

SET_LENGTH = (
    "set max_steps on the Trainer (without a Trainer: pass RunLength.of(steps=...), or "
    "RunLength.of(steps_per_epoch=..., epochs=...))"
)
"""What to do where the length of the run is required but unknown, as a part of a sentence."""


_LONGEST_VALUE, _LONGEST_MESSAGE = 300, 2000
"""Characters of a value within a message, and of a message."""


class _Shortened(reprlib.Repr):
    """The representation of a large collection: its first elements."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 3
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = self.maxfrozenset = self.maxdeque = (
            self.maxarray
        ) = 6
        self.maxstring = self.maxlong = self.maxother = 60


_SHORTENED = _Shortened()
_COLLECTIONS = list, tuple, dict, set, frozenset


def shown(value: object) -> str:
    """A value as it stands in a message: its representation, on one line and shortened where it is long.

    Args:
        value: any object; one whose own representation fails is named by its type.

    Example:
        >>> shown([1, "5%"]), len(shown("x" * 10**6))
        ("[1, '5%']", 300)
        >>> shown(list(range(100_000)))
        '[0, 1, 2, 3, 4, 5, ...] (100,000 elements)'
    """
    try:
        if isinstance(value, _COLLECTIONS) and len(value) > _LONGEST_VALUE // 3:
            text = f"{_SHORTENED.repr(value)} ({len(value):,} elements)"
        else:
            text = repr(value)
        return shortened(" ".join(text.split()) if "\n" in text else text, _LONGEST_VALUE)
    except Exception:  # its own representation fails: an integer of 10,000 digits, an object that is not built yet
        return f"an object of type {type(value).__name__}"


def shortened(text: str, most: int) -> str:
    """A text of at most `most` characters: what is too long loses its middle.

    Example:
        >>> shortened("a schedule", 100), shortened("0123456789" * 9, 20)
        ('a schedule', '012345678 ... 456789')
    """
    if len(text) <= most:
        return text
    last = most * 3 // 10
    return f"{text[: most - last - 5]} ... {text[-last:]}"


class LearningRateError(Exception):
    """Base of every error of this package, so that an application can show it without a traceback.

    A message of more than 2,000 characters loses its middle.
    """

    def __init__(self, *args: object, **options: Any) -> None:
        super().__init__(
            *(shortened(arg, _LONGEST_MESSAGE) if isinstance(arg, str) else arg for arg in args), **options
        )


class InvalidArgumentError(LearningRateError, ValueError):
    """A setting that cannot work.

    Args:
        field: the dotted name the user knows the setting by, e.g. `"StepDecay.drop"`.
        value: what was received.
        allowed: what is allowed, as the end of the sentence "<field> must be ...".
        hint: what to do about it, a sentence of its own.

    Example:
        >>> print(InvalidArgumentError("StepDecay.drop", -1, "a number > 0", "0.5 halves the learning rate."))
        StepDecay.drop must be a number > 0; got -1. 0.5 halves the learning rate.
    """

    def __init__(self, field: str, value: object, allowed: str, hint: str = "") -> None:
        self.field, self.value, self.allowed, self.hint = field, value, allowed, hint
        super().__init__(f"{field} must be {allowed}; got {shown(value)}.{' ' if hint else ''}{hint}")

    def __reduce__(self) -> tuple[Any, ...]:
        """By its parts, for it may come from another process; of a value that cannot, what it looks like."""
        value = (
            self.value if isinstance(self.value, (str, int, float, bool, type(None))) else described(shown(self.value))
        )
        return type(self), (self.field, value, self.allowed, self.hint)


class _Description(str):
    """A description in place of a value."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def described(words: str) -> str:
    """A description that stands in a message for a value that cannot be shown.

    Example:
        >>> print(InvalidArgumentError("settings.json", described("a folder"), "a file"))
        settings.json must be a file; got a folder.
    """
    return _Description(words)


class RenamedError(LearningRateError, TypeError):
    """An argument or method was given by the name of an earlier version; the message gives the current one."""


class RenamedNameError(LearningRateError, ImportError):
    """A class, function or module of an earlier version has another name now; the message gives it."""


class PositionalArgumentError(LearningRateError, TypeError):
    """An argument was given by position that is taken by keyword only; the message says how to write the call."""


class UnsupportedError(LearningRateError, ValueError):
    """Two things that do not work together; the message says which, and what to do instead."""


class MissingExtraError(LearningRateError, ImportError):
    """A package is not installed that only some features need; the message names the extra that brings it."""


def require(module: str, extra: str, needed_by: str) -> None:
    """Raise an error that names the extra to install, if an optional package is missing.

    Args:
        module: the package's name in `import`.
        extra: the extra of lr-plugins that brings it (`pyproject.toml`).
        needed_by: what cannot be done without it, the start of a sentence.

    Raises:
        MissingExtraError: it is not installed.

    Example:
        >>> require("json", "plot", "The picture")
        >>> require("no_such_package", "plot", "The picture")
        Traceback (most recent call last):
        ...
        lr_plugins.errors.MissingExtraError: The picture needs no_such_package: pip install "lr-plugins[plot]"
    """
    if find_spec(module) is None:
        raise MissingExtraError(f"{needed_by} needs {module}: {install(extra)}", name=module)


def install(extra: str) -> str:
    """The command that brings an extra."""
    return f'pip install "lr-plugins[{extra}]"'


class TrainingError(LearningRateError, RuntimeError):
    """The next learning rate cannot be computed during training, e.g. because a loss is NaN."""


class ImpossibleValueError(TrainingError):
    """What a schedule gives is not a finite number >= 0.

    Args:
        name: what the value is meant for: `"learning rate"`, `"momentum"`.
        allowed: what is allowed, as the end of the sentence "the <name> must be ...".
        value: what the schedule gives, as a text.
        when: when it does: `"at step 400"`.
        schedule: the schedule, as a text.

    Example:
        >>> print(ImpossibleValueError("learning rate", "a finite number >= 0", "inf", "at step 9", "StepDecay(...)"))
        the learning rate must be a finite number >= 0; the schedule gives inf at step 9: StepDecay(...)
    """

    def __init__(self, name: str, allowed: str, value: str, when: str, schedule: str) -> None:
        self.parts = name, allowed, value, when, schedule
        super().__init__(f"the {name} must be {allowed}; the schedule gives {value} {when}: {schedule}")

    def meant_for(self, name: str, allowed: str) -> ImpossibleValueError:
        """The same, of another hyper-parameter."""
        return ImpossibleValueError(name, allowed, *self.parts[2:])

    def __reduce__(self) -> tuple[Any, ...]:
        """By its parts, for it may come from another process."""
        return type(self), self.parts


class TrackingError(LearningRateError, RuntimeError):
    """MLflow cannot be used as configured, e.g. because a file is not a database."""


EARLIER_NAMES = {
    "ImpossibleValue": "ImpossibleValueError",
    "InvalidArgument": "InvalidArgumentError",
    "MissingExtra": "MissingExtraError",
}
"""Names of earlier versions, and the current ones; `lr_plugins.renamed` has those of other modules."""


def __getattr__(name: str) -> Any:
    if name in EARLIER_NAMES:
        raise RenamedNameError(f"{__name__}.{name} is now called {__name__}.{EARLIER_NAMES[name]}.")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
