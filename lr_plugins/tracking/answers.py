"""What an error of MLflow means: that it does not take this entry, or that it cannot take anything now."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lr_plugins.tracking.secrets import masked

_LONGEST_REASON = 200  # characters
# What MLflow says of an entry, and would say again.
_OF_AN_ENTRY = {
    "INVALID_PARAMETER_VALUE",
    "BAD_REQUEST",
    "MALFORMED_REQUEST",
    "RESOURCE_ALREADY_EXISTS",
    "INVALID_STATE",
}
_MISSING = "RESOURCE_DOES_NOT_EXIST"


class Refused(Exception):
    """MLflow does not take an entry, and would not take it again."""


class Missing(Refused):
    """What is asked for is not there."""


class NotMLflow(Exception):
    """There is an answer, and it is not one of MLflow."""


def asked(call: Callable[[], Any]) -> Any:
    """The result of a call to MLflow.

    Raises:
        Refused: MLflow does not take what it was given, and would not take it again.
        Missing: what is asked for is not there.
        Exception: whatever else happened; it may pass.
    """
    from mlflow.exceptions import MlflowException

    try:
        return call()
    except MlflowException as error:
        if is_word_of_mlflow(error) and error.error_code == _MISSING:
            raise Missing(reason_of(error)) from error
        if is_word_of_mlflow(error) and error.error_code in _OF_AN_ENTRY:
            raise Refused(reason_of(error)) from error
        raise
    except (OverflowError, UnicodeError) as error:  # no database takes such a number or text
        raise Refused(reason_of(error)) from error


def is_word_of_mlflow(error: Exception) -> bool:
    """Whether an error is MLflow's own, and not made from the status of an answer, which a proxy may have given."""
    return "API request to " not in str(error).partition("\n")[0]


def is_answer(error: Exception) -> bool:
    """Whether there was an answer: MLflow's or that of whatever stands in its place."""
    text = str(error)
    return isinstance(error, (NotMLflow, Refused)) or "failed with error code" in text or "JSON format" in text


def reason_of(error: BaseException) -> str:
    """The first line of what an error says, without passwords."""
    first = (str(error).strip().splitlines() or [""])[0]
    return masked(first)[:_LONGEST_REASON] or type(error).__name__
