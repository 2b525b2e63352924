"""What an error of MLflow means: that it does not accept an entry, or that it cannot accept anything now."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from lr_plugins.errors import shortened
from lr_plugins.tracking.secrets import masked

_LONGEST_REASON = 300  # characters; the cause is often at the end
# Errors about an entry, which MLflow would raise again.
_OF_AN_ENTRY = {
    "INVALID_PARAMETER_VALUE",
    "BAD_REQUEST",
    "MALFORMED_REQUEST",
    "RESOURCE_ALREADY_EXISTS",
    "INVALID_STATE",
}
_MISSING = "RESOURCE_DOES_NOT_EXIST"
_NO_PLACE = (PermissionError, FileNotFoundError, NotADirectoryError, FileExistsError)  # the folder cannot be created
_NEVER_WORKS = re.compile("unable to open database file|file is not a database|readonly database|Invalid url", re.I)
_OF_OTHERS = re.compile(
    "already exists|out-of-date database schema|locked|no such (table|column)|failed with exception"
)


class RefusedError(Exception):
    """MLflow does not accept an entry, and never will."""


class MissingError(RefusedError):
    """What was asked for does not exist."""


class NotMLflowError(Exception):
    """There is an answer, but not from MLflow."""


def asked(call: Callable[[], Any]) -> Any:
    """The result of a call to MLflow.

    Raises:
        RefusedError: MLflow does not accept what it was given, and never will.
        MissingError: what was asked for does not exist.
        Exception: anything else, which may be temporary.
    """
    from mlflow.exceptions import MlflowException

    try:
        return call()
    except MlflowException as error:
        if is_from_mlflow(error) and error.error_code == _MISSING:
            raise MissingError(reason_of(error)) from error
        if is_from_mlflow(error) and error.error_code in _OF_AN_ENTRY:
            raise RefusedError(reason_of(error)) from error
        raise
    except (OverflowError, UnicodeError) as error:  # no database accepts such a number or text
        raise RefusedError(reason_of(error)) from error


def is_from_mlflow(error: Exception) -> bool:
    """Whether an error is MLflow's own, and not derived from an HTTP status, which a proxy may have set."""
    return "API request to " not in str(error).partition("\n")[0]


def is_permanent(error: Exception) -> bool:
    """Whether an error that prevents a run from starting is permanent, so that retrying is pointless."""
    text = str(error)
    if isinstance(error, (RefusedError, ImportError, *_NO_PLACE)) or type(error).__name__ == "InvalidUrlException":
        return True
    if _NEVER_WORKS.search(text) or any(kind.__name__ == "ArgumentError" for kind in type(error).__mro__):
        return True  # ArgumentError is SQLAlchemy's, for an address it cannot parse
    if not type(error).__module__.startswith("mlflow") or type(error).__name__ == "RestException":
        return False  # a database that others may be using, or an answer that may be a proxy's
    passes = getattr(error, "error_code", "") == "TEMPORARILY_UNAVAILABLE" or _OF_OTHERS.search(text)
    return is_from_mlflow(error) and not passes


def is_answer(error: Exception) -> bool:
    """Whether there was an answer, from MLflow or from something in its place."""
    text = str(error)
    if "error responses" in text:  # a server that keeps answering that it is unavailable
        return True
    return (
        isinstance(error, (NotMLflowError, RefusedError)) or "failed with error code" in text or "JSON format" in text
    )


def reason_of(error: BaseException) -> str:
    """The first line of an error's message, without passwords."""
    first = (str(error).strip().splitlines() or [""])[0]
    if "unsupported URI" in first:
        return "a tracking URI begins with http://, https://, sqlite:///, postgresql://, mysql:// or mssql://"
    if first.startswith("The filesystem tracking backend"):
        return "MLflow no longer supports plain folders; use a database such as sqlite:///mlflow.db, or a server"
    return shortened(masked(first), _LONGEST_REASON) or type(error).__name__
