"""States in checkpoints: each has a version, and is validated completely before any of it is used.

A checkpoint may be damaged, edited, of an older version, or from another source. `StateFormat` defines the fields of a
state; reading a state returns its fields, or raises an error that says what is wrong.
"""

from __future__ import annotations

import math
import numbers
import reprlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

from lr_plugins.errors import InvalidArgumentError, TrainingError, described

VERSION = 1
"""The version of the states that this version of lr_plugins writes and reads."""

DEPTH = 100
"""The maximum nesting depth of containers in values from a file."""

Check = Callable[[Any, str], None]
"""A function of a value and its place in the state; raises `WrongStateError` for a wrong value."""

_MOST = 10_000_000  # values in a container, including nested ones
_LARGEST = 2**53  # floats represent all whole numbers up to here
_DAMAGED = "The checkpoint is damaged, or not from lr_plugins: resume from another one, or begin a new run."
_ANEW = (
    "begin a new run from its weights: "
    'module.load_state_dict(torch.load(FILE, weights_only=True)["state_dict"]) before trainer.fit(module)'
)


class WrongStateError(InvalidArgumentError):
    """A wrong part of a state.

    Args:
        where: the part.
        value: its value.
        allowed: the allowed values.
    """

    def __init__(self, where: str, value: object, allowed: str, hint: str = "") -> None:
        shown = value if isinstance(value, str) and type(value) is not str else described(_short(value))
        super().__init__(where, shown, allowed, hint)


