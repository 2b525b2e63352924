"""MLflow's client, as `MLflowLogger.experiment` gives it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from lr_plugins.tracking.secrets import masked


def nothing(*_: Any, **__: Any) -> None:
    """Do nothing, whatever is given."""


class SilentClient:
    """Does nothing, whatever is asked."""

    def __getattr__(self, name: str) -> Any:
        return nothing


class RunClient:
    """MLflow's client of a run, made when it is first used, because importing MLflow takes a second or two.

    Args:
        connect: returns MLflow's client.
    """

    def __init__(self, connect: Callable[[], Any]) -> None:
        self._connect = connect

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._connect(), name)
        return _masking(attribute) if callable(attribute) else attribute


def _masking(call: Callable[..., Any]) -> Callable[..., Any]:
    """A call whose errors do not show the password of the server's address."""

    @functools.wraps(call)
    def masking(*args: Any, **kwargs: Any) -> Any:
        from mlflow.exceptions import MlflowException

        try:
            return call(*args, **kwargs)
        except MlflowException as error:
            if masked(str(error)) == str(error):
                raise
            raise MlflowException(masked(str(error))) from None

    return masking