class StateFormat:
    """The format of the state of a class.

    Args:
        owner: the name of the class.
        fields: the check of each field.
        optional: the checks of fields that may be missing.
        versioned: whether the state has a version. Default True; False for a state in the form of a torch state.

    Example:
        >>> steps = StateFormat("Counter", {"steps": count})
        >>> state = steps.stamped({"steps": 3})
        >>> state, steps.read(state)
        ({'version': 1, 'steps': 3}, {'steps': 3})
        >>> steps.read({"version": 1, "steps": -3})  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        lr_plugins.checkpoint_state.WrongStateError: steps in the checkpoint's state of Counter must be ...
    """

    def __init__(
        self,
        owner: str,
        fields: Mapping[str, Check],
        optional: Mapping[str, Check] | None = None,
        versioned: bool = True,
    ) -> None:
        self.owner, self.versioned = owner, versioned
        self._check = record(fields, {"version": anything, **(optional or {})})

    def stamped(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """The state with its version, for a checkpoint."""
        return {"version": VERSION, **state}

    def read(self, state: Any, also: Callable[[dict[str, Any]], None] | None = None) -> dict[str, Any]:
        """Check the state in a checkpoint, and return its fields.

        Args:
            state: the state in the checkpoint.
            also: checks that the fields are consistent; raises `WrongStateError`.

        Raises:
            WrongStateError: the state is not valid.
            TrainingError: another version of lr_plugins wrote it.
        """
        try:
            mapping(state, "")
            if self.versioned:
                self._check_version(state)
            self._check(state, "")
            found = {name: value for name, value in state.items() if name != "version"}
            if also is not None:
                also(found)
        except WrongStateError as error:
            whole = f"the checkpoint's state of {self.owner}"
            where = f"{error.field} in {whole}" if error.field else whole
            raise WrongStateError(where, error.value, error.allowed, _DAMAGED) from None
        return found

    def _check_version(self, state: Mapping[str, Any]) -> None:
        if "version" not in state:
            raise TrainingError(
                f"The checkpoint's state of {self.owner} has no version: an older version of lr_plugins wrote it "
                f"(or other code), and this version cannot resume from it. Finish that run with the version that "
                f"began it, or {_ANEW}."
            )
        count(state["version"], "version")
        if state["version"] > VERSION:
            raise TrainingError(
                f"The checkpoint's state of {self.owner} is of version {state['version']}, and this version of "
                f"lr_plugins reads version {VERSION}: a newer one wrote it. Update lr_plugins, or {_ANEW}."
            )
        if state["version"] < VERSION:
            raise WrongStateError("version", state["version"], f"{VERSION}")

    def as_part(self, value: Any, where: str) -> None:
        """Check a state within another one."""
        self.read(value)


class ChecksState:
    """Checks the state of a callback before the state of any callback is loaded. List it before Lightning's base."""

    state_format: StateFormat
    state_key: str

    def check_state_dict(self, state_dict: Any) -> dict[str, Any]:
        """Check a state and return its fields.

        Raises:
            LearningRateError: the state cannot be loaded.
        """
        return self.state_format.read(state_dict)

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint whose state of this callback cannot be loaded."""
        states = checkpoint.get("callbacks")
        state = states.get(self.state_key) if isinstance(states, Mapping) else None
        if state:  # Lightning does not load an empty one
            self.check_state_dict(state)


class KeepsState(ChecksState):
    """Keeps the state from a checkpoint until training starts.

    Lightning loads the state of callbacks early in a fit, and also for a test or a validation, which resume nothing.
    """

    _restored: dict[str, Any] | None = None

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Discard the state of a checkpoint that was only tested; that of this fit is loaded later."""
        self._restored = None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep a checkpoint's state until training starts."""
        self._restored = self.check_state_dict(state_dict)

    def take_restored(self) -> dict[str, Any] | None:
        """Return the fields of the kept state, and discard it; None if no state was loaded."""
        restored, self._restored = self._restored, None
        return restored


# --- kinds of values ------------------------------------------------------------------------------------------


def anything(value: Any, where: str) -> None:
    """No check."""


def count(value: Any, where: str) -> None:
    """A whole number >= 0."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _LARGEST:
        raise WrongStateError(where, value, "a whole number >= 0")


def real(value: Any, where: str) -> None:
    """A number, including NaN and infinity."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or _is_huge(value):
        raise WrongStateError(where, value, "a number")


def finite(value: Any, where: str) -> None:
    """A finite number >= 0."""
    real(value, where)
    if not (math.isfinite(value) and value >= 0):
        raise WrongStateError(where, value, "a finite number >= 0")


def positive(value: Any, where: str) -> None:
    """A finite number > 0."""
    finite(value, where)
    if value == 0:
        raise WrongStateError(where, value, "a finite number > 0")


def number_or_name(value: Any, where: str) -> None:
    """A number, or the name of a number that strict JSON lacks: nan, inf, -inf."""
    if not (isinstance(value, str) and value in ("nan", "inf", "-inf")):
        real(value, where)


def text(value: Any, where: str) -> None:
    """A string."""
    if not isinstance(value, str):
        raise WrongStateError(where, value, "a text")


def flag(value: Any, where: str) -> None:
    """True or false."""
    if not isinstance(value, bool):
        raise WrongStateError(where, value, "true or false")


def mapping(value: Any, where: str) -> None:
    """A dictionary with string keys."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise WrongStateError(where, value, "a dictionary with texts as keys")


def plain(value: Any, where: str) -> None:
    """Numbers, strings, None, and lists and dictionaries of them, with limited nesting."""
    if not is_plain(value):
        raise WrongStateError(where, described(type(value).__name__), f"plain values, nested at most {DEPTH} deep")


def optional(check: Check) -> Check:
    """None, or a value that another check accepts."""

    def checked(value: Any, where: str) -> None:
        if value is not None:
            check(value, where)

    return checked


def one_of(*choices: Any) -> Check:
    """One of some values."""

    def checked(value: Any, where: str) -> None:
        if not any(type(value) is type(one) and value == one for one in choices):
            raise WrongStateError(where, value, f"one of {', '.join(map(repr, choices))}")

    return checked


def list_of(check: Check, length: int | None = None) -> Check:
    """A list whose elements pass a check."""

    def checked(value: Any, where: str) -> None:
        if not isinstance(value, (list, tuple)):
            raise WrongStateError(where, value, "a list")
        if length is not None and len(value) != length:
            raise WrongStateError(where, described(f"one of {len(value)}"), f"a list of {length}")
        for index, one in enumerate(value):
            check(one, f"{where}[{index}]")

    return checked


def row(*checks: Check) -> Check:
    """A list with a check for each element."""
    whole = list_of(anything, len(checks))

    def checked(value: Any, where: str) -> None:
        whole(value, where)
        for index, (one, check) in enumerate(zip(value, checks, strict=True)):
            check(one, f"{where}[{index}]")

    return checked


def dict_of(check: Check, keys: Check = text) -> Check:
    """A dictionary whose keys and values pass a check each."""

    def checked(value: Any, where: str) -> None:
        if not isinstance(value, Mapping):
            raise WrongStateError(where, value, "a dictionary")
        for key, one in value.items():
            keys(key, f"a key of {where}")
            check(one, f"{where}[{_short(key)}]")

    return checked


def record(fields: Mapping[str, Check], extra: Mapping[str, Check] | None = None, others: bool = False) -> Check:
    """A dictionary with all of `fields`, any of `extra`, and other fields only if `others` is true."""
    known = {**fields, **(extra or {})}

    def checked(value: Any, where: str) -> None:
        mapping(value, where)
        missing, unknown = sorted(set(fields) - set(value)), [] if others else sorted(set(value) - set(known))
        if missing:
            found = f"one without {', '.join(missing)}"
            raise WrongStateError(where, described(found), f"a dictionary with all of {', '.join(fields)}")
        if unknown:
            names = ", ".join(map(_short, unknown[:5])) + ("" if len(unknown) <= 5 else ", ...")
            raise WrongStateError(
                where, described(f"one with {names}"), f"a dictionary with none but {', '.join(known)}"
            )
        for name, one in value.items():
            known.get(name, anything)(one, f"{where}.{name}" if where else name)

    return checked


def tensor(dtype: str | None = None, dimensions: int | None = None) -> Check:
    """A dense tensor, optionally of a dtype such as `"float64"` and with a number of dimensions."""

    def checked(value: Any, where: str) -> None:
        import torch

        kind = f"a tensor of {dtype}" if dtype else "a tensor"
        if not isinstance(value, torch.Tensor) or value.layout is not torch.strided:
            raise WrongStateError(where, value, kind)
        if dtype is not None and value.dtype is not getattr(torch, dtype):
            raise WrongStateError(where, described(f"one of {value.dtype}"), kind)
        if dimensions is not None and value.dim() != dimensions:
            raise WrongStateError(
                where, described(f"the shape {tuple(value.shape)}"), f"{kind} of {dimensions} dimensions"
            )

    return checked


def is_plain(value: Any, objects: bool = False) -> bool:
    """Whether a value is a number, a string or None, or a list or dictionary of these, nested at most `DEPTH` deep.

    A value with more than ten million parts is not plain either.

    Args:
        value: the value.
        objects: whether other objects are allowed, so that only depth and size are checked. Default False.

    Example:
        >>> is_plain({"a": [1, 2.5, None, "b"]}), is_plain({"a": len}), is_plain({"a": len}, objects=True)
        (True, False, True)
    """
    pending, met = [(value, 0)], 0
    while pending:
        one, depth = pending.pop()
        if isinstance(one, (Mapping, list, tuple)):
            met += 1 + len(one)  # a container that occurs several times counts each time
            if depth >= DEPTH or met > _MOST:
                return False
            if isinstance(one, Mapping):
                if not (objects or all(isinstance(key, (str, int)) for key in one)):
                    return False
                pending += [(part, depth + 1) for part in one.values()]
            else:
                pending += [(part, depth + 1) for part in one]
        elif not (objects or one is None or isinstance(one, (bool, int, float, str))):
            return False
    return True


def same_lengths(fields: Mapping[str, Collection[Any]], names: Collection[str], length: int) -> None:
    """Refuse lists that are neither empty nor of the given length.

    Raises:
        WrongStateError: a list has another length.
    """
    for name in set(names) & set(fields):
        if len(fields[name]) not in (0, length):
            raise WrongStateError(name, described(f"one of {len(fields[name])}"), f"a list of {length}")


def _is_huge(value: Any) -> bool:
    try:
        float(value)
    except (OverflowError, TypeError, ValueError):
        return True
    return False


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60
_SHORT.maxlevel = _SHORT.maxdict = _SHORT.maxlist = _SHORT.maxtuple = 3


def _short(value: object) -> str:
    """The repr of a value, on one line and shortened."""
    shown = " ".join(_SHORT.repr(value).split())
    return shown if len(shown) <= 200 else f"{shown[:200]}..."
